//! Mappings under test, and what their contract says of each page.

use std::collections::BTreeSet;
use std::fmt;

use addr::{Gva, PAGE_SIZE};
use walk::MemoryType;
use wire::{Fd, Prot, Sharing};
use witness::{Access, DevicePage, Expected, Plan};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::Outcome;

/// How the driver's file maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Everything at mmap time (`remap_pfn_range`).
    Eager,
    /// Each page at its first touch (`vm_ops->fault`).
    Lazy,
}

impl Strategy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Eager, Self::Lazy];

    /// The strategy's name, which is also that of its device files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
        }
    }

    /// The device file that offers the window of this index.
    pub fn device_path(self, window: usize) -> String {
        format!("/dev/mapwitness-{}{window}", self.name())
    }

    /// What is mapped before anything is touched.
    pub const fn before_touch(self) -> Presence {
        match self {
            Self::Eager => Presence::All,
            Self::Lazy => Presence::Nothing,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
    fn has(&self, page: u64) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Only(pages) => pages.contains(&page),
        }
    }
}

/// What is asked of mmap(2) for a window's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    /// How the file maps.
    pub strategy: Strategy,
    /// Index of the window.
    pub window: usize,
    /// Page of the window at which the mapping begins.
    pub first_page: u64,
    /// Pages of the mapping.
    pub npages: u64,
    /// Protection.
    pub prot: Prot,
}

impl MappingSpec {
    /// All of a window, as permissive as it allows.
    pub fn whole(plan: &Plan, strategy: Strategy, window: usize) -> Option<Self> {
        let described = plan.windows.get(window)?;
        Some(Self {
            strategy,
            window,
            first_page: 0,
            npages: described.npages,
            prot: if described.read_only {
                Prot::READ
            } else {
                Prot::READ_WRITE
            },
        })
    }

    /// The mapping's length in bytes.
    pub const fn len_bytes(&self) -> u64 {
        self.npages.saturating_mul(PAGE_SIZE)
    }

    /// The device page behind page `page` of the mapping.
    pub const fn device_page(&self, page: u64) -> DevicePage {
        DevicePage {
            window: self.window,
            page: self.first_page.saturating_add(page),
        }
    }

    /// Contract of every page, in order.
    ///
    /// Both strategies ask for uncached memory (UC-) and for no more rights than
    /// mmap was asked for; a device is never executable.
    pub fn contract(&self, presence: &Presence) -> Vec<Expected> {
        let access = Access {
            read: true,
            write: self.prot.write,
            exec: false,
        };
        // A page without any right is not present to the processor, whatever the
        // kernel has noted in its entry.
        let reachable = self.prot.read || self.prot.write;
        (0..self.npages)
            .map(|page| {
                if reachable && presence.has(page) {
                    Expected::Present {
                        page: self.device_page(page),
                        access,
                        memory_type: MemoryType::UncachedMinus,
                    }
                } else {
                    Expected::Absent
                }
            })
            .collect()
    }
}

/// A mapping that the guest was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Number that no other mapping of the guest has.
    pub id: u64,
    /// What was asked for.
    pub spec: MappingSpec,
    /// Where it begins.
    pub gva: Gva,
}

impl Mapping {
    /// First byte of page `page`; `None` past the end of the address space.
    pub fn page_gva(&self, page: u64) -> Option<Gva> {
        self.gva.checked_add(page.checked_mul(PAGE_SIZE)?)
    }
}

impl Guest {
    /// Maps `spec` shared through an open file of the driver.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn map(&mut self, fd: Fd, spec: &MappingSpec) -> Result<Outcome<Mapping>, HarnessError> {
        let offset_bytes = spec.first_page.saturating_mul(PAGE_SIZE);
        let answer = self.mmap(
            fd,
            offset_bytes,
            spec.len_bytes(),
            spec.prot,
            Sharing::Shared,
        )?;
        let id = self.next_mapping();
        Ok(answer.map(|gva| Mapping {
            id,
            spec: *spec,
            gva,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: MappingSpec = MappingSpec {
        strategy: Strategy::Lazy,
        window: 1,
        first_page: 4,
        npages: 3,
        prot: Prot::READ,
    };

    #[test]
    fn a_contract_counts_from_the_offset_that_was_asked_for() {
        let contract = SPEC.contract(&Presence::Only(BTreeSet::from([2])));
        assert_eq!(contract[..2], [Expected::Absent, Expected::Absent]);
        let Expected::Present { page, access, .. } = contract[2] else {
            panic!("page 2 is to be present");
        };
        assert_eq!(page, DevicePage { window: 1, page: 6 });
        assert_eq!(access, Access::READ);
    }

    #[test]
    fn a_mapping_without_rights_has_no_page_that_the_processor_sees() {
        let spec = MappingSpec {
            prot: Prot::NONE,
            ..SPEC
        };
        assert_eq!(spec.contract(&Presence::All), [Expected::Absent; 3]);
    }
}
