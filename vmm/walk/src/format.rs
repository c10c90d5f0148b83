//! Table formats as data.

use addr::Level;

use crate::UnsupportedMode;

/// Bits `high` to `low` of an entry, both included, as the manuals write them.
pub(crate) const fn bits(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// Bits of an entry that a format may give to the address of a frame or table.
pub(crate) const ADDRESS_BITS: u64 = bits(51, 12);
/// PS: the entry maps a page where it could also name a table.
pub(crate) const PAGE_SIZE_BIT: u64 = bits(7, 7);

/// Bits of an address field that lie past the processor's physical addresses.
pub(crate) const fn beyond_physical(maxphyaddr: u8) -> Result<u64, UnsupportedMode> {
    match maxphyaddr {
        52 => Ok(0),
        32..=51 => Ok(ADDRESS_BITS & (u64::MAX << maxphyaddr)),
        _ => Err(UnsupportedMode::PhysicalAddressBits(maxphyaddr)),
    }
}

/// When an entry grants an access; a walk grants what all its entries grant.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Bits that must all be set.
    pub set: u64,
    /// Bits that must all be clear.
    pub clear: u64,
}

impl Grant {
    /// Granted by every entry.
    pub const ALWAYS: Self = Self { set: 0, clear: 0 };

    /// Granted by entries with all of `bits` set.
    pub const fn if_set(bits: u64) -> Self {
        Self {
            set: bits,
            clear: 0,
        }
    }

    /// Granted by entries with all of `bits` clear.
    pub const fn if_clear(bits: u64) -> Self {
        Self {
            set: 0,
            clear: bits,
        }
    }

    pub const fn by(self, raw: u64) -> bool {
        raw & self.set == self.set && raw & self.clear == 0
    }
}

/// The four accesses.
#[derive(Clone, Copy, Debug)]
pub struct Grants {
    pub read: Grant,
    pub write: Grant,
    pub user: Grant,
    pub exec: Grant,
}

/// One value for each level, 1 to 5.
#[derive(Clone, Copy, Debug)]
pub struct ByLevel(pub [u64; 5]);

impl ByLevel {
    pub const fn at(self, level: Level) -> u64 {
        let [pte, pmd, pud, p4d, pgd] = self.0;
        match level {
            Level::Pte => pte,
            Level::Pmd => pmd,
            Level::Pud => pud,
            Level::P4d => p4d,
            Level::Pgd => pgd,
        }
    }
}

/// A table format, as one processor in one mode interprets it.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Present when any of these is set.
    pub present: u64,
    /// Bits that hold the address of a table or frame, before a leaf's page size
    /// takes its low bits away.
    pub frame_mask: u64,
    /// Reserved bits of entries that name a table. Unused at level 1.
    pub table_reserved: ByLevel,
    /// Reserved bits of entries that map a page. Unused above level 3.
    pub leaf_reserved: ByLevel,
    /// Bit n: a present entry whose low three bits are n is malformed.
    pub forbidden_low_bits: u8,
    /// Bits that count as bit 2 where the low three bits are judged.
    pub also_bit_2: u64,
    /// Bit n: a leaf whose bits 5:3 are n is malformed.
    pub forbidden_leaf_types: u8,
    /// What grants which access.
    pub grants: Grants,
}

impl Format {
    pub const fn is_present(&self, raw: u64) -> bool {
        raw & self.present != 0
    }

    /// Whether a present entry maps a page. Above level 3 bit 7 does not select
    /// a page size; there the format holds it reserved.
    pub const fn is_leaf(&self, level: Level, raw: u64) -> bool {
        match level {
            Level::Pte => true,
            Level::Pmd | Level::Pud => raw & PAGE_SIZE_BIT != 0,
            Level::P4d | Level::Pgd => false,
        }
    }

    /// Reserved bits that a present entry sets.
    pub const fn reserved_bits_set(&self, level: Level, raw: u64) -> u64 {
        let reserved = if self.is_leaf(level, raw) {
            self.leaf_reserved
        } else {
            self.table_reserved
        };
        raw & reserved.at(level)
    }

    /// Whether the low three bits are a combination that must not be.
    pub const fn has_forbidden_low_bits(&self, raw: u64) -> bool {
        let bit_2 = if raw & self.also_bit_2 != 0 { 4 } else { 0 };
        (self.forbidden_low_bits >> ((raw | bit_2) & 7)) & 1 != 0
    }

    /// Whether the entry is a leaf with bits 5:3 that must not be.
    pub const fn has_forbidden_type(&self, level: Level, raw: u64) -> bool {
        self.is_leaf(level, raw) && (self.forbidden_leaf_types >> ((raw >> 3) & 7)) & 1 != 0
    }
}
