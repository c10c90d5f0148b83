//! What the kernel notes of a mapping.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Flags of the `vm_area_struct` of each mapping of a file. What is in neither list may
/// be as it likes; what becomes of a mapping later is foretold as for `VM_PFNMAP`, or, where
/// `set` names `MIXEDMAP`, as for that without whichever of the others it does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmaFlags {
    /// Flags that are set.
    #[serde(default)]
    pub set: Vec<VmaFlag>,
    /// Flags that are not.
    #[serde(default)]
    pub clear: Vec<VmaFlag>,
}

macro_rules! named {
    ($($(#[$doc:meta])* $flag:ident = $name:literal,)*) => {
        /// A bit of `vm_flags` that a driver has a say in (include/linux/mm.h), written by
        /// its name without `VM_`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum VmaFlag {
            $($(#[$doc])* #[serde(rename = $name)] $flag,)*
        }

        impl VmaFlag {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$flag),*];

            /// Its name, without `VM_`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$flag => $name,)*
                }
            }
        }
    };
}

named! {
    /// The mapping is of device memory.
    Io = "IO",
    /// Its entries name frames, which nobody counts references to.
    PfnMap = "PFNMAP",
    /// Its entries may name pages whose references are counted.
    MixedMap = "MIXEDMAP",
    /// It never grows.
    DontExpand = "DONTEXPAND",
    /// It is left out of core dumps.
    DontDump = "DONTDUMP",
    /// Children do not inherit it.
    DontCopy = "DONTCOPY",
    /// It is shared, as far as the kernel's own code for files goes.
    Shared = "SHARED",
    /// It was asked for with `MAP_SHARED`.
    MayShare = "MAYSHARE",
    /// mprotect(2) may make it readable.
    MayRead = "MAYREAD",
    /// mprotect(2) may make it writable.
    MayWrite = "MAYWRITE",
    /// mprotect(2) may make it executable.
    MayExec = "MAYEXEC",
    /// It is locked in memory.
    Locked = "LOCKED",
    /// It counts against the limit of committed memory.
    Account = "ACCOUNT",
}

impl VmaFlags {
    /// Whether nothing is said.
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }

    /// The first flag that is not as it must be, by what `has` knows.
    pub fn unmet(&self, has: impl Fn(VmaFlag) -> bool) -> Option<VmaFlag> {
        let missing = self.set.iter().find(|flag| !has(**flag));
        let surplus = self.clear.iter().find(|flag| has(**flag));
        missing.or(surplus).copied()
    }
}

impl fmt::Display for VmaFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |flags: &[VmaFlag]| {
            let names: Vec<_> = flags.iter().map(|flag| flag.name()).collect();
            names.join("|")
        };
        match (self.set.is_empty(), self.clear.is_empty()) {
            (_, true) => f.write_str(&names(&self.set)),
            (true, false) => write!(f, "not {}", names(&self.clear)),
            (false, false) => write!(f, "{}, not {}", names(&self.set), names(&self.clear)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_flag_and_one_too_many_are_told() {
        let flags = VmaFlags {
            set: vec![VmaFlag::Io, VmaFlag::DontDump],
            clear: vec![VmaFlag::MayWrite],
        };
        let unmet = |have: &[VmaFlag]| flags.unmet(|flag| have.contains(&flag));
        assert_eq!(unmet(&[VmaFlag::Io, VmaFlag::DontDump]), None);
        assert_eq!(unmet(&[VmaFlag::Io]), Some(VmaFlag::DontDump));
        let all = [VmaFlag::Io, VmaFlag::DontDump, VmaFlag::MayWrite];
        assert_eq!(unmet(&all), Some(VmaFlag::MayWrite));
        assert_eq!(VmaFlags::default().unmet(|_| true), None);
        assert_eq!(flags.to_string(), "IO|DONTDUMP, not MAYWRITE");
    }
}
