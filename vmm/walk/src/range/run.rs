//! What a walk of a range gives.

use crate::{AddressSpace, Translation, WalkError};

/// What the entries of a run may differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Each leads to the frame after that of the entry before it.
    Consecutive,
    /// They lead anywhere.
    Scattered,
}

/// Addresses that follow one another and that entries of one table decide about alike:
/// pages mapped by leaves with the same bits, a hole as large as equal absent entries
/// span, or what one malformed or unreadable entry spans.
#[derive(Debug)]
pub struct Run<'w, I, A: AddressSpace, E> {
    /// First address of the run.
    pub start: I,
    /// Last address of the run, itself included: a run can end with the space.
    pub last: I,
    /// What the walk for `start` finds. For the rest of the run it is the same, but for
    /// the place of the entry and, with pages, the frame.
    pub found: Result<Translation<A>, WalkError<A, E>>,
    pub(super) entries: &'w [u64],
    pub(super) frame_bits: u64,
}

impl<I, A: AddressSpace, E> Run<'_, I, A, E> {
    /// First byte of each page of the run, in order. Of the first page all counts, also
    /// where the run begins within it. There is none where nothing is mapped.
    pub fn frames(&self) -> impl Iterator<Item = A> + '_ {
        let frame_bits = self.frame_bits;
        let frame = move |raw: &u64| A::from_raw(raw & frame_bits);
        self.entries.iter().map(frame)
    }
}

/// A [`Run`] of consecutive frames that stands by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent<I, A: AddressSpace, E> {
    /// First address of the run.
    pub start: I,
    /// Last address of the run, itself included: a run can end with the space.
    pub last: I,
    /// What the walk for `start` finds. For the rest of the run it is the same, but for
    /// the place of the entry and, with pages, the frame, which is as far from the first
    /// one as the address.
    pub found: Result<Translation<A>, WalkError<A, E>>,
}

impl<I, A: AddressSpace, E> Extent<I, A, E> {
    /// Whether the tables say that nothing is mapped here. False for a page, and
    /// for every other error: malformed or unreadable tables prove no absence.
    pub const fn is_absent(&self) -> bool {
        matches!(&self.found, Err(error) if error.is_not_present())
    }
}

/// An address for which no table is read.
#[derive(Clone, Copy, Debug)]
pub struct Untranslated {
    /// The address.
    pub address: u64,
    /// How many low bits the tables translate.
    pub translated_bits: u32,
    /// It is a virtual address, which has to be canonical; else a physical one, which
    /// has to be low enough.
    pub is_virtual: bool,
}

impl Untranslated {
    /// As the end of a walk.
    pub fn error<A: AddressSpace, E>(self) -> WalkError<A, E> {
        let Self {
            address,
            translated_bits,
            ..
        } = self;
        if self.is_virtual {
            WalkError::NonCanonical {
                address,
                translated_bits,
            }
        } else {
            WalkError::BeyondTables {
                address,
                translated_bits,
            }
        }
    }

    /// The last address that is refused for the same reason.
    pub(super) fn last(self) -> u64 {
        if !self.is_virtual {
            return u64::MAX;
        }
        // The hole between the halves of the space.
        let above = self.translated_bits.saturating_sub(1);
        u64::MAX.checked_shl(above).unwrap_or(0).wrapping_sub(1)
    }
}
