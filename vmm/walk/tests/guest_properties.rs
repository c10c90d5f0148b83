//! The walker against two oracles written in other styles: a reading of the
//! manuals' figures (`support/figures.rs`) over random tables, and tables encoded
//! from a known set of mappings.

mod support;

use addr::{Gpa, Gva};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::HashMap;
use support::figures::{End, Page, Processor, follow};
use support::{Memory, Outside};
use walk::{
    GuestTables, MemoryType, PagingRegs, TableRead, Translation, Vendor, WalkError, walk_guest,
};

/// IA32_PAT with a different type in each field that has one.
const PAT: u64 = 0x0206_0005_0407_0106;

fn type_of_field(index: u64) -> MemoryType {
    match index {
        0 | 6 => MemoryType::WriteBack,
        1 => MemoryType::WriteCombining,
        2 => MemoryType::UncachedMinus,
        3 => MemoryType::WriteThrough,
        4 => MemoryType::WriteProtected,
        5 => MemoryType::Uncacheable,
        _ => MemoryType::Reserved(2),
    }
}

fn regs(cpu: Processor, root: u64) -> PagingRegs {
    PagingRegs {
        cr0: 0x8000_0001,
        cr3: root,
        cr4: 0x20 | if cpu.levels == 5 { 0x1000 } else { 0 } | 0x80 | 0x40_0000 | 0x100_0000,
        efer: if cpu.nxe { 0xd00 } else { 0x500 },
        pat: PAT,
        maxphyaddr: u8::try_from(cpu.maxphyaddr).expect("at most 52"),
        gib_pages: cpu.gib_pages,
        vendor: if cpu.amd { Vendor::Amd } else { Vendor::Intel },
    }
}

/// The walker's answer in the oracle's words.
fn plainly(found: Result<Translation<Gpa>, WalkError<Gpa, Outside>>) -> End {
    let entries = |steps: &walk::Steps<Gpa>| steps.iter().map(|step| step.raw).collect();
    let level = |level: addr::Level| usize::from(level.number());
    let error = match found {
        Ok(page) => {
            let pat_index = (0..8)
                .find(|&index| type_of_field(index) == page.memory_type)
                .expect("a type of PAT");
            assert!(page.access.read, "present pages can be read");
            return End::Page(Page {
                address: page.address.raw(),
                level: level(page.page_size),
                write: page.access.write,
                user: page.access.user,
                exec: page.access.exec,
                pat_index,
                accessed: page.accessed.expect("in every x86 leaf"),
                dirty: page.dirty.expect("in every x86 leaf"),
                global_bit: page.global,
                key: page.pkey.expect("both kinds of keys are on").into(),
                read: entries(&page.steps),
            });
        }
        Err(error) => error,
    };
    match (&error, error.level()) {
        (WalkError::NonCanonical { .. }, None) => End::NotCanonical,
        (WalkError::NotPresent { steps }, Some(at)) => End::NotPresent {
            level: level(at),
            read: entries(steps),
        },
        (WalkError::Reserved { steps, .. }, Some(at)) => End::Reserved {
            level: level(at),
            read: entries(steps),
        },
        (WalkError::Read { steps, source }, Some(at)) => {
            assert_eq!(error.entry_at(), Some(Gpa::new(source.0)));
            End::Unreadable {
                level: level(at),
                at: source.0,
                read: entries(steps),
            }
        }
        other => panic!("no such end: {other:?}"),
    }
}

/// Fields 0 and 6 hold the same type, which tells the walk's answer nothing.
fn without_twins(end: End) -> End {
    match end {
        End::Page(page) => End::Page(Page {
            pat_index: page.pat_index % 6,
            ..page
        }),
        other => other,
    }
}

