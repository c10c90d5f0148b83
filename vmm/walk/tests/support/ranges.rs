//! What a walk of a range is held against: single walks, and the range itself.

use super::generate::{TABLES, addresses};
use proptest::prelude::*;
use std::collections::HashMap;
use std::fmt::Debug;
use walk::{AddressSpace, Translation, WalkError};

/// Runs of a range that are looked at, where it has more.
pub const MOST_RUNS: usize = 1000;

/// Where ranges begin: anywhere, and around the ends of halves and of tables.
pub fn starts() -> impl Strategy<Value = u64> {
    let edges = proptest::sample::select(vec![
        0,
        1 << 47,
        1 << 48,
        1 << 56,
        1 << 57,
        u64::MAX << 47,
        u64::MAX << 56,
        1 << 39,
        1 << 30,
        u64::MAX,
    ]);
    let near =
        (edges, -0x60_0000..0x60_0000_i64).prop_map(|(edge, by)| edge.wrapping_add_signed(by));
    prop_oneof![3 => addresses(), 2 => near]
}

/// How long they are: nothing, some pages, some tables, beyond the end of the space.
pub fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0_u64),
        2 => 1..0x1_0000_u64,
        4 => 1..0xc0_0000_u64,
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

/// Tables with an entry at every index, which go on alike for a while, as those of real
/// mappings do: the same bits with the next frame, with another frame, or nothing. Few
/// bits differ from one to the next, and some frames lie at the end of what there can be.
pub fn full_memories() -> impl Strategy<Value = HashMap<u64, u64>> {
    const FRAMES: u64 = 0xf_ffff_ffff_f000;
    let table = proptest::sample::select(&TABLES[..]).prop_map(|table| table | 0xa07);
    let width = proptest::sample::select(vec![0_u32, 0, 34, 46, 52]);
    let page = (any::<u64>(), any::<u64>(), width).prop_map(|(frame, bits, width)| {
        let at_the_end = match width {
            0 => frame & FRAMES >> 16,
            width => ((1 << width) - 0x40_0000) | frame & 0x3f_f000,
        };
        at_the_end & FRAMES | bits & 0x8000_0000_0000_00e0 | 0xa07
    });
    let absent = prop_oneof![3 => Just(0_u64), 1 => (0..64_u64).prop_map(|bits| bits << 4)];
    let first = prop_oneof![4 => table, 5 => page, 2 => absent, 1 => any::<u64>()];
    let stretch = (first, 1..200_usize, 0..6_u64);
    proptest::collection::vec(stretch, 24..40).prop_map(|stretches| {
        let mut endless = stretches.iter().cycle().flat_map(|&(first, count, step)| {
            let next = move |nth: usize| match step {
                0 => first.wrapping_add(nth as u64 * 0x1000),
                1 => first.wrapping_add(nth as u64 * 0x20_0000),
                2 => first ^ (nth as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & FRAMES,
                3 => first ^ (nth as u64 & 4) << 3,
                _ => first,
            };
            (0..count).map(next)
        });
        let places = TABLES
            .iter()
            .flat_map(|table| (0..512).map(move |index| table + index * 8));
        places.zip(&mut endless).collect()
    })
}

/// Places of a run of `span` + 1 bytes: its ends, and some within.
pub fn offsets(samples: &[u64], span: u64) -> impl Iterator<Item = u64> {
    let inside = samples.iter().map(move |sample| match span.checked_add(1) {
        Some(len_bytes) => sample % len_bytes,
        None => *sample,
    });
    inside.chain([0, span])
}

/// Runs follow one another without a gap, from the start to the end of a range.
pub struct Tiling {
    next: Option<u64>,
    last: u64,
}

impl Tiling {
    pub fn new(start: u64, len_bytes: u64) -> Self {
        Self {
            next: (len_bytes != 0).then_some(start),
            last: start.saturating_add(len_bytes.saturating_sub(1)),
        }
    }

    pub fn next(&mut self, start: u64, last: u64) {
        assert_eq!(Some(start), self.next, "no gap, no overlap");
        assert!(start <= last && last <= self.last, "{start:#x} {last:#x}");
        self.next = last.checked_add(1).filter(|&next| next <= self.last);
    }

    pub fn end(&self) {
        assert_eq!(self.next, None, "the range is covered");
    }
}

type Found<A, E> = Result<Translation<A>, WalkError<A, E>>;

/// Holds what a run says of an address against the walk for that address alone. Pages
/// are told by `moved`, the address that the run has for it.
pub fn assert_alike<A: AddressSpace, E: Debug + PartialEq>(
    run: &Found<A, E>,
    single: &Found<A, E>,
    moved: Option<u64>,
) {
    let (here, there) = match (run, single) {
        (Ok(here), Ok(there)) => (here, there),
        (Err(here), Err(there)) => {
            assert_eq!(here.level(), there.level());
            assert_eq!(here.raw(), there.raw());
            let ends = |error: &WalkError<A, E>| std::mem::discriminant(error);
            assert_eq!(ends(here), ends(there));
            let above = |error: &WalkError<A, E>| {
                let steps = error.steps().into_iter();
                let raws = steps.flat_map(|steps| steps.iter().map(|step| step.raw));
                raws.collect::<Vec<u64>>()
            };
            assert_eq!(above(here), above(there));
            return;
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(moved, Some(there.address.to_raw()));
    // All else is the same; of the entries, all but the last.
    let same = |page: &Translation<A>| {
        let Translation {
            page_size,
            access,
            memory_type,
            accessed,
            dirty,
            global,
            pkey,
            ept,
            ..
        } = *page;
        let mut above: Vec<u64> = page.steps.iter().map(|step| step.raw).collect();
        above.pop();
        (
            (
                page_size,
                access,
                memory_type,
                accessed,
                dirty,
                global,
                pkey,
                ept,
            ),
            above,
        )
    };
    assert_eq!(same(here), same(there));
}
