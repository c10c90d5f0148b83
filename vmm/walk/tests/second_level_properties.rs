//! The walks of EPT and NPT against readings of the manuals' figures, over random
//! tables.

mod support;

use addr::{Gpa, Hpa, Level};
use proptest::collection::vec;
use proptest::prelude::*;
use support::ept_figures::{EptEnd, EptPage, EptProcessor, follow_ept};
use support::figures::{End, Processor, follow};
use support::generate::{Garbage, TABLES, addresses, entries, memories, processors};
use support::ranges::{MOST_RUNS, Tiling, assert_alike, full_memories, lengths, offsets, starts};
use support::{Memory, Outside, PAT, type_of_field};
use walk::{EptRegs, MemoryType, NptRegs, SecondLevel, Translation, WalkError, eptp};

type Found = Result<Translation<Hpa>, WalkError<Hpa, Outside>>;

fn ept_processors() -> impl Strategy<Value = EptProcessor> {
    let width = prop_oneof![Just(52_usize), Just(46), 32..=52_usize];
    let flags = any::<[bool; 3]>();
    (4..=5_usize, width, flags).prop_map(
        |(levels, maxphyaddr, [gib_pages, execute_only, mode_based_exec])| EptProcessor {
            levels,
            maxphyaddr,
            gib_pages,
            execute_only,
            mode_based_exec,
        },
    )
}

/// Guest physical addresses: like virtual ones, without their sign.
fn gpas() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => addresses().prop_map(|gva| gva & 0xffff_ffff_ffff),
        8 => addresses().prop_map(|gva| gva & 0x1ff_ffff_ffff_ffff),
        1 => addresses(),
    ]
}

fn ept_entries() -> impl Strategy<Value = u64> {
    let table = proptest::sample::select(&TABLES[..]);
    let noise = prop_oneof![
        6 => Just(0_u64),
        3 => (0..64_u32).prop_map(|bit| 1 << bit),
        1 => any::<u64>(),
    ];
    let flags = prop_oneof![Just(0x907_u64), Just(0xb77), Just(0x405), 0..0x1000_u64];
    let made =
        (table, flags, noise.clone()).prop_map(|(table, flags, noise)| (table | flags) ^ noise);
    let large = (any::<u64>(), 0..0x1000_u64, noise)
        .prop_map(|(high, flags, noise)| ((high & 0xf800_3fff_c000_0000) | flags | 0x81) ^ noise);
    prop_oneof![6 => made, 2 => large, 1 => any::<u64>()]
}

fn plainly(found: &Found) -> EptEnd {
    let level = |level: Level| usize::from(level.number());
    let error = match found {
        Ok(page) => {
            let leaf = page.ept.expect("from EPT");
            return EptEnd::Page(EptPage {
                address: page.address.raw(),
                level: level(page.page_size),
                read: page.access.read,
                write: page.access.write,
                exec: page.access.exec,
                memory_type: match page.memory_type {
                    MemoryType::Uncacheable => 0,
                    MemoryType::WriteCombining => 1,
                    MemoryType::WriteThrough => 4,
                    MemoryType::WriteProtected => 5,
                    MemoryType::WriteBack => 6,
                    other => panic!("EPT has no {other}"),
                },
                ignore_pat: leaf.ignore_pat,
                suppress_ve: leaf.suppress_ve,
                accessed: page.accessed.expect("recorded"),
                dirty: page.dirty.expect("recorded"),
            });
        }
        Err(error) => error,
    };
    match (error, error.level(), error.raw()) {
        (WalkError::BeyondTables { .. }, None, None) => EptEnd::Beyond,
        (WalkError::NotPresent { .. }, Some(at), Some(raw)) => EptEnd::NotPresent {
            level: level(at),
            raw,
        },
        (WalkError::Reserved { .. }, Some(at), Some(raw)) => EptEnd::Misconfigured {
            level: level(at),
            raw,
        },
        (WalkError::Read { source, .. }, Some(at), None) => EptEnd::Unreadable {
            level: level(at),
            at: source.0,
        },
        other => panic!("no such end: {other:?}"),
    }
}

