//! A range of addresses, run by run: each table that covers it is read once, in bulk.

mod alike;
mod run;

use addr::Level;
use core::iter;
use core::ops::Range;

use crate::descend::{Leaf, Root, narrowed, violation};
use crate::format::Format;
use crate::{Access, AddressSpace, Steps, TableRead, Translation, WalkError};

use alike::{count_alike, frames_before_carry};
pub use run::{Extent, Frames, Run, Untranslated};

/// Entries of a table.
const ENTRIES: usize = 512;
/// Those of the lowest level that are read at once: all of the table.
const LOWEST_ROOM: usize = ENTRIES;
/// Entries of a table above: few of them decide about a range, unless it is mostly a hole.
const UPPER_ROOM: usize = 64;
const LEVELS: usize = 5;

/// Tables of one format, as [`RangeWalk`] needs them.
pub trait Tables {
    /// The space that they translate from.
    type From: AddressSpace;
    /// The space that they translate to, and lie in.
    type To: AddressSpace;
    /// Their format.
    fn format(&self) -> &Format;
    /// Where they begin.
    fn root(&self) -> Root;
    /// The last address of the stretch around `address` that they translate.
    ///
    /// # Errors
    /// [`Untranslated`] when they do not translate `address` at all.
    fn translated_to(&self, address: u64) -> Result<u64, Untranslated>;
    /// What a leaf of them says.
    fn interpret(&self, leaf: Leaf<Self::To>) -> Translation<Self::To>;
}

/// A table on the way, and which of its entries are held.
#[derive(Clone, Copy)]
struct Held {
    /// First byte of the table.
    table: u64,
    /// What the entries above it grant.
    access: Access,
    /// Index of the first entry that is held.
    first: usize,
    /// Number of entries that are held.
    count: usize,
    /// The entry that was taken last.
    raw: u64,
}

impl Held {
    const fn none_of(table: u64, access: Access) -> Self {
        Self {
            table,
            access,
            first: 0,
            count: 0,
            raw: 0,
        }
    }
}

/// A walk of a range. Its work is bounded by the range: a run costs at most five reads,
/// whatever the tables lead back to, and an absent entry is passed in one step.
pub struct RangeWalk<'a, T, R> {
    tables: &'a T,
    mem: &'a R,
    frames: Frames,
    /// First address that is still to be looked at.
    next: Option<u64>,
    /// Last address of the range.
    end: u64,
    /// An address that `path` leads to, down to `level`.
    at: u64,
    level: Level,
    path: [Held; LEVELS],
    entries: [u64; LOWEST_ROOM + (LEVELS - 1) * UPPER_ROOM],
}

/// What was decided about the addresses up to `last`, and by which of the held entries.
struct Decided<A: AddressSpace, E> {
    found: Result<Translation<A>, WalkError<A, E>>,
    last: u64,
    by: Range<usize>,
    frame_bits: u64,
}

impl<'a, T: Tables, R: TableRead<Addr = T::To>> RangeWalk<'a, T, R> {
    /// From `start` on for `len_bytes`, cut off at the end of the space.
    pub(crate) fn new(
        tables: &'a T,
        mem: &'a R,
        start: T::From,
        len_bytes: u64,
        frames: Frames,
    ) -> Self {
        let root = tables.root();
        let start = start.to_raw();
        let table = root.table & tables.format().frame_mask;
        Self {
            tables,
            mem,
            frames,
            next: (len_bytes != 0).then_some(start),
            end: start.saturating_add(len_bytes.saturating_sub(1)),
            at: start,
            level: root.top,
            path: [Held::none_of(table, Access::ALL); LEVELS],
            entries: [0; LOWEST_ROOM + (LEVELS - 1) * UPPER_ROOM],
        }
    }

