//! Mappings under test, and what their contract says of each page.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{Backing, FileContract, Offset, RangeContract, Shown, When};
use wire::{Fd, Prot, Sharing};
use witness::{Access, DevicePage, Expected, Plan};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::Outcome;

/// Which pages of a mapping are to be present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Every one.
    All,
    /// None.
    Nothing,
    /// These, counted from the mapping's start, and no other.
    Only(BTreeSet<u64>),
}

impl Presence {
    pub(crate) fn has(&self, page: u64) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Only(pages) => pages.contains(&page),
        }
    }
}

/// What is asked of mmap(2) for a device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    /// What the file promises.
    pub file: Arc<FileContract>,
    /// Page of the file at which the mapping begins: the offset that is asked for.
    pub first_page: u64,
    /// Pages of the mapping.
    pub npages: u64,
    /// Protection.
    pub prot: Prot,
    /// Shared or private.
    pub sharing: Sharing,
}

impl MappingSpec {
    /// A shared mapping of all that `range` of `file` has, as permissive as it
    /// allows.
    pub fn whole(file: &Arc<FileContract>, range: &RangeContract) -> Self {
        Self {
            file: Arc::clone(file),
            first_page: range.first_page(),
            npages: range.npages,
            prot: Prot {
                read: range.access.read,
                write: range.access.write,
                exec: range.access.exec,
            },
            sharing: Sharing::Shared,
        }
    }

    /// The mapping's length in bytes.
    pub const fn len_bytes(&self) -> u64 {
        self.npages.saturating_mul(PAGE_SIZE)
    }

    /// The device page behind page `page` of the mapping; `None` where the file
    /// has nothing.
    pub fn device_page(&self, plan: &Plan, page: u64) -> Option<DevicePage> {
        let shown = self.file.shown(self.first_page, page)?;
        let first = first_page_of(shown.range, plan)?;
        let page = first.page.checked_add(shown.page)?;
        Some(DevicePage { page, ..first })
    }

    /// As [`MappingSpec::device_page`], of every page in order.
    pub fn device_pages(&self, plan: &Plan) -> Vec<Option<DevicePage>> {
        let pages = self.stretches().flat_map(|(stretch, shown)| {
            let first = shown.and_then(|shown| {
                let first = first_page_of(shown.range, plan)?;
                let page = first.page.checked_add(shown.page)?;
                Some(DevicePage { page, ..first })
            });
            (0..stretch.end - stretch.start).map(move |nth| {
                let first = first?;
                let page = first.page.checked_add(nth)?;
                Some(DevicePage { page, ..first })
            })
        });
        pages.collect()
    }

