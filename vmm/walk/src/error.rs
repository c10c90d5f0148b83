//! Why a walk did not arrive.

use addr::Level;
use core::{error, fmt};

use crate::{AddressSpace, MemoryType, Steps};

/// A walk that ended before a page. `A` is the space in which the tables lie,
/// `E` the error of their reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError<A: AddressSpace, E> {
    /// The processor does not translate by tables of this format.
    UnsupportedMode(UnsupportedMode),
    /// A guest virtual address whose upper bits are not copies of the highest
    /// translated bit. No table was read.
    NonCanonical {
        /// The address.
        address: u64,
        /// How many low bits the tables translate: 48 or 57.
        translated_bits: u32,
    },
    /// A guest physical address past what second-level tables of this depth
    /// translate. No table was read.
    BeyondTables {
        /// The address.
        address: u64,
        /// How many low bits the tables translate: 48 or 57.
        translated_bits: u32,
    },
    /// The last of `steps` is not present.
    NotPresent {
        /// All entries read; the last one ended the walk.
        steps: Steps<A>,
    },
    /// The last of `steps` is present and malformed: a use of it faults.
    Reserved {
        /// What is wrong with it.
        violation: Violation,
        /// All entries read; the last one ended the walk.
        steps: Steps<A>,
    },
    /// The entry below the last of `steps` could not be read: a table lies
    /// where the reader has no memory.
    Read {
        /// All entries read before.
        steps: Steps<A>,
        /// What the reader said.
        source: E,
    },
}

impl<A: AddressSpace, E> WalkError<A, E> {
    /// Level of the entry that ended the walk, or `None` when no table was read.
    pub fn level(&self) -> Option<Level> {
        self.place().map(|place| place.level)
    }

    /// Index, 0 to 511, of the entry that ended the walk.
    pub fn index(&self) -> Option<u64> {
        self.place().map(|place| place.index)
    }

    /// Where the entry that ended the walk lies.
    pub fn entry_at(&self) -> Option<A> {
        self.place().map(|place| place.entry_at)
    }

    /// The entry that ended the walk, or `None` when it could not be read.
    pub fn raw(&self) -> Option<u64> {
        match self {
            Self::NotPresent { steps } | Self::Reserved { steps, .. } => {
                steps.last().map(|step| step.raw)
            }
            _ => None,
        }
    }

    /// All entries read, the one that ended the walk among them if it was read.
    pub fn steps(&self) -> Option<&Steps<A>> {
        match self {
            Self::NotPresent { steps }
            | Self::Reserved { steps, .. }
            | Self::Read { steps, .. } => Some(steps),
            _ => None,
        }
    }

    /// Whether the tables say, in so many words, that nothing is mapped.
    pub const fn is_not_present(&self) -> bool {
        matches!(self, Self::NotPresent { .. })
    }

    fn place(&self) -> Option<crate::steps::Place<A>> {
        match self {
            Self::NotPresent { steps } | Self::Reserved { steps, .. } => steps.last_place(),
            Self::Read { steps, .. } => steps.pending(),
            _ => None,
        }
    }
}

impl<A: AddressSpace, E> fmt::Display for WalkError<A, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place() {
            write!(f, "{place} ")?;
        }
        let raw = self.raw().unwrap_or_default();
        match self {
            Self::UnsupportedMode(mode) => mode.fmt(f),
            Self::NonCanonical {
                address,
                translated_bits,
            } => write!(
                f,
                "gva {address:#x} is not canonical for tables that translate \
                 {translated_bits} bits"
            ),
            Self::BeyondTables {
                address,
                translated_bits,
            } => write!(
                f,
                "gpa {address:#x} lies past the {translated_bits} bits that these tables translate"
            ),
            Self::NotPresent { .. } => write!(f, "is not present (raw {raw:#x})"),
            Self::Reserved { violation, .. } => write!(f, "{violation} (raw {raw:#x})"),
            Self::Read { .. } => f.write_str(
                "cannot be read; look at the entry above it, or the root, for a wrong table address",
            ),
        }
    }
}

impl<A: AddressSpace, E: error::Error + 'static> error::Error for WalkError<A, E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What is wrong with a present entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It sets bits that must be clear in an entry of its kind and level, on
    /// this processor in this mode.
    Bits(u64),
    /// It grants a combination of accesses that the format does not know.
    Access,
    /// It asks for a memory type that does not exist.
    MemoryType(MemoryType),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "sets reserved bits {bits:#x}"),
            Self::Access => f.write_str("grants a forbidden combination of accesses"),
            Self::MemoryType(memory_type) => write!(f, "has memory type {memory_type}"),
        }
    }
}

/// Registers that say the processor does not translate by these tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsupportedMode {
    /// Protection or paging is off; linear addresses are physical.
    PagingOff {
        /// CR0.
        cr0: u64,
    },
    /// Paging is on, outside long mode: 32-bit or PAE tables.
    NotLongMode {
        /// CR4.
        cr4: u64,
        /// IA32_EFER.
        efer: u64,
    },
    /// A width of physical addresses that no processor has.
    PhysicalAddressBits(u8),
    /// An EPT pointer with a memory type or a depth that does not exist.
    EptPointer {
        /// The pointer.
        eptp: u64,
    },
    /// The root has bits set that must be clear.
    Root {
        /// The register or pointer that names the root.
        raw: u64,
        /// The offending bits.
        reserved: u64,
    },
}

impl fmt::Display for UnsupportedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PagingOff { cr0 } => write!(
                f,
                "paging is off (cr0 {cr0:#x}); freeze the vCPU after its kernel has started"
            ),
            Self::NotLongMode { cr4, efer } => write!(
                f,
                "not in long mode (cr4 {cr4:#x}, efer {efer:#x}); only 64-bit guests can be walked"
            ),
            Self::PhysicalAddressBits(bits) => write!(
                f,
                "physical addresses of {bits} bits do not exist; take the width from CPUID \
                 leaf 0x80000008"
            ),
            Self::EptPointer { eptp } => write!(
                f,
                "EPT pointer {eptp:#x} has no valid memory type (bits 2:0) or depth (bits 5:3)"
            ),
            Self::Root { raw, reserved } => write!(
                f,
                "table root {raw:#x} sets reserved bits {reserved:#x}; compare it with the \
                 width of physical addresses"
            ),
        }
    }
}

impl error::Error for UnsupportedMode {}
