//! The address space of one process: which areas there are, and which of their pages
//! are mapped.
//!
//! An area is what the kernel calls a vma. Areas of device files are never joined
//! again once they are split: `VM_IO`, `VM_PFNMAP`, `VM_MIXEDMAP` and `VM_DONTEXPAND` forbid it
//! (`vma_merge_new_range` and `vma_merge_existing_range` of mm/vma.c).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{Backing, FileContract, Fork, RangeContract, VmaFlag};
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
    /// First pages of stretches of 2 MiB that have one entry together.
    pub huge: BTreeSet<u64>,
    /// Whether the device was taken away from the driver since: no page comes in any more.
    pub gone: bool,
    /// Whether the pages were moved to where they are. There may be page tables then, with
    /// or without entries, where else there would be none before the first touch.
    pub moved: bool,
}

/// Pages of an entry of 2 MiB.
pub(super) const HUGE_NPAGES: u64 = 512;

impl Area {
    fn end(&self, start: u64) -> u64 {
        start + self.npages * PAGE_SIZE
    }

    /// Takes the pages from page `at` on away, as an area of their own.
    fn split_off(&mut self, at: u64) -> Self {
        let shows = match &mut self.shows {
            Shows::Nothing => Shows::Nothing,
            Shows::File(pages) => Shows::File(pages.split_off(at)),
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
    /// Takes the pages from `at` on away. A huge entry across the border goes as a whole:
    /// nothing is put in its place (`__split_huge_pmd_locked` of mm/huge_memory.c).
    fn split_off(&mut self, at: u64) -> Self {
        let across = self.huge.range(..at).next_back().copied();
        if let Some(first) = across.filter(|first| at < first + HUGE_NPAGES) {
            self.drop_huge(first);
        }
        let huge = self.huge.split_off(&at);
        Self {
            file: self.file_from(at),
            first_page: self.first_page + at,
            sharing: self.sharing,
            opened: self.opened,
            entries: self
                .entries
                .split_off(usize::try_from(at).unwrap_or(usize::MAX)),
            huge: huge.into_iter().map(|first| first - at).collect(),
            gone: self.gone,
            moved: self.moved,
        }
    }

    /// Removes a huge entry.
    fn drop_huge(&mut self, first: u64) {
        self.huge.remove(&first);
        (first..first + HUGE_NPAGES).for_each(|page| self.set(page, false));
    }

    /// Takes note that the pages are `distance_bytes` away from where they were. Only an
    /// aligned huge entry moves as such, and else goes (`move_page_tables` of mm/mremap.c).
    pub(super) fn move_by(&mut self, distance_bytes: u64) {
        self.moved = true;
        if !distance_bytes.is_multiple_of(HUGE_NPAGES * PAGE_SIZE) {
            let all: Vec<u64> = self.huge.iter().copied().collect();
            all.into_iter().for_each(|first| self.drop_huge(first));
        }
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self) {
        self.entries.fill(false);
        self.huge.clear();
    }

    /// What the file promises of the pages from `at` on.
    pub(super) fn file_from(&self, at: u64) -> Arc<FileContract> {
        if self.file.ignores_offsets() {
            Arc::new(self.file.from_page_of_mapping(at))
        } else {
            Arc::clone(&self.file)
        }
    }

    /// Whether this page has an entry.
    pub(super) fn has(&self, page: u64) -> bool {
        let index = usize::try_from(page).unwrap_or(usize::MAX);
        self.entries.get(index).copied().unwrap_or(false)
    }

    /// Notes whether this page has an entry.
    pub(super) fn set(&mut self, page: u64, is_there: bool) {
        let index = usize::try_from(page).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = is_there;
        }
    }

    /// Whether the kernel takes its entries for frames that nobody counts references to,
    /// as it does with a device's memory unless the driver asks for `VM_MIXEDMAP`.
    pub(super) fn is_pfn_map(&self) -> bool {
        !self.is_ram() && !self.file.vma.set.contains(&VmaFlag::MixedMap)
    }

    /// Whether the kernel brings its pages in for whoever asks for them at other places than
    /// by their addresses.
    pub(super) fn comes_in_for_others(&self) -> bool {
        !self.is_pfn_map() && !self.file.vma.set.contains(&VmaFlag::Io)
    }

    /// Whether its pages are RAM, which the kernel lets others reach and drops like any
    /// (`VM_MIXEDMAP`); the frames of windows are raw (`VM_PFNMAP`).
    pub(super) fn is_ram(&self) -> bool {
        let of_buffer = |range: &RangeContract| matches!(range.backing, Backing::Buffer { .. });
        self.file.ranges.iter().any(of_buffer)
    }

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
    pub(super) fn take(&mut self, range: &Range<u64>) -> Result<Vec<(u64, Area)>, Errno> {
        let starts = self.split(range)?;
        let removed = |start| Some((start, self.areas.remove(&start)?));
        Ok(starts.into_iter().filter_map(removed).collect())
    }

    /// Splits areas at both ends of the range, and gives the starts of those in it. One
    /// that is split at the start stays so when another refuses to be at the end
    /// (`vms_gather_munmap_vmas` of mm/vma.c).
    pub(super) fn split(&mut self, range: &Range<u64>) -> Result<Vec<u64>, Errno> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.split_at(range.start)?;
        self.split_at(range.end)?;
        let starts = self.areas.range(range.start..range.end);
        Ok(starts.map(|(start, _)| *start).collect())
    }

    /// `__split_vma` of mm/vma.c, which asks `vm_ops->may_split`.
    fn split_at(&mut self, at: u64) -> Result<(), Errno> {
        let found = self.areas.range_mut(..at).next_back();
        if let Some((start, area)) = found
            && at < area.end(*start)
        {
            if let Shows::File(pages) = &area.shows
                && let Some(errno) = pages.file.refuses_split
            {
                return Err(errno.raw());
            }
            let rest = area.split_off((at - start) / PAGE_SIZE);
            self.areas.insert(at, rest);
        }
        Ok(())
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
                    Fork::OnTouch => pages.clear(),
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