    /// The pages in stretches, in order: those of one range of the file, with what the first
    /// of them shows, and those that show nothing.
    fn stretches(&self) -> impl Iterator<Item = (Range<u64>, Option<Shown<'_>>)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = next;
            if start >= self.npages {
                return None;
            }
            let shown = self.file.shown(self.first_page, start);
            // What lies behind a page that shows nothing is looked up page by page.
            let len = shown.map_or(1, |shown| shown.range.npages - shown.page);
            next = start.saturating_add(len.min(self.npages_before_range(start)));
            next = next.min(self.npages);
            Some((start..next, shown))
        })
    }

    /// Pages from `page` of the mapping on before another range of the file begins: where
    /// ranges overlap, the one that is listed first counts.
    fn npages_before_range(&self, page: u64) -> u64 {
        let at = self.first_page.saturating_add(page);
        let starts = self
            .file
            .ranges
            .iter()
            .filter_map(|range| match range.offset {
                Offset::Page(first) => first.checked_sub(at).filter(|npages| *npages > 0),
                Offset::Any => None,
            });
        starts.min().unwrap_or(u64::MAX)
    }

    /// What is mapped before anything is touched.
    pub fn before_touch(&self) -> Presence {
        Presence::Only(self.at_mmap())
    }

    /// Pages that are mapped before anything is touched.
    fn at_mmap(&self) -> BTreeSet<u64> {
        let at_mmap = |page: &u64| {
            let shown = self.file.shown(self.first_page, *page);
            shown.is_some_and(|shown| shown.range.present == When::AtMmap)
        };
        (0..self.npages).filter(at_mmap).collect()
    }

    /// Whether some page is only mapped when it is touched.
    pub fn is_lazy(&self) -> bool {
        (self.at_mmap().len() as u64) < self.npages
    }

    /// Contract of every page, in order: what the file promises, and no more rights
    /// than mmap was asked for. Where the file has nothing, nothing is mapped.
    pub fn contract(&self, plan: &Plan, presence: &Presence) -> Vec<Expected> {
        let is_reachable = self.is_reachable();
        let mut contract = Vec::new();
        for (stretch, shown) in self.stretches() {
            let first = shown.and_then(|shown| self.present(plan, shown));
            let expected = |page| {
                let wanted = first.filter(|_| is_reachable && presence.has(page));
                let later = wanted.and_then(|wanted| later(wanted, page - stretch.start));
                later.unwrap_or(Expected::Absent)
            };
            contract.extend(stretch.clone().map(expected));
        }
        contract
    }

    /// Whether any page can be accessed. One without any right is not present to the
    /// processor, whatever the kernel has noted in its entry.
    pub const fn is_reachable(&self) -> bool {
        self.prot.read || self.prot.write || self.prot.exec
    }

    /// The contract of the page that shows this, where it is present.
    fn present(&self, plan: &Plan, shown: Shown<'_>) -> Option<Expected> {
        let range = shown.range;
        let first = first_page_of(range, plan)?;
        Some(Expected::Present {
            page: DevicePage {
                page: first.page.checked_add(shown.page)?,
                ..first
            },
            access: Access {
                // x86 has no page that may be stored to or run but not read.
                read: true,
                // A private mapping is written to by copies of its pages.
                write: self.prot.write && range.access.write && self.sharing == Sharing::Shared,
                exec: self.prot.exec && range.access.exec,
            },
            memory_type: range.memory_type,
        })
    }
}

/// The contract of the page `nth` pages after one of the same range.
fn later(first: Expected, nth: u64) -> Option<Expected> {
    match first {
        Expected::Absent => Some(Expected::Absent),
        Expected::Present {
            page,
            access,
            memory_type,
        } => Some(Expected::Present {
            page: DevicePage {
                page: page.page.checked_add(nth)?,
                ..page
            },
            access,
            memory_type,
        }),
    }
}

/// The device page that the first page of a range shows.
fn first_page_of(range: &RangeContract, plan: &Plan) -> Option<DevicePage> {
    // One that the device does not have is no reason to expect nothing.
    Some(match &range.backing {
        Backing::Window { name, first_page } => {
            let window = plan.windows.iter().position(|one| one.name == *name);
            DevicePage {
                window: window.unwrap_or(plan.windows.len()),
                page: *first_page,
            }
        }
        Backing::Buffer { name, first_page } => {
            let buffer = plan.buffers.iter().position(|one| one.name == *name);
            DevicePage::of_buffer(buffer.unwrap_or(plan.buffers.len()), *first_page)
        }
    })
}

/// Pages of an entry of 2 MiB.
const HUGE_NPAGES: u64 = 512;

/// A mapping that the guest was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Number that no other mapping of the guest has.
    pub id: u64,
    /// What was asked for.
    pub spec: MappingSpec,
    /// Where it begins.
    pub gva: Gva,
}

impl Mapping {
    /// What is mapped after `touched` were accessed, counted from the mapping's start,
    /// and no other page.
    pub fn after_touch(&self, plan: &Plan, touched: &BTreeSet<u64>) -> Presence {
        let mut there = self.spec.at_mmap();
        for page in touched {
            there.extend(self.brought_in(plan, *page));
        }
        Presence::Only(there)
    }

