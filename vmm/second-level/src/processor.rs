//! What kind of tables this host has, and what shapes a walk of them.

use std::fs;
use std::path::Path;

use addr::{Hpa, Level};
use walk::{EptRegs, NptRegs, SecondLevel, UnsupportedMode, eptp};

use crate::error::Error;
use crate::root::Root;

const CPUINFO: &str = "/proc/cpuinfo";
/// `IA32_PAT` as Linux programs it on a processor without PAT errata
/// (arch/x86/mm/pat/memtype.c). Entry 0, the one that KVM's entries select, is
/// write-back in all of its variants.
const LINUX_PAT: u64 = 0x0407_0506_0007_0106;

/// Kind of second-level tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Intel's extended page tables.
    Ept,
    /// AMD's nested page tables.
    Npt,
}

/// How this host's processor reads second-level tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    kind: Kind,
    maxphyaddr: u8,
    gib_pages: bool,
    execute_only: bool,
    accessed_dirty: bool,
    nxe: bool,
}

impl Processor {
    /// This host's.
    ///
    /// # Errors
    /// [`Error`] when it has no second level or does not tell its size.
    pub fn of_this_host() -> Result<Self, Error> {
        let text = fs::read_to_string(CPUINFO).map_err(|source| Error::Processor {
            path: CPUINFO,
            source,
        })?;
        Self::from_cpuinfo(kind(Path::new("/sys/module"))?, &text)
    }

    /// The first processor of proc_cpuinfo(5).
    fn from_cpuinfo(kind: Kind, cpuinfo: &str) -> Result<Self, Error> {
        let value = |wanted: &str| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == wanted).then_some(value.trim())
            })
        };
        let has = |list: &str, name: &str| {
            value(list).is_some_and(|flags| flags.split_whitespace().any(|flag| flag == name))
        };
        let maxphyaddr = value("address sizes")
            .and_then(|sizes| sizes.split_whitespace().next()?.parse().ok())
            .ok_or(Error::AddressBits)?;
        Ok(Self {
            kind,
            maxphyaddr,
            gib_pages: match kind {
                Kind::Ept => has("vmx flags", "ept_1gb"),
                Kind::Npt => has("flags", "pdpe1gb"),
            },
            execute_only: has("vmx flags", "ept_x_only"),
            accessed_dirty: has("vmx flags", "ept_ad") && is_on("kvm_intel", "eptad"),
            nxe: has("flags", "nx"),
        })
    }

    /// One of each kind.
    #[cfg(test)]
    pub(crate) fn samples() -> [Self; 2] {
        [Kind::Ept, Kind::Npt].map(|kind| Self {
            kind,
            maxphyaddr: 52,
            gib_pages: true,
            execute_only: true,
            accessed_dirty: true,
            nxe: true,
        })
    }

    /// Kind of the tables.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells what single entries map, wherever their root is.
    ///
    /// # Errors
    /// [`UnsupportedMode`] for a size of addresses that no processor has.
    pub fn entries(&self) -> Result<SecondLevel, UnsupportedMode> {
        self.walker(&Root {
            table: Hpa::new(0),
            top: Level::P4d,
            listed: false,
            memslots_generation: 0,
        })
    }

    pub(crate) fn walker(&self, root: &Root) -> Result<SecondLevel, UnsupportedMode> {
        match self.kind {
            Kind::Ept => SecondLevel::ept(&EptRegs {
                eptp: eptp(root.table, root.top, self.accessed_dirty),
                maxphyaddr: self.maxphyaddr,
                gib_pages: self.gib_pages,
                execute_only: self.execute_only,
                // KVM leaves it off for its own guests.
                mode_based_exec: false,
            }),
            Kind::Npt => SecondLevel::npt(&NptRegs {
                ncr3: root.table.raw(),
                five_levels: root.top == Level::Pgd,
                pat: LINUX_PAT,
                nxe: self.nxe,
                maxphyaddr: self.maxphyaddr,
                gib_pages: self.gib_pages,
                encryption_bit: None,
            }),
        }
    }
}

fn is_on(module: &str, parameter: &str) -> bool {
    reads_on(Path::new("/sys/module"), module, parameter)
}

fn reads_on(modules: &Path, module: &str, parameter: &str) -> bool {
    let path = modules.join(module).join("parameters").join(parameter);
    matches!(
        fs::read_to_string(path).unwrap_or_default().trim(),
        "Y" | "1"
    )
}

fn kind(modules: &Path) -> Result<Kind, Error> {
    for (module, parameter, kind) in [
        ("kvm_intel", "ept", Kind::Ept),
        ("kvm_amd", "npt", Kind::Npt),
    ] {
        if !modules.join(module).exists() {
            continue;
        }
        if reads_on(modules, module, parameter) {
            return Ok(kind);
        }
        return Err(Error::NoSecondLevel {
            found: format!("{module} with {parameter}=0: shadow paging"),
        });
    }
    Err(Error::NoSecondLevel {
        found: "neither kvm_intel nor kvm_amd is loaded".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_shapes_the_walk() {
        let text = "processor\t: 0\nflags\t\t: fpu pdpe1gb nx\n\
                    address sizes\t: 40 bits physical, 57 bits virtual\n\n\
                    processor\t: 1\naddress sizes\t: 39 bits physical\n";
        let found = Processor::from_cpuinfo(Kind::Npt, text).expect("complete");
        assert_eq!(
            (found.maxphyaddr, found.gib_pages, found.nxe),
            (40, true, true)
        );
        let none = Processor::from_cpuinfo(Kind::Npt, "flags : nx\n");
        assert!(matches!(none, Err(Error::AddressBits)));
    }

    #[test]
    fn a_host_without_a_second_level_says_so() {
        let error = kind(Path::new("/nonexistent")).expect_err("nothing there");
        assert!(error.to_string().contains("neither"), "{error}");
    }
}
