//! The address space of one process: which areas there are, and which of their pages
//! are mapped.
//!
//! An area is what the kernel calls a vma. Areas of device files are never joined
//! again once they are split: `VM_IO`, `VM_PFNMAP` and `VM_DONTEXPAND` forbid it
//! (`vma_merge_new_range` and `vma_merge_existing_range` of mm/vma.c).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{FileContract, Fork};
use wire::{Prot, Sharing};

use crate::mapping::MappingSpec;

/// What a system call that fails says.
pub(super) type Errno = i32;

/// The areas of a process that the model follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// By the address of their first byte; none overlaps another or wraps.
    areas: BTreeMap<u64, Area>,
}

/// Pages that were mapped together and are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Number of pages, at least one.
    pub npages: u64,
    /// Protection.
    pub prot: Prot,
    /// What it can be raised to (`VM_MAYREAD`, `VM_MAYWRITE`, `VM_MAYEXEC`).
    pub may: Prot,
    /// Whether forked processes have it, too (not `VM_DONTCOPY`).
    pub inherited: bool,
    /// What it shows.
    pub shows: Shows,
}

/// What an area shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing: addresses that are taken.
    Nothing,
    /// A device file.
    File(Pages),
}

/// Pages of a device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// What the file promises.
    pub file: Arc<FileContract>,
    /// Page of the file that the area begins with.
    pub first_page: u64,
    /// Shared or private.
    pub sharing: Sharing,
    /// The open file that it was mapped through: the area holds it.
    pub opened: u64,
    /// For each page, whether it has an entry in the page tables. One without any
    /// right keeps its entry, but the processor takes it for absent.
    pub entries: Vec<bool>,
}

impl Area {
    fn end(&self, start: u64) -> u64 {
        start + self.npages * PAGE_SIZE
    }

    /// Takes the pages from page `at` on away, as an area of their own.
    fn split_off(&mut self, at: u64) -> Self {
        let shows = match &mut self.shows {
            Shows::Nothing => Shows::Nothing,
            Shows::File(pages) => Shows::File(Pages {
                file: Arc::clone(&pages.file),
                first_page: pages.first_page + at,
                sharing: pages.sharing,
                opened: pages.opened,
                entries: pages
                    .entries
                    .split_off(usize::try_from(at).unwrap_or(usize::MAX)),
            }),
        };
        let rest = Self {
            npages: self.npages - at,
            shows,
            ..*self
        };
        self.npages = at;
        rest
    }

    /// Whether the processor finds any page here that has an entry.
    pub fn is_reachable(&self) -> bool {
        self.prot.read || self.prot.write || self.prot.exec
    }
}

impl Pages {
    /// The mapping, as if it had been asked for as it is now.
    pub fn spec(&self, area: &Area) -> MappingSpec {
        MappingSpec {
            file: Arc::clone(&self.file),
            first_page: self.first_page,
            npages: area.npages,
            prot: area.prot,
            sharing: self.sharing,
        }
    }
}

impl Space {
    /// All areas, in the order of their addresses.
    pub fn areas(&self) -> impl Iterator<Item = (Gva, &Area)> {
        self.areas
            .iter()
            .map(|(start, area)| (Gva::new(*start), area))
    }

    /// The area that `gva` lies in, with its start.
    pub fn area_at(&self, gva: Gva) -> Option<(Gva, &Area)> {
        let (start, area) = self.areas.range(..=gva.raw()).next_back()?;
        (gva.raw() < area.end(*start)).then_some((Gva::new(*start), area))
    }

    /// Whether `gva` lies in an area of a device file.
    pub fn has_device(&self, gva: Gva) -> bool {
        let area = self.area_at(gva);
        area.is_some_and(|(_, area)| matches!(area.shows, Shows::File(_)))
    }

    /// As [`Space::area_at`], with the page's number in the area.
    pub(super) fn page_mut(&mut self, gva: Gva) -> Option<(&mut Area, u64)> {
        let (start, area) = self.areas.range_mut(..=gva.raw()).next_back()?;
        let page = (gva.raw() - start) / PAGE_SIZE;
        (page < area.npages).then_some((area, page))
    }

    /// Whether no area has a byte of the range.
    pub fn is_free(&self, range: &Range<u64>) -> bool {
        self.in_range(range).next().is_none()
    }

    /// Puts an area where nothing is.
    pub(super) fn insert(&mut self, start: Gva, area: Area) {
        self.areas.insert(start.raw(), area);
    }

    /// Removes everything in the range, and gives it.
    pub(super) fn take(&mut self, range: &Range<u64>) -> Vec<(u64, Area)> {
        let starts = self.split(range);
        starts
            .into_iter()
            .filter_map(|start| Some((start, self.areas.remove(&start)?)))
            .collect()
    }

    /// Splits areas at both ends of the range, and gives the starts of those in it.
    pub(super) fn split(&mut self, range: &Range<u64>) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        self.split_at(range.start);
        self.split_at(range.end);
        let starts = self.areas.range(range.start..range.end);
        starts.map(|(start, _)| *start).collect()
    }

    fn split_at(&mut self, at: u64) {
        let found = self.areas.range_mut(..at).next_back();
        if let Some((start, area)) = found
            && at < area.end(*start)
        {
            let rest = area.split_off((at - start) / PAGE_SIZE);
            self.areas.insert(at, rest);
        }
    }

    /// Areas that have a byte of the range, as a range of addresses each.
    pub(super) fn in_range(&self, range: &Range<u64>) -> impl Iterator<Item = (Range<u64>, &Area)> {
        let (from, end) = (range.start, range.end);
        let before = self.areas.range(..from).next_back();
        before
            .into_iter()
            .chain(self.areas.range(from..end.max(from)))
            .map(|(start, area)| (*start..area.end(*start), area))
            .filter(move |(area, _)| area.start < end && from < area.end)
    }

    pub(super) fn areas_mut(&mut self) -> impl Iterator<Item = &mut Area> {
        self.areas.values_mut()
    }

    pub(super) fn area_mut(&mut self, start: u64) -> Option<&mut Area> {
        self.areas.get_mut(&start)
    }

    /// What a forked process has: areas that are inherited, with their entries.
    ///
    /// fork(2) copies the entries of areas that page faults might not fill alike
    /// (`VM_COPY_ON_FORK`, among them `VM_PFNMAP`; `vma_needs_copy` of mm/memory.c),
    /// and leaves `VM_DONTCOPY` out (`dup_mmap` of mm/mmap.c).
    pub(super) fn forked(&self) -> Self {
        let inherited = |(start, area): (&u64, &Area)| {
            let mut area = area.inherited.then(|| area.clone())?;
            if let Shows::File(pages) = &mut area.shows {
                match pages.file.fork {
                    Fork::Pages => {}
                    Fork::OnTouch => pages.entries.fill(false),
                    Fork::Nothing => return None,
                }
            }
            Some((*start, area))
        };
        Self {
            areas: self.areas.iter().filter_map(inherited).collect(),
        }
    }
}