    /// Pages that an access to `page` brings in, where none was before.
    pub(crate) fn brought_in(&self, plan: &Plan, page: u64) -> Range<u64> {
        let shown = self.spec.file.shown(self.spec.first_page, page);
        let stretch = shown.and_then(|shown| match shown.range.present {
            When::OnTouchHuge => self.huge_stretch(plan, shown, page),
            When::OnTouchAround(npages) => self.neighbours(npages, shown, page),
            When::AtMmap | When::OnTouch => None,
        });
        stretch.unwrap_or(page..page.saturating_add(1))
    }

    /// The pages of this mapping and of the range of `page`, which `shown` says what it is,
    /// in the naturally aligned stretch of `npages` around it.
    fn neighbours(&self, npages: u64, shown: Shown<'_>, page: u64) -> Option<Range<u64>> {
        let before = (self.page_gva(page)?.raw() / PAGE_SIZE).checked_rem(npages)?;
        let start_of_range = page.saturating_sub(shown.page);
        let end_of_range = page.checked_add(shown.range.npages - shown.page)?;
        let end = page.checked_add(npages - before)?.min(end_of_range);
        let first = page.saturating_sub(before).max(start_of_range);
        Some(first..end.min(self.spec.npages))
    }

    /// The 2 MiB around `page`, which `shown` says what it is, if they can be one
    /// entry of the guest's tables.
    fn huge_stretch(&self, plan: &Plan, shown: Shown<'_>, page: u64) -> Option<Range<u64>> {
        let before = (self.page_gva(page)?.raw() / PAGE_SIZE) % HUGE_NPAGES;
        let first = page.checked_sub(before)?;
        let end = first.checked_add(HUGE_NPAGES)?;
        let first_of_range = shown.page.checked_sub(before)?;
        let whole = end <= self.spec.npages
            && first_of_range.checked_add(HUGE_NPAGES)? <= shown.range.npages;
        let gpa = plan.gpa(self.spec.device_page(plan, first)?)?;
        (whole && gpa.raw().is_multiple_of(HUGE_NPAGES * PAGE_SIZE)).then_some(first..end)
    }

    /// First byte of page `page`; `None` past the end of the address space.
    pub fn page_gva(&self, page: u64) -> Option<Gva> {
        self.gva.checked_add(page.checked_mul(PAGE_SIZE)?)
    }
}

impl Guest {
    /// Maps `spec` through an open file of the driver.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn map(&mut self, fd: Fd, spec: &MappingSpec) -> Result<Outcome<Mapping>, HarnessError> {
        let offset_bytes = spec.first_page.saturating_mul(PAGE_SIZE);
        let answer = self.mmap(fd, offset_bytes, spec.len_bytes(), spec.prot, spec.sharing)?;
        let id = self.next_mapping();
        Ok(answer.map(|gva| Mapping {
            id,
            spec: spec.clone(),
            gva,
        }))
    }
}

#[cfg(test)]
mod tests {
    use addr::Gpa;
    use witness::WindowPlan;

    use super::*;
    use crate::own_driver::{HUGE, LAZY};

    fn plan() -> Plan {
        let window = |name: &str, base, npages| WindowPlan {
            name: name.into(),
            base: Gpa::new(base),
            npages,
            read_only: false,
        };
        Plan {
            windows: vec![
                window("page", 0xd100_0000, 1),
                window("odd", 0xd100_2000, 13),
            ],
            buffers: Vec::new(),
        }
    }

    fn spec(prot: Prot) -> MappingSpec {
        MappingSpec {
            file: Arc::new(LAZY.file(&plan(), 1).expect("a window")),
            first_page: 4,
            npages: 3,
            prot,
            sharing: Sharing::Shared,
        }
    }

    #[test]
    fn a_contract_counts_from_the_offset_that_was_asked_for() {
        let only = Presence::Only(BTreeSet::from([2]));
        let contract = spec(Prot::READ).contract(&plan(), &only);
        assert_eq!(contract[..2], [Expected::Absent, Expected::Absent]);
        let Expected::Present { page, access, .. } = contract[2] else {
            panic!("page 2 is to be present");
        };
        assert_eq!(page, DevicePage { window: 1, page: 6 });
        assert_eq!(access, Access::READ);
    }

