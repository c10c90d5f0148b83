//! A range of addresses, leaf by leaf.

use core::iter;

use crate::{AddressSpace, Translation, WalkError};

/// A run of addresses that one entry decides about: a page, or a hole as large as
/// the absent entry spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent<I, A: AddressSpace, E> {
    /// First address of the run.
    pub start: I,
    /// Last address of the run, itself included: a run can end with the space.
    pub last: I,
    /// What the walk for `start` found; it holds for the whole run.
    pub found: Result<Translation<A>, WalkError<A, E>>,
}

impl<I, A: AddressSpace, E> Extent<I, A, E> {
    /// Whether the tables say that nothing is mapped here. False for a page, and
    /// for every other error: malformed or unreadable tables prove no absence.
    pub const fn is_absent(&self) -> bool {
        matches!(&self.found, Err(error) if error.is_not_present())
    }
}

/// Walks on from `start` for `len_bytes`, or to the end of the space, one walk for
/// each extent.
pub(crate) fn extents<I, A, E>(
    start: I,
    len_bytes: u64,
    mut walk: impl FnMut(I) -> Result<Translation<A>, WalkError<A, E>>,
) -> impl Iterator<Item = Extent<I, A, E>>
where
    I: AddressSpace,
    A: AddressSpace,
{
    let mut next = (len_bytes != 0).then_some(start.to_raw());
    let end = start.to_raw().saturating_add(len_bytes.saturating_sub(1));
    iter::from_fn(move || {
        let at = next?;
        let found = walk(I::from_raw(at));
        let last = last_alike(at, &found).min(end);
        // `last` is at least `at`, so each turn gains ground or is the last one.
        next = last.checked_add(1).filter(|&next| next <= end);
        Some(Extent {
            start: I::from_raw(at),
            last: I::from_raw(last),
            found,
        })
    })
}

/// Last address for which a walk must find what it found for `at`.
fn last_alike<A: AddressSpace, E>(at: u64, found: &Result<Translation<A>, WalkError<A, E>>) -> u64 {
    let level = match found {
        Ok(translation) => Some(translation.page_size),
        Err(WalkError::NonCanonical {
            translated_bits, ..
        }) => return last_non_canonical(*translated_bits),
        Err(error) => error.level(),
    };
    match level {
        Some(level) => at | (level.bytes() - 1),
        None => u64::MAX,
    }
}

/// Last address of the hole between the halves of a virtual address space.
fn last_non_canonical(translated_bits: u32) -> u64 {
    u64::MAX
        .checked_shl(translated_bits.saturating_sub(1))
        .unwrap_or(0)
        .wrapping_sub(1)
}