fn processors() -> impl Strategy<Value = Processor> {
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
const TABLES: [u64; 5] = [0x1000, 0x7000, 0x2_a000, 0x1_b45_000, 0x7fff_f000];
/// The few indices that random addresses use.
const INDICES: [u64; 4] = [0, 0xf3, 0x142, 0x1ff];

fn addresses() -> impl Strategy<Value = u64> {
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
fn entries() -> impl Strategy<Value = u64> {
    let table = proptest::sample::select(&TABLES[..]);
    let noise = prop_oneof![
        6 => Just(0_u64),
        3 => (0..64_u32).prop_map(|bit| 1 << bit),
        1 => any::<u64>(),
    ];
    let flags = prop_oneof![Just(0x7_u64), Just(0x67), Just(0xe7), 0..0x200_u64];
    let made = (table, flags, noise).prop_map(|(table, flags, noise)| (table | flags) ^ noise);
    let large = (any::<u64>(), 0..0x200_u64)
        .prop_map(|(high, flags)| (high & 0xf800_3fff_c000_0000) | flags | 0x81);
    prop_oneof![6 => made, 2 => large, 1 => any::<u64>()]
}

fn memories() -> impl Strategy<Value = HashMap<u64, u64>> {
    let slots: Vec<u64> = TABLES
        .iter()
        .flat_map(|table| INDICES.map(|index| table + 8 * index))
        .collect();
    vec(proptest::option::weighted(0.97, entries()), slots.len()).prop_map(move |values| {
        slots
            .iter()
            .zip(values)
            .filter_map(|(&at, raw)| Some((at, raw?)))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_tables_mean_what_the_figures_say(
        cpu in processors(),
        root in proptest::sample::select(&TABLES[..]),
        memory in memories(),
        wanted in vec(addresses(), 1..16),
    ) {
        for address in wanted {
            let expected = follow(cpu, root, &memory, address);
            let memory = Memory::<Gpa>::new(memory.clone());
            let found = walk_guest(&memory, &regs(cpu, root), Gva::new(address));
            prop_assert_eq!(without_twins(plainly(found)), without_twins(expected));
        }
    }

    #[test]
    fn extents_tile_a_range_and_agree_with_single_walks(
        cpu in processors(),
        root in proptest::sample::select(&TABLES[..]),
        memory in memories(),
        start in addresses(),
        len_bytes in prop_oneof![Just(0_u64), 1..0x40_0000_u64, any::<u64>()],
        samples in vec(any::<u64>(), 8),
    ) {
        let memory = Memory::<Gpa>::new(memory);
        let tables = GuestTables::new(&regs(cpu, root)).expect("long mode");
        let last = start.saturating_add(len_bytes.saturating_sub(1));
        let mut next = Some(start).filter(|_| len_bytes != 0);
        // Recursive tables can map more pages than one wants to visit.
        for extent in tables.extents(&memory, Gva::new(start), len_bytes).take(2000) {
            prop_assert_eq!(Some(extent.start.raw()), next, "no gap, no overlap");
            prop_assert!(extent.start <= extent.last && extent.last.raw() <= last);
            let span = extent.last.raw() - extent.start.raw();
            let inside = samples.iter().map(|s| s.checked_rem(span).unwrap_or(0));
            for offset in inside.chain([0, span]) {
                let single = tables.walk(&memory, Gva::new(extent.start.raw() + offset));
                match (&extent.found, &single) {
                    (Ok(here), Ok(there)) => {
                        prop_assert_eq!(here.address.raw() + offset, there.address.raw());
                        prop_assert_eq!(here.page_size, there.page_size);
                        prop_assert_eq!(here.access, there.access);
                        prop_assert!(here.steps.iter().map(|s| s.raw)
                            .eq(there.steps.iter().map(|s| s.raw)));
                    }
                    (Err(here), Err(there)) => {
                        prop_assert_eq!(here.entry_at(), there.entry_at());
                        prop_assert_eq!(here.raw(), there.raw());
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            next = extent.last.raw().checked_add(1).filter(|&next| next <= last);
        }
    }

    #[test]
    fn no_u64_can_make_a_walk_panic_or_loop(
        cr0 in any::<u64>(), cr3 in any::<u64>(), cr4 in any::<u64>(), efer in any::<u64>(),
        pat in any::<u64>(), maxphyaddr in any::<u8>(), gib_pages in any::<bool>(),
        forced in any::<bool>(), gva in any::<u64>(), seed in any::<u64>(), pool in vec(any::<u64>(), 1..9),
    ) {
        // With `forced` the registers get the walk past the mode.
        let (cr0, cr3, cr4, efer, maxphyaddr, gva) = if forced {
            (cr0 | 0x8000_0001, cr3 & 0xf_ffff_ffff_ffff, cr4 | 0x20, efer | 0x400, 52,
             (gva.cast_signed() >> 17).cast_unsigned())
        } else {
            (cr0, cr3, cr4, efer, maxphyaddr, gva)
        };
        let regs = PagingRegs {
            cr0, cr3, cr4, efer, pat, maxphyaddr, gib_pages, vendor: Vendor::Amd,
        };
        let garbage = Garbage { seed, pool, reads: Cell::new(0) };
        let found = walk_guest(&garbage, &regs, Gva::new(gva));
        prop_assert!(garbage.reads.get() <= 5);
        match &found {
            Ok(translation) => {
                prop_assert!(translation.address.raw() < 1 << 52);
                prop_assert_eq!(translation.steps.len(), garbage.reads.get());
                let _ = format!("{:?}", translation);
            }
            Err(error) => {
                let text = format!("{} {:?}", error, error);
                prop_assert!(text.len() > 10);
            }
        }
        if let Ok(tables) = GuestTables::new(&regs) {
            let reached = tables.extents(&garbage, Gva::new(gva), u64::MAX).take(50).count();
            prop_assert!(reached >= 1);
        }
    }
}

/// Every address holds something.
struct Garbage {
    seed: u64,
    pool: Vec<u64>,
    reads: Cell<usize>,
}

impl TableRead for Garbage {
    type Addr = Gpa;
    type Error = Outside;

    fn read_entry(&self, at: Gpa) -> Result<u64, Outside> {
        self.reads.set(self.reads.get() + 1);
        let mixed = (at.raw() ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = usize::try_from(mixed >> 40).expect("24 bits") % self.pool.len();
        Ok(self.pool[pick] | (mixed >> 63))
    }
}

/// One page that the test decided to map.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    /// 0: 4 KiB, 1: 2 MiB, 2: 1 GiB.
    size: u32,
    frame: u64,
    write: bool,
    user: bool,
    exec: bool,
}

impl Mapping {
    fn shift(self) -> u32 {
        12 + 9 * self.size
    }
}

/// Tables for a set of mappings, each table in the next of a scattered row of
/// frames, every right granted above the leaves.
#[derive(Default)]
struct Encoder {
    entries: HashMap<u64, u64>,
    tables: HashMap<(u32, u64), u64>,
}

impl Encoder {
    /// The table of `level` that covers `address`, made with all above it.
    fn table(&mut self, top: u32, level: u32, address: u64) -> u64 {
        let covered = if level == top {
            0
        } else {
            address >> (12 + 9 * level)
        };
        if let Some(&table) = self.tables.get(&(level, covered)) {
            return table;
        }
        let number = self.tables.len() as u64;
        let table = (0x100 + number * 0x35) * 4096;
        self.tables.insert((level, covered), table);
        // An entry that no mapping fills is absent, not unreadable.
        self.entries
            .extend((0..512).map(|index| (table + index * 8, 0)));
        if level < top {
            let above = self.table(top, level + 1, address);
            let index = (address >> (12 + 9 * level)) % 512;
            self.entries.insert(above + index * 8, table + 7);
        }
        table
    }

    fn map(&mut self, top: u32, address: u64, mapping: Mapping) {
        let level = mapping.size + 1;
        let table = self.table(top, level, address);
        let index = (address >> mapping.shift()) % 512;
        let mut raw = mapping.frame * 4096 + 1;
        raw += if mapping.write { 2 } else { 0 };
        raw += if mapping.user { 4 } else { 0 };
        raw += if mapping.size > 0 { 128 } else { 0 };
        raw += if mapping.exec { 0 } else { 1 << 63 };
        self.entries.insert(table + index * 8, raw);
    }
}

fn mappings() -> impl Strategy<Value = HashMap<u64, Mapping>> {
    // The key is the page's number within 512 GiB and a bit.
    let place = (0..3_u32, 0..2_u64, 0..3_u64, 0..4_u64, 0..6_u64);
    let rights = any::<[bool; 3]>();
    vec((place, 0..1_u64 << 34, rights), 1..24).prop_map(|wanted| {
        let mut by_page = HashMap::<u64, Mapping>::new();
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for ((size, i4, i3, i2, i1), frame, [write, user, exec]) in wanted {
            let npages = 512_u64.pow(size);
            let page = ((i4 * 512 + i3) * 512 + i2) * 512 + i1;
            let first = page / npages * npages;
            if taken
                .iter()
                .any(|&(f, n)| first < f + n && f < first + npages)
            {
                continue;
            }
            taken.push((first, npages));
            let frame = frame / npages * npages;
            by_page.insert(
                first,
                Mapping {
                    size,
                    frame,
                    write,
                    user,
                    exec,
                },
            );
        }
        by_page
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn tables_made_from_mappings_lead_back_to_them(
        by_page in mappings(),
        top in 4..=5_u32,
        upper_half in any::<bool>(),
        probes in vec((0..2_u64, 0..3_u64, 0..4_u64, 0..7_u64, 0..4096_u64), 1..64),
    ) {
        let half = match (upper_half, top) {
            (false, _) => 0,
            (true, 4) => 0xffff_8000_0000_0000,
            (true, _) => 0xff00_0000_0000_0000,
        };
        let mut encoder = Encoder::default();
        let root = encoder.table(top, top, half);
        for (&page, &mapping) in &by_page {
            encoder.map(top, half | (page * 4096), mapping);
        }
        let memory = Memory::<Gpa>::new(encoder.entries);
        let cpu = Processor {
            levels: top as usize, maxphyaddr: 52, nxe: true, gib_pages: true, amd: true,
        };
        for (i4, i3, i2, i1, offset) in probes {
            let page = ((i4 * 512 + i3) * 512 + i2) * 512 + i1;
            let owner = by_page.iter().find(|(first, mapping)| {
                (**first..**first + 512_u64.pow(mapping.size)).contains(&page)
            });
            let found = walk_guest(&memory, &regs(cpu, root), Gva::new(half | (page * 4096 + offset)));
            match owner {
                None => prop_assert!(matches!(found, Err(WalkError::NotPresent { .. })), "{found:?}"),
                Some((first, mapping)) => {
                    let found = found.expect("mapped");
                    let expected = (mapping.frame + page - first) * 4096 + offset;
                    prop_assert_eq!(found.address, Gpa::new(expected));
                    prop_assert_eq!(found.page_size.shift(), mapping.shift());
                    prop_assert_eq!(found.access.write, mapping.write);
                    prop_assert_eq!(found.access.user, mapping.user);
                    prop_assert_eq!(found.access.exec, mapping.exec);
                    prop_assert_eq!(found.steps.len() as u32, top - mapping.size);
                }
            }
        }
        // The range walk finds each mapping once, whole, and nothing else.
        let tables = GuestTables::new(&regs(cpu, root)).expect("long mode");
        let present: HashMap<u64, u32> = tables
            .extents(&memory, Gva::new(half), 2 << 39)
            .filter(|extent| !extent.is_absent())
            .map(|extent| {
                let page = extent.found.expect("mapped").page_size;
                ((extent.start.raw() - half) / 4096, (page.shift() - 12) / 9)
            })
            .collect();
        let expected: HashMap<u64, u32> =
            by_page.iter().map(|(&first, mapping)| (first, mapping.size)).collect();
        prop_assert_eq!(present, expected);
    }
}
