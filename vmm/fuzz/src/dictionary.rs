//! Offsets and lengths at which drivers go wrong.

use addr::PAGE_SIZE;
use libafl_bolts::rands::Rand;

use crate::dice::Dice;

/// Pages of 2 MiB.
const HUGE_NPAGES: u64 = 512;
/// Bits at which careless code cuts off: signs and widths of 32 and 64 bits, in bytes
/// and in pages.
const CUT_BITS: [u32; 8] = [20, 31, 32, 43, 44, 51, 52, 63];

/// A page of a file that has `npages`, or one that it does not have.
pub(crate) fn page<R: Rand>(dice: &mut Dice<'_, R>, npages: u64) -> u64 {
    match dice.below(12) {
        0..=3 => 0,
        4 | 5 => dice.below(npages),
        6 => npages.saturating_sub(1),
        7 => 1.min(npages),
        8 => npages / 2,
        9 => npages,
        10 => npages.saturating_add(dice.below(3)),
        _ => HUGE_NPAGES.min(npages).saturating_sub(dice.below(2)),
    }
}

/// How many pages, where `rest` are left.
pub(crate) fn npages<R: Rand>(dice: &mut Dice<'_, R>, rest: u64) -> u64 {
    match dice.below(12) {
        0..=4 => rest,
        5 => 1,
        6 => 2.min(rest.max(1)),
        7 | 8 => 1 + dice.below(rest),
        9 => rest.saturating_sub(1),
        10 => rest.saturating_add(1 + dice.below(2)),
        _ => rest.div_ceil(8).saturating_mul(8),
    }
}

/// An offset in bytes, as hostile as may be.
pub(crate) fn offset_bytes<R: Rand>(dice: &mut Dice<'_, R>, npages: u64) -> u64 {
    let bytes = page(dice, npages).saturating_mul(PAGE_SIZE);
    match dice.below(8) {
        0..=2 => bytes,
        3 => bytes.saturating_add(odd(dice)),
        4 => cut(dice).wrapping_add(bytes),
        5 => cut(dice).wrapping_sub(PAGE_SIZE),
        6 => 0_u64.wrapping_sub(bytes.max(PAGE_SIZE)),
        _ => dice.number(),
    }
}

/// A length in bytes, as hostile as may be.
pub(crate) fn len_bytes<R: Rand>(dice: &mut Dice<'_, R>, rest: u64) -> u64 {
    let bytes = npages(dice, rest).saturating_mul(PAGE_SIZE);
    match dice.below(8) {
        0..=2 => bytes,
        3 => bytes.saturating_add(odd(dice)),
        4 => cut(dice).wrapping_add(bytes),
        5 => 0,
        6 => 0_u64.wrapping_sub(bytes),
        _ => 1 << dice.below(64),
    }
}

/// Less than a page.
fn odd<R: Rand>(dice: &mut Dice<'_, R>) -> u64 {
    dice.one_of(&[1, 8, PAGE_SIZE / 2, PAGE_SIZE - 1])
        .unwrap_or(1)
}

fn cut<R: Rand>(dice: &mut Dice<'_, R>) -> u64 {
    1 << dice.one_of(&CUT_BITS).unwrap_or(31)
}
