//! One device file.

use serde::{Deserialize, Serialize};
use walk::MemoryType;
use wire::OpenMode;

use crate::access::Access;
use crate::errno::Errno;
use crate::rules::Refusal;
use crate::vma::VmaFlags;

/// What one device file promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContract {
    /// Name for people, such as `lazy/odd`.
    pub name: String,
    /// How the driver maps it, in a word, for reports.
    pub strategy: String,
    /// Its path in the guest.
    pub path: String,
    /// What can be mapped; no two ranges have an offset in common.
    pub ranges: Vec<RangeContract>,
    /// With which error open(2) refuses to open it for writing, if it does.
    #[serde(default)]
    pub refuses_writers: Option<Errno>,
    /// The checks of its mmap, in their order: the first that holds decides. What
    /// none of them refuses must be granted.
    pub refusals: Vec<Refusal>,
    /// Whether `MAP_PRIVATE` is granted: pages of the device until they are stored
    /// to, copies from then on. If not, a refusal must speak of it.
    pub copy_on_write: bool,
    /// How mremap(2) refuses to make a mapping longer.
    pub growth: Errno,
    /// With which error whatever would split a mapping is refused, if it is.
    #[serde(default)]
    pub refuses_split: Option<Errno>,
    /// What the kernel has noted of each mapping.
    #[serde(default)]
    pub vma: VmaFlags,
    /// What a forked child has of a mapping.
    pub fork: Fork,
}

/// Pages of the device that a file shows one after another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeContract {
    /// Where in the file.
    pub offset: Offset,
    /// Number of 4 KiB pages.
    pub npages: u64,
    /// What they show.
    pub backing: Backing,
    /// The most that user space may do with them.
    pub access: Access,
    /// Memory type that the guest's tables ask for.
    #[serde(with = "crate::memory_type")]
    pub memory_type: MemoryType,
    /// From when on they are mapped.
    pub present: When,
}

/// Offsets of mmap(2) at which a range is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offset {
    /// From this page of the file on.
    Page(u64),
    /// Whatever the offset: every mapping shows the range from its first page on.
    Any,
}

/// What a range of a file shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Pages of a window of the device.
    Window {
        /// The window's name.
        name: String,
        /// Its page that the range begins with.
        first_page: u64,
    },
    /// Pages of a buffer: RAM that the driver has told the device of.
    Buffer {
        /// The buffer's name.
        name: String,
        /// Its page that the range begins with.
        first_page: u64,
    },
}

/// From when on the pages of a mapping are in the guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// All of them when mmap(2) returns.
    AtMmap,
    /// Each from the first access to it on, and none before.
    OnTouch,
    /// As `OnTouch`, but with the whole 2 MiB around it where these are aligned to
    /// 2 MiB both in the process and in the device, and all in the mapping.
    OnTouchHuge,
    /// As `OnTouch`, but with its neighbours: those pages of the mapping and of the range
    /// that share a naturally aligned stretch of so many pages of the process with it. A
    /// power of two, up to 512.
    OnTouchAround(u64),
}

/// What a forked child has of its parent's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fork {
    /// The mapping, and in its tables the pages that the parent's have.
    Pages,
    /// The mapping, each page from the first access to it on.
    OnTouch,
    /// Nothing.
    Nothing,
}

/// A page of a file as a mapping shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The range that it belongs to.
    pub range: &'a RangeContract,
    /// Its number in the range.
    pub page: u64,
}

impl RangeContract {
    /// The page of the file at which it is asked for.
    pub const fn first_page(&self) -> u64 {
        match self.offset {
            Offset::Page(first) => first,
            Offset::Any => 0,
        }
    }
}

impl RangeContract {
    /// Takes its first `npages` away; `false` when nothing would be left.
    fn advance(&mut self, npages: u64) -> bool {
        let (Backing::Window { first_page, .. } | Backing::Buffer { first_page, .. }) =
            &mut self.backing;
        *first_page = first_page.saturating_add(npages);
        self.npages = self.npages.saturating_sub(npages);
        self.npages > 0
    }
}

