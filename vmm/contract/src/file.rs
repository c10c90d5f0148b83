//! One device file.

use serde::{Deserialize, Serialize};
use walk::MemoryType;
use wire::OpenMode;

use crate::access::Access;
use crate::errno::Errno;
use crate::rules::Refusal;

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

impl FileContract {
    /// How it is opened for everything that it may be used for.
    pub const fn widest_mode(&self) -> OpenMode {
        match self.refuses_writers {
            Some(_) => OpenMode::ReadOnly,
            None => OpenMode::ReadWrite,
        }
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
    fn a_file_without_offsets_shows_its_start_at_each() {
        let file = file(vec![range(Offset::Any, 3, 0)]);
        for first in [0, 5, u64::MAX] {
            let shown = file.shown(first, 2).expect("the last page");
            assert_eq!(shown.page, 2);
            assert_eq!(file.shown(first, 3), None);
        }
    }
}
