//! The entries that a walk went through.

use addr::Level;
use core::{fmt, iter, marker::PhantomData};

use crate::table::AddressSpace;

/// Most levels that a table format has.
const MAX_STEPS: usize = 5;

/// One entry on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<A> {
    /// Level of the table that holds the entry.
    pub level: Level,
    /// First byte of that table.
    pub table: A,
    /// Index of the entry, 0 to 511.
    pub index: u64,
    /// Where the entry was read.
    pub entry_at: A,
    /// The entry as it was read.
    pub raw: u64,
}

/// Where an entry lies, whether or not it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<A> {
    pub level: Level,
    pub table: A,
    pub index: u64,
    pub entry_at: A,
}

impl<A: AddressSpace> fmt::Display for Place<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "level {} entry {:#x} at {} {}",
            self.level.number(),
            self.index,
            A::NAME,
            self.entry_at
        )
    }
}

impl<A: AddressSpace> fmt::Display for Step<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = Place {
            level: self.level,
            table: self.table,
            index: self.index,
            entry_at: self.entry_at,
        };
        write!(f, "{place}: {:#018x}", self.raw)
    }
}

/// Every entry that a walk read, from the root down, in at most 5 steps.
///
/// Only the raw entries are stored: all else of a [`Step`] follows from them,
/// the root and the address walked, which keeps errors small enough to return.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Steps<A> {
    input: u64,
    root: u64,
    frame_mask: u64,
    // Entries not read stay 0, which derived equality relies on.
    raws: [u64; MAX_STEPS],
    len: u8,
    top: Level,
    space: PhantomData<A>,
}

impl<A: AddressSpace> Steps<A> {
    /// No step yet, of a walk for `input` from the table at `root`.
    pub(crate) fn new(input: u64, root: u64, top: Level, frame_mask: u64) -> Self {
        Self {
            input,
            root: root & frame_mask,
            frame_mask,
            raws: [0; MAX_STEPS],
            len: 0,
            top,
            space: PhantomData,
        }
    }

    /// Adds the entry that was read at the next place. More than
    /// [`MAX_STEPS`] cannot be: levels only go down.
    pub(crate) fn push(&mut self, raw: u64) {
        if let Some(slot) = self.raws.get_mut(usize::from(self.len)) {
            *slot = raw;
            self.len += 1;
        }
    }

    /// The step numbered `n`, or the place where it would be read (`n == len`).
    fn place(&self, n: usize) -> Option<Place<A>> {
        let mut level = self.top;
        for _ in 0..n {
            level = level.lower()?;
        }
        let table = match n.checked_sub(1) {
            None => self.root,
            Some(above) => self.raws.get(above)? & self.frame_mask,
        };
        let index = level.index(self.input);
        Some(Place {
            level,
            table: A::from_raw(table),
            index,
            entry_at: A::from_raw(table | (index * 8)),
        })
    }

    fn step(&self, n: usize) -> Option<Step<A>> {
        if n >= self.len() {
            return None;
        }
        let Place {
            level,
            table,
            index,
            entry_at,
        } = self.place(n)?;
        Some(Step {
            level,
            table,
            index,
            entry_at,
            raw: *self.raws.get(n)?,
        })
    }

    /// Where the entry after the last one read lies, if a table is below it.
    pub(crate) fn pending(&self) -> Option<Place<A>> {
        self.place(self.len())
    }

    /// Where the last entry read lies.
    pub(crate) fn last_place(&self) -> Option<Place<A>> {
        self.place(self.len().checked_sub(1)?)
    }

    /// The steps, from the root down.
    pub fn iter(&self) -> impl Iterator<Item = Step<A>> + '_ {
        let mut n = 0;
        iter::from_fn(move || {
            let step = self.step(n)?;
            n += 1;
            Some(step)
        })
    }

    /// The last entry that was read.
    pub fn last(&self) -> Option<Step<A>> {
        self.step(self.len().checked_sub(1)?)
    }

    /// How many entries were read.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether no entry was read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<A: AddressSpace> fmt::Debug for Steps<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
