//! The walk of a guest's tables against the mappings that the tables were made
//! from: nothing is decoded to know what is right.

mod support;

use addr::{Gpa, Gva};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use support::figures::Processor;
use support::{Memory, Outside, regs};
use walk::{GuestTables, TableRead, WalkError, walk_guest};

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

const CPU: Processor = Processor {
    levels: 4,
    maxphyaddr: 52,
    nxe: true,
    gib_pages: true,
    amd: true,
};

/// Pages of `frames`, the first of them at address 0.
fn mapped(frames: impl IntoIterator<Item = u64>) -> (Memory<Gpa>, GuestTables) {
    let mut encoder = Encoder::default();
    let root = encoder.table(4, 4, 0);
    for (page, frame) in (0..).zip(frames) {
        let mapping = Mapping {
            size: 0,
            frame,
            write: true,
            user: true,
            exec: true,
        };
        encoder.map(4, page * 4096, mapping);
    }
    let tables = GuestTables::new(&regs(CPU, root)).expect("long mode");
    (Memory::new(encoder.entries), tables)
}

/// The entry after that of the last frame there is does not go on with the first one,
/// though it is greater by a page: the carry is a bit of its own.
#[test]
fn frames_do_not_go_on_past_the_last_one() {
    const LAST: u64 = (1 << 40) - 1;
    let (memory, tables) = mapped([LAST - 1, LAST, LAST + 1, 1]);
    let found = tables.walk(&memory, Gva::new(0x2000)).expect("mapped");
    assert_eq!(found.address, Gpa::new(0));
    let runs: Vec<u64> = tables
        .extents(&memory, Gva::new(0), 4 * 4096)
        .map(|extent| extent.last.raw())
        .collect();
    assert_eq!(runs, [0x1fff, 0x2fff, 0x3fff]);
}

/// Counts what is read.
struct Counting<'m> {
    memory: &'m Memory<Gpa>,
    tables: RefCell<HashMap<u64, u32>>,
}

impl TableRead for Counting<'_> {
    type Addr = Gpa;
    type Error = Outside;

    fn read_entry(&self, at: Gpa) -> Result<u64, Outside> {
        panic!("a single entry at {at}");
    }

    fn read_entries(&self, at: Gpa, into: &mut [u64]) -> Result<(), Outside> {
        *self
            .tables
            .borrow_mut()
            .entry(at.page_base().raw())
            .or_default() += 1;
        self.memory.read_entries(at, into)
    }
}

/// 64 MiB take 32 tables of the lowest level and one of each above, and as many reads.
#[test]
fn each_table_of_a_range_is_read_once() {
    const NPAGES: u64 = 16384;
    let (memory, tables) = mapped(0x5000..0x5000 + NPAGES);
    let counting = Counting {
        memory: &memory,
        tables: RefCell::default(),
    };
    let runs = tables
        .extents(&counting, Gva::new(0), NPAGES * 4096)
        .count();
    assert_eq!(runs, 32);
    let read = counting.tables.into_inner();
    assert_eq!(read.len(), 35);
    assert!(read.values().all(|count| *count == 1), "{read:?}");
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
        let cpu = Processor { levels: top as usize, ..CPU };
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
                    prop_assert_eq!(u32::try_from(found.steps.len()), Ok(top - mapping.size));
                }
            }
        }
        // The range walk finds each mapping once, whole, and nothing else.
        let tables = GuestTables::new(&regs(cpu, root)).expect("long mode");
        let present: HashMap<u64, u32> = tables
            .extents(&memory, Gva::new(half), 2 << 39)
            // At most one for each entry of the tables: a walk that gains no ground
            // is to fail here, not to hang.
            .take(memory.entries.len())
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
