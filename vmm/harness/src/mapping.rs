//! Mappings under test, and what their contract says of each page.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{Backing, FileContract, RangeContract, Shown, When};
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
        // One that the device does not have is no reason to expect nothing.
        Some(match &shown.range.backing {
            Backing::Window { name, first_page } => {
                let window = plan.windows.iter().position(|one| one.name == *name);
                DevicePage {
                    window: window.unwrap_or(plan.windows.len()),
                    page: first_page.checked_add(shown.page)?,
                }
            }
            Backing::Buffer { name, first_page } => {
                let buffer = plan.buffers.iter().position(|one| one.name == *name);
                let index = buffer.unwrap_or(plan.buffers.len());
                DevicePage::of_buffer(index, first_page.checked_add(shown.page)?)
            }
        })
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
        let expected = |page| {
            let present = self.is_reachable() && presence.has(page);
            let wanted = present.then(|| self.present(plan, page)).flatten();
            wanted.unwrap_or(Expected::Absent)
        };
        (0..self.npages).map(expected).collect()
    }

    /// Whether any page can be accessed. One without any right is not present to the
    /// processor, whatever the kernel has noted in its entry.
    pub const fn is_reachable(&self) -> bool {
        self.prot.read || self.prot.write || self.prot.exec
    }

    fn present(&self, plan: &Plan, page: u64) -> Option<Expected> {
        let range = self.file.shown(self.first_page, page)?.range;
        Some(Expected::Present {
            page: self.device_page(plan, page)?,
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