fn ept(cpu: EptProcessor, root: u64, accessed_dirty: bool) -> SecondLevel {
    let top = if cpu.levels == 5 {
        Level::Pgd
    } else {
        Level::P4d
    };
    SecondLevel::ept(&EptRegs {
        eptp: eptp(Hpa::new(root), top, accessed_dirty),
        maxphyaddr: u8::try_from(cpu.maxphyaddr).expect("at most 52"),
        gib_pages: cpu.gib_pages,
        execute_only: cpu.execute_only,
        mode_based_exec: cpu.mode_based_exec,
    })
    .expect("a valid pointer")
}

fn npt(cpu: Processor, root: u64) -> SecondLevel {
    SecondLevel::npt(&NptRegs {
        ncr3: root,
        five_levels: cpu.levels == 5,
        pat: PAT,
        nxe: cpu.nxe,
        maxphyaddr: u8::try_from(cpu.maxphyaddr).expect("at most 52"),
        gib_pages: cpu.gib_pages,
        encryption_bit: None,
    })
    .expect("a valid root")
}

/// NPT is the format of long mode, read with the rights of a user.
fn same_as_long_mode(found: &Found, expected: End) {
    match (expected, found) {
        (End::NotPresent { level, .. }, Err(error @ WalkError::NotPresent { .. }))
        | (End::Reserved { level, .. }, Err(error @ WalkError::Reserved { .. }))
        | (End::Unreadable { level, .. }, Err(error @ WalkError::Read { .. })) => {
            let found = error.level().map(Level::number).map(usize::from);
            assert_eq!(found, Some(level));
        }
        (End::Page(page), Ok(found)) => {
            assert_eq!(found.address.raw(), page.address);
            assert_eq!(usize::from(found.page_size.number()), page.level);
            assert_eq!(found.access.read, page.user);
            assert_eq!(found.access.write, page.user && page.write);
            assert_eq!(found.access.exec, page.user && page.exec);
            assert_eq!(found.memory_type, type_of_field(page.pat_index));
            assert_eq!(
                (found.accessed, found.dirty),
                (Some(page.accessed), Some(page.dirty))
            );
            assert_eq!((found.global, found.pkey, found.ept), (false, None, None));
        }
        (expected, found) => panic!("expected {expected:?}, found {found:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_ept_means_what_the_figures_say(
        cpu in ept_processors(),
        root in proptest::sample::select(&TABLES[..]),
        entries in memories(ept_entries()),
        wanted in vec(gpas(), 1..16),
    ) {
        let tables = ept(cpu, root, true);
        let memory = Memory::<Hpa>::new(entries.clone());
        for address in wanted {
            let found = tables.walk(&memory, Gpa::new(address));
            prop_assert_eq!(plainly(&found), follow_ept(cpu, root, &entries, address));
            // Without the recording of accesses the bits mean nothing.
            let unrecorded = ept(cpu, root, false).walk(&memory, Gpa::new(address));
            if let (Ok(page), Ok(with)) = (unrecorded, found) {
                prop_assert_eq!((page.accessed, page.dirty), (None, None));
                prop_assert_eq!(page.address, with.address);
            }
        }
    }

    #[test]
    fn any_npt_means_what_the_figures_say(
        cpu in processors(),
        root in proptest::sample::select(&TABLES[..]),
        entries in memories(entries()),
        wanted in vec(gpas(), 1..16),
    ) {
        let cpu = Processor { amd: true, ..cpu };
        let tables = npt(cpu, root);
        let memory = Memory::<Hpa>::new(entries.clone());
        for address in wanted {
            let found = tables.walk(&memory, Gpa::new(address));
            if address >> (12 + 9 * cpu.levels) != 0 {
                let beyond = matches!(found, Err(WalkError::BeyondTables { .. }));
                prop_assert!(beyond, "{:?}", found);
                continue;
            }
            // The oracle takes virtual addresses: its upper half is ours.
            let unused = 64 - (12 + 9 * cpu.levels);
            let canonical = ((address << unused).cast_signed() >> unused).cast_unsigned();
            same_as_long_mode(&found, follow(cpu, root, &entries, canonical));
        }
    }

    #[test]
    fn runs_tile_a_range_and_agree_with_single_walks(
        ept_cpu in ept_processors(),
        cpu in processors(),
        root in proptest::sample::select(&TABLES[..]),
        entries in prop_oneof![memories(ept_entries()), memories(entries()), full_memories()],
        start in starts(),
        len_bytes in lengths(),
        samples in vec(any::<u64>(), 8),
    ) {
        let memory = Memory::<Hpa>::new(entries);
        for tables in [ept(ept_cpu, root, true), npt(Processor { amd: true, ..cpu }, root)] {
            let mut tiling = Tiling::new(start, len_bytes);
            let mut walk = tables.range(&memory, Gpa::new(start), len_bytes);
            for _ in 0..MOST_RUNS {
                let Some(run) = walk.next_run() else {
                    tiling.end();
                    break;
                };
                tiling.next(run.start.raw(), run.last.raw());
                let frames: Vec<u64> = run.frames().map(Hpa::raw).collect();
                prop_assert_eq!(frames.is_empty(), run.found.is_err());
                for offset in offsets(&samples, run.last.raw() - run.start.raw()) {
                    let at = run.start.raw() + offset;
                    let moved = run.found.as_ref().ok().map(|page| {
                        let shift = page.page_size.shift();
                        let nth = (at >> shift) - (run.start.raw() >> shift);
                        frames[usize::try_from(nth).expect("few")] | at & (page.page_bytes() - 1)
                    });
                    assert_alike(&run.found, &tables.walk(&memory, Gpa::new(at)), moved);
                }
                if let Ok(page) = &run.found {
                    let first = run.start.raw() >> page.page_size.shift();
                    let last = run.last.raw() >> page.page_size.shift();
                    prop_assert_eq!(frames.len() as u64, last - first + 1);
                }
            }
        }
    }

    #[test]
    fn no_u64_can_make_a_second_level_walk_panic_or_loop(
        pointer in any::<u64>(), valid in any::<bool>(), maxphyaddr in any::<u8>(),
        flags in any::<[bool; 4]>(), encryption_bit in any::<Option<u8>>(), pat in any::<u64>(),
        gpa in any::<u64>(), seed in any::<u64>(), pool in vec(any::<u64>(), 1..9),
    ) {
        let [gib_pages, execute_only, mode_based_exec, five_levels] = flags;
        let (ept_pointer, ncr3, maxphyaddr, gpa) = if valid {
            ((pointer & 0xf_ffff_ffff_f000) | 0x1e, pointer & 0xf_ffff_ffff_ffff, 52, gpa >> 16)
        } else {
            (pointer, pointer, maxphyaddr, gpa)
        };
        let ept = SecondLevel::ept(&EptRegs {
            eptp: ept_pointer, maxphyaddr, gib_pages, execute_only, mode_based_exec,
        });
        let npt = SecondLevel::npt(&NptRegs {
            ncr3, five_levels, pat, nxe: execute_only, maxphyaddr, gib_pages, encryption_bit,
        });
        prop_assert!(!valid || (ept.is_ok() && npt.is_ok()));
        for tables in [ept, npt].into_iter().flatten() {
            let garbage = Garbage::<Hpa>::new(seed, pool.clone());
            let found = tables.walk(&garbage, Gpa::new(gpa));
            prop_assert!(garbage.reads.get() <= 5);
            if let Err(error) = found {
                let text = error.to_string();
                prop_assert!(text.len() > 10);
            }
            for &raw in &pool {
                prop_assert!(tables.spte(raw).to_string().contains("KVM"));
            }
            let mut walk = tables.range(&garbage, Gpa::new(gpa), u64::MAX);
            garbage.reads.set(0);
            prop_assert!(walk.next_run().is_some());
            for _ in 0..50 {
                let _ = walk.next_run();
            }
            // At most a table of each level for each run.
            prop_assert!(garbage.reads.get() <= 51 * 5 * 512);
        }
    }
}
