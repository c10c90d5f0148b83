//! The format of long mode, in which guests' tables and NPT are written.

use crate::format::{ByLevel, Format, Grants, PAGE_SIZE_BIT, bits};

pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
pub(crate) const GLOBAL: u64 = 1 << 8;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;

/// What a processor, as it is set up, makes of the format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct X86Limits {
    /// Execute-disable is on; bit 63 is reserved otherwise.
    pub nxe: bool,
    /// Pages of 1 GiB exist; PS of level 3 is reserved otherwise.
    pub gib_pages: bool,
    /// Bit 8 of level 4 and 5 is reserved.
    pub upper_bit_8_reserved: bool,
}

/// SDM volume 3A, tables "Format of a PML5 Entry ..." to "Format of a Page-Table
/// Entry that Maps a 4-KByte Page"; APM volume 2, figures of section "Long-Mode
/// Page Translation", for bit 8.
pub(crate) fn x86_format(
    limits: X86Limits,
    frame_mask: u64,
    beyond: u64,
    grants: Grants,
) -> Format {
    let everywhere = beyond | if limits.nxe { 0 } else { NO_EXECUTE };
    let bit_8 = if limits.upper_bit_8_reserved {
        bits(8, 8)
    } else {
        0
    };
    let upper = everywhere | PAGE_SIZE_BIT | bit_8;
    let no_gib_pages = if limits.gib_pages { 0 } else { PAGE_SIZE_BIT };
    Format {
        present: 1,
        frame_mask,
        table_reserved: ByLevel([0, everywhere, everywhere, upper, upper]),
        leaf_reserved: ByLevel([
            everywhere,
            everywhere | bits(20, 13),
            everywhere | bits(29, 13) | no_gib_pages,
            0,
            0,
        ]),
        forbidden_low_bits: 0,
        also_bit_2: 0,
        forbidden_leaf_types: 0,
        grants,
    }
}