    /// What is told of all pages at once is what is told of each, also where ranges overlap
    /// and where there are gaps between them.
    #[test]
    fn pages_in_stretches_are_those_of_each_page() {
        let whole = spec(Prot::READ_WRITE);
        let mut file = whole.file.as_ref().clone();
        let range = |first, npages, first_page| RangeContract {
            offset: Offset::Page(first),
            npages,
            backing: Backing::Window {
                name: "odd".into(),
                first_page,
            },
            ..file.ranges[0].clone()
        };
        file.ranges = vec![range(5, 3, 0), range(0, 9, 2), range(12, 1, u64::MAX)];
        let spec = MappingSpec {
            file: Arc::new(file),
            first_page: 1,
            npages: 16,
            ..whole
        };
        let plan = plan();
        let each: Vec<_> = (0..16).map(|page| spec.device_page(&plan, page)).collect();
        assert_eq!(spec.device_pages(&plan), each);
        assert_eq!(each.iter().flatten().count(), 9);
        let contract = spec.contract(&plan, &Presence::Only((0..15).collect()));
        let shown = contract.iter().map(|expected| match expected {
            Expected::Present { page, .. } => Some(*page),
            Expected::Absent => None,
        });
        assert!(shown.eq(each.into_iter().take(15).chain([None])));
    }

    #[test]
    fn a_mapping_without_rights_has_no_page_that_the_processor_sees() {
        let contract = spec(Prot::NONE).contract(&plan(), &Presence::All);
        assert_eq!(contract, [Expected::Absent; 3]);
    }

    #[test]
    fn where_a_file_has_nothing_nothing_is_mapped() {
        let past = MappingSpec {
            first_page: 12,
            npages: 2,
            ..spec(Prot::READ)
        };
        let contract = past.contract(&plan(), &Presence::All);
        assert!(matches!(contract[0], Expected::Present { .. }));
        assert_eq!(contract[1], Expected::Absent);
    }

    /// Which pages of a mapping at `gva` come in when `page` is touched.
    fn touched(gva: u64, first_page: u64, npages: u64, page: u64) -> Presence {
        let plan = Plan {
            windows: vec![WindowPlan {
                name: "large".into(),
                base: Gpa::new(0xd120_0000),
                npages: 1024,
                read_only: false,
            }],
            buffers: Vec::new(),
        };
        let file = HUGE.file(&plan, 0).expect("a window");
        let mapping = Mapping {
            id: 1,
            spec: MappingSpec {
                file: Arc::new(file),
                first_page,
                npages,
                prot: Prot::READ,
                sharing: Sharing::Shared,
            },
            gva: Gva::new(gva),
        };
        mapping.after_touch(&plan, &BTreeSet::from([page]))
    }

    #[test]
    fn two_mib_come_in_where_they_fit_and_one_page_where_not() {
        let only = |pages: Range<u64>| Presence::Only(pages.collect());
        assert_eq!(touched(0x20_0000, 0, 1024, 700), only(512..1024));
        // Page 512 of the window is page 62 of the mapping.
        let unaligned = 0x20_0000 + 450 * PAGE_SIZE;
        assert_eq!(touched(unaligned, 450, 574, 61), only(61..62));
        assert_eq!(touched(unaligned, 450, 574, 62), only(62..574));
        // Neither where the two are aligned differently nor where the end is cut off.
        assert_eq!(touched(0x20_1000, 0, 1024, 700), only(700..701));
        assert_eq!(touched(0x20_0000, 0, 1023, 700), only(700..701));
    }

    #[test]
    fn a_private_mapping_is_not_written_through() {
        let private = MappingSpec {
            sharing: Sharing::Private,
            ..spec(Prot::READ_WRITE)
        };
        let contract = private.contract(&plan(), &Presence::All);
        let Expected::Present { access, .. } = contract[0] else {
            panic!("page 0 is to be present");
        };
        assert_eq!(access, Access::READ);
    }
}