impl FileContract {
    /// How it is opened for everything that it may be used for.
    pub const fn widest_mode(&self) -> OpenMode {
        match self.refuses_writers {
            Some(_) => OpenMode::ReadOnly,
            None => OpenMode::ReadWrite,
        }
    }

    /// Whether it shows one page or another depends on nothing but the page's place in
    /// its mapping.
    pub fn ignores_offsets(&self) -> bool {
        self.ranges.iter().any(|range| range.offset == Offset::Any)
    }

    /// What is promised of the pages from `page` on of a mapping that has them still: where
    /// offsets are ignored, a piece shows its pages by where the whole began.
    #[must_use]
    pub fn from_page_of_mapping(&self, page: u64) -> Self {
        let mut file = self.clone();
        file.ranges
            .retain_mut(|range| range.offset != Offset::Any || range.advance(page));
        file
    }

    /// What page `page` of a mapping shows that begins at page `first_page` of the
    /// file; `None` where the file has nothing.
    pub fn shown(&self, first_page: u64, page: u64) -> Option<Shown<'_>> {
        let in_range = |range: &RangeContract| match range.offset {
            Offset::Any => Some(page),
            Offset::Page(first) => first_page.checked_add(page)?.checked_sub(first),
        };
        self.ranges.iter().find_map(|range| {
            let page = in_range(range).filter(|page| *page < range.npages)?;
            Some(Shown { range, page })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: Offset, npages: u64, first_page: u64) -> RangeContract {
        RangeContract {
            offset,
            npages,
            backing: Backing::Window {
                name: "odd".into(),
                first_page,
            },
            access: Access::READ,
            memory_type: MemoryType::UncachedMinus,
            present: When::AtMmap,
        }
    }

    fn file(ranges: Vec<RangeContract>) -> FileContract {
        FileContract {
            name: "a".into(),
            strategy: "eager".into(),
            path: "/dev/a".into(),
            ranges,
            refusals: Vec::new(),
            copy_on_write: false,
            refuses_writers: None,
            growth: Errno::EFAULT,
            refuses_split: None,
            vma: VmaFlags::default(),
            fork: Fork::Pages,
        }
    }

    #[test]
    fn a_page_is_counted_from_its_ranges_start() {
        let file = file(vec![
            range(Offset::Page(2), 3, 0),
            range(Offset::Page(8), 1, 7),
        ]);
        let page = |first, page| file.shown(first, page).map(|shown| shown.page);
        assert_eq!(page(0, 1), None);
        assert_eq!(page(2, 0), Some(0));
        assert_eq!(page(3, 1), Some(2));
        assert_eq!(page(3, 2), None);
        assert_eq!(page(8, 0), Some(0));
        assert_eq!(page(u64::MAX, 1), None);
    }

    #[test]
    fn a_piece_of_a_mapping_without_offsets_shows_what_it_showed() {
        let page_of = |file: &FileContract, page| {
            let shown = file.shown(9, page)?;
            let Backing::Window { first_page, .. } = &shown.range.backing else {
                return None;
            };
            Some(first_page + shown.page)
        };
        let whole = file(vec![range(Offset::Any, 5, 2)]);
        let piece = whole.from_page_of_mapping(3);
        assert_eq!(page_of(&whole, 3), Some(5));
        assert_eq!((page_of(&piece, 0), page_of(&piece, 1)), (Some(5), Some(6)));
        assert_eq!(page_of(&piece, 2), None);
        assert_eq!(page_of(&whole.from_page_of_mapping(5), 0), None);
        // Where offsets count they tell all.
        let counted = file(vec![range(Offset::Page(0), 5, 2)]);
        assert_eq!(counted.from_page_of_mapping(3), counted);
    }

    #[test]
    fn a_file_without_offsets_shows_its_start_at_each() {
        let file = file(vec![range(Offset::Any, 3, 0)]);
        for first in [0, 5, u64::MAX] {
            let shown = file.shown(first, 2).expect("the last page");
            assert_eq!(shown.page, 2);
            assert_eq!(file.shown(first, 3), None);
        }
    }
}