    /// The next run. It borrows the walk, which holds its entries.
    pub fn next_run(&mut self) -> Option<Run<'_, T::From, T::To, R::Error>> {
        let at = self.next?;
        let Decided {
            found,
            last,
            by,
            frame_bits,
        } = match self.tables.translated_to(at) {
            Ok(end) => self.decide(at, end.min(self.end)),
            Err(refused) => Decided {
                found: Err(refused.error()),
                last: refused.last(),
                by: 0..0,
                frame_bits: 0,
            },
        };
        // `last` is at least `at`, so each turn gains ground or is the last one.
        let last = last.clamp(at, self.end);
        self.next = last.checked_add(1).filter(|next| *next <= self.end);
        Some(Run {
            start: T::From::from_raw(at),
            last: T::From::from_raw(last),
            found,
            entries: self.entries.get(by).unwrap_or_default(),
            frame_bits,
        })
    }

    /// All that is left, by runs that stand by themselves.
    pub(crate) fn extents(mut self) -> impl Iterator<Item = Extent<T::From, T::To, R::Error>> {
        iter::from_fn(move || {
            let Run {
                start, last, found, ..
            } = self.next_run()?;
            Some(Extent { start, last, found })
        })
    }

    /// Goes down to the entry that decides about `at`. `end` is the last address that
    /// the same entries may be asked about.
    fn decide(&mut self, at: u64, end: u64) -> Decided<T::To, R::Error> {
        let format = self.tables.format();
        let mut level = self.common_level(at);
        self.at = at;
        loop {
            self.level = level;
            let by = match self.hold(level, at, end) {
                Ok(by) => by,
                Err(source) => {
                    let steps = self.steps(level, at, false);
                    return self.one(level, at, WalkError::Read { steps, source });
                }
            };
            let held = self.entries.get(by.clone()).unwrap_or_default();
            let raw = held.first().copied().unwrap_or_default();
            let Some(place) = self.path.get_mut(depth(level)) else {
                unreachable!("a level has a place");
            };
            place.raw = raw;
            // Presence comes first: the other bits of an absent entry mean nothing.
            if !format.is_present(raw) {
                let alike = count_alike(held, 0, 0);
                let steps = self.steps(level, at, true);
                return Decided {
                    last: last_of(level, at, alike),
                    ..self.one(level, at, WalkError::NotPresent { steps })
                };
            }
            if let Some(violation) = violation(format, level, raw) {
                let steps = self.steps(level, at, true);
                return self.one(level, at, WalkError::Reserved { violation, steps });
            }
            let access = narrowed(place.access, &format.grants, raw);
            match level.lower() {
                Some(below) if !format.is_leaf(level, raw) => {
                    let table = raw & format.frame_mask;
                    if let Some(place) = self.path.get_mut(depth(below)) {
                        *place = Held::none_of(table, access);
                    }
                    level = below;
                }
                _ => return self.leaf(level, at, access, by),
            }
        }
    }

    /// The lowest level of which the table that covers `at` is known.
    fn common_level(&self, at: u64) -> Level {
        let top = self.tables.root().top;
        let mut level = self.level;
        while level != top && (at ^ self.at) >> (level.shift() + 9) != 0 {
            level = Level::numbered(level.number() + 1).unwrap_or(top);
        }
        level
    }

    /// The entries from the one for `at` on that are held, reading them if there are
    /// none. They end with the table, or with the one for `end`.
    fn hold(&mut self, level: Level, at: u64, end: u64) -> Result<Range<usize>, R::Error> {
        let index = usize::try_from(level.index(at)).unwrap_or_default();
        let (room_at, room) = room_of(level);
        let Some(held) = self.path.get_mut(depth(level)) else {
            unreachable!("a level has a place");
        };
        let known = index.checked_sub(held.first).filter(|n| *n < held.count);
        if known.is_none() {
            let most = room.min(ENTRIES - index);
            let after = (end >> level.shift()) - (at >> level.shift());
            let count = usize::try_from(after).map_or(most, |after| most.min(after + 1));
            let entries = self.entries.get_mut(room_at..room_at + count);
            let from = T::To::from_raw(held.table | (level.index(at) * 8));
            held.count = read(self.mem, from, entries.unwrap_or_default())?;
            held.first = index;
        }
        Ok(room_at + known.unwrap_or(0)..room_at + held.count)
    }

    /// The entries read on the way to `level`, with or without that of this level.
    fn steps(&self, level: Level, at: u64, with_last: bool) -> Steps<T::To> {
        let root = self.tables.root();
        let frame_mask = self.tables.format().frame_mask;
        let mut steps = Steps::new(at, root.table, root.top, frame_mask);
        let lowest = depth(level) + usize::from(!with_last);
        let path = self.path.get(lowest..=depth(root.top)).unwrap_or_default();
        path.iter().rev().for_each(|held| steps.push(held.raw));
        steps
    }

    fn one(
        &self,
        level: Level,
        at: u64,
        error: WalkError<T::To, R::Error>,
    ) -> Decided<T::To, R::Error> {
        Decided {
            found: Err(error),
            last: last_of(level, at, 1),
            by: 0..0,
            frame_bits: 0,
        }
    }

    /// The page that the first of the entries `by` maps, and as many as go on like it.
    fn leaf(
        &self,
        level: Level,
        at: u64,
        access: Access,
        by: Range<usize>,
    ) -> Decided<T::To, R::Error> {
        let format = self.tables.format();
        let held = self.entries.get(by.clone()).unwrap_or_default();
        let raw = held.first().copied().unwrap_or_default();
        let offset_mask = level.bytes() - 1;
        let frame_bits = format.frame_mask & !offset_mask;
        // Bits of which no value makes a leaf malformed.
        let free = frame_bits & !format.leaf_reserved.at(level);
        let alike = match self.frames {
            Frames::Scattered => count_alike(held, 0, free),
            Frames::Consecutive => {
                let most = usize::try_from(frames_before_carry(raw, free, level));
                let reach = most.unwrap_or(ENTRIES).min(held.len());
                count_alike(held.get(..reach).unwrap_or_default(), level.bytes(), 0)
            }
        };
        let leaf = Leaf {
            raw,
            level,
            address: T::To::from_raw((raw & frame_bits) | (at & offset_mask)),
            access,
            steps: self.steps(level, at, true),
        };
        Decided {
            found: Ok(self.tables.interpret(leaf)),
            last: last_of(level, at, alike),
            by: by.start..by.start + alike,
            frame_bits,
        }
    }
}

/// Last address that `count` entries from the one for `at` on decide about.
const fn last_of(level: Level, at: u64, count: usize) -> u64 {
    let span = (count as u64).saturating_mul(level.bytes()) - 1;
    (at & !(level.bytes() - 1)).saturating_add(span)
}

/// Reads these entries, or at least the first of them; says how many it were.
fn read<R: TableRead>(mem: &R, from: R::Addr, into: &mut [u64]) -> Result<usize, R::Error> {
    if mem.read_entries(from, into).is_ok() {
        return Ok(into.len());
    }
    // Some of them are not there; that matters only where the walk comes to them.
    let raw = mem.read_entry(from)?;
    if let Some(entry) = into.first_mut() {
        *entry = raw;
    }
    Ok(1)
}

/// Place of a level's table in the path.
const fn depth(level: Level) -> usize {
    level as usize - 1
}

/// Where the held entries of a level stand, and how many there can be.
const fn room_of(level: Level) -> (usize, usize) {
    match depth(level) {
        0 => (0, LOWEST_ROOM),
        depth => (LOWEST_ROOM + (depth - 1) * UPPER_ROOM, UPPER_ROOM),
    }
}
