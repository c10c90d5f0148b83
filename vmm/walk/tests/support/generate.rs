//! Random tables that lead somewhere, and memory that holds anything.

use super::Outside;
use super::figures::Processor;
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use walk::{AddressSpace, TableRead};

pub fn processors() -> impl Strategy<Value = Processor> {
    let width = prop_oneof![Just(52_usize), Just(46), 32..=52_usize];
    (
        4..=5_usize,
        width,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(levels, maxphyaddr, nxe, gib_pages, amd)| Processor {
            levels,
            maxphyaddr,
            nxe,
            gib_pages,
            amd,
        })
}

/// First bytes of the few tables that random entries name.
pub const TABLES: [u64; 5] = [0x1000, 0x7000, 0x2_a000, 0x1_b45_000, 0x7fff_f000];
/// The few indices that random addresses use.
pub const INDICES: [u64; 4] = [0, 0xf3, 0x142, 0x1ff];

pub fn addresses() -> impl Strategy<Value = u64> {
    let index = || proptest::sample::select(&INDICES[..]);
    let made = (index(), index(), index(), index(), index(), 0..4096_u64).prop_map(
        |(i5, i4, i3, i2, i1, offset)| {
            i5 << 48 | i4 << 39 | i3 << 30 | i2 << 21 | i1 << 12 | offset
        },
    );
    let signed = |bits: u32| {
        move |raw: u64| ((raw << (64 - bits)).cast_signed() >> (64 - bits)).cast_unsigned()
    };
    prop_oneof![
        4 => made.clone().prop_map(signed(48)),
        4 => made.clone().prop_map(signed(57)),
        1 => made,
        1 => any::<u64>(),
    ]
}

/// Entries that get somewhere: mostly present, few bits wrong.
pub fn entries() -> impl Strategy<Value = u64> {
    let table = proptest::sample::select(&TABLES[..]);
    let noise = prop_oneof![
        6 => Just(0_u64),
        3 => (0..64_u32).prop_map(|bit| 1 << bit),
        1 => any::<u64>(),
    ];
    let flags = prop_oneof![Just(0x7_u64), Just(0x67), Just(0xe7), 0..0x200_u64];
    let made =
        (table, flags, noise.clone()).prop_map(|(table, flags, noise)| (table | flags) ^ noise);
    let large = (any::<u64>(), 0..0x200_u64, noise)
        .prop_map(|(high, flags, noise)| ((high & 0xf800_3fff_c000_0000) | flags | 0x81) ^ noise);
    prop_oneof![6 => made, 2 => large, 1 => any::<u64>()]
}

/// Entries of `entries` at every index of every table, few missing.
pub fn memories(entries: impl Strategy<Value = u64>) -> impl Strategy<Value = HashMap<u64, u64>> {
    let slots: Vec<u64> = TABLES
        .iter()
        .flat_map(|table| INDICES.map(|index| table + 8 * index))
        .collect();
    vec(proptest::option::weighted(0.97, entries), slots.len()).prop_map(move |values| {
        slots
            .iter()
            .zip(values)
            .filter_map(|(&at, raw)| Some((at, raw?)))
            .collect()
    })
}

/// Every address holds something.
pub struct Garbage<A> {
    seed: u64,
    pool: Vec<u64>,
    pub reads: Cell<usize>,
    space: PhantomData<A>,
}

impl<A> Garbage<A> {
    pub fn new(seed: u64, pool: Vec<u64>) -> Self {
        Self {
            seed,
            pool,
            reads: Cell::new(0),
            space: PhantomData,
        }
    }
}

impl<A: AddressSpace> TableRead for Garbage<A> {
    type Addr = A;
    type Error = Outside;

    fn read_entry(&self, at: A) -> Result<u64, Outside> {
        self.reads.set(self.reads.get() + 1);
        let mixed = (at.to_raw() ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = usize::try_from(mixed >> 40).expect("24 bits") % self.pool.len();
        Ok(self.pool[pick] | (mixed >> 63))
    }
}
