//! Memory types and how an entry selects one.

use addr::Level;
use core::fmt;

use crate::format::bits;

/// How memory is cached, by the encoding shared by IA32_PAT, the MTRRs and EPT
/// entries (SDM volume 3A, chapter "Memory Cache Control", "Memory types that
/// can be encoded with PAT").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryType {
    /// UC, strong uncacheable: encoding 0.
    Uncacheable,
    /// WC, write combining: encoding 1.
    WriteCombining,
    /// WT, write through: encoding 4.
    WriteThrough,
    /// WP, write protected: encoding 5.
    WriteProtected,
    /// WB, write back: encoding 6.
    WriteBack,
    /// UC-, uncacheable unless an MTRR says WC: encoding 7, IA32_PAT only.
    UncachedMinus,
    /// No memory type has this encoding. Processors refuse to load it into
    /// IA32_PAT, so the register image at hand is not one that was in effect.
    Reserved(u8),
}

impl MemoryType {
    /// The type with this encoding in a field of IA32_PAT.
    pub const fn from_pat_field(field: u8) -> Self {
        match field {
            0 => Self::Uncacheable,
            1 => Self::WriteCombining,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            7 => Self::UncachedMinus,
            other => Self::Reserved(other),
        }
    }

    /// The type in bits 5:3 of an EPT leaf, by the encoding of the MTRRs, in which
    /// 7 is reserved.
    pub(crate) const fn of_leaf_bits(leaf: u64) -> Self {
        match (leaf & bits(5, 3)) >> 3 {
            7 => Self::Reserved(7),
            encoding => {
                let [encoding, ..] = encoding.to_le_bytes();
                Self::from_pat_field(encoding)
            }
        }
    }

    /// The type that a leaf of an x86-format table selects: its PAT, PCD and PWT
    /// bits form the number of a field of `pat`, the IA32_PAT register. PAT is
    /// bit 7 of a 4 KiB leaf and bit 12 of a large one, where bit 7 is PS.
    pub(crate) const fn selected(pat: u64, level: Level, leaf: u64) -> Self {
        let pat_bit = match level {
            Level::Pte => 7,
            _ => 12,
        };
        let pwt = (leaf >> 3) & 1;
        let pcd = (leaf >> 4) & 1;
        let index = ((leaf >> pat_bit) & 1) << 2 | pcd << 1 | pwt;
        let [field, ..] = ((pat >> (index * 8)) & bits(7, 0)).to_le_bytes();
        Self::from_pat_field(field)
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncacheable => "UC",
            Self::WriteCombining => "WC",
            Self::WriteThrough => "WT",
            Self::WriteProtected => "WP",
            Self::WriteBack => "WB",
            Self::UncachedMinus => "UC-",
            Self::Reserved(encoding) => return write!(f, "reserved({encoding:#x})"),
        })
    }
}
