//! The walk of a guest's tables against a reading of the manuals' figures
//! (`support/figures.rs`), over random tables.

mod support;

use addr::{Gpa, Gva};
use proptest::collection::vec;
use proptest::prelude::*;
use support::figures::{End, Page, follow};
use support::generate::{Garbage, TABLES, addresses, entries, memories, processors};
use support::ranges::{MOST_RUNS, Tiling, assert_alike, full_memories, lengths, offsets, starts};
use support::{Memory, Outside, regs, type_of_field};
use walk::{GuestTables, PagingRegs, Translation, Vendor, WalkError, walk_guest};

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_tables_mean_what_the_figures_say(
        cpu in processors(),
        root in proptest::sample::select(&TABLES[..]),
        memory in memories(entries()),
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
        memory in prop_oneof![memories(entries()), full_memories()],
        start in starts(),
        len_bytes in lengths(),
        samples in vec(any::<u64>(), 8),
    ) {
        let memory = Memory::<Gpa>::new(memory);
        let tables = GuestTables::new(&regs(cpu, root)).expect("long mode");
        let mut tiling = Tiling::new(start, len_bytes);
        // Recursive tables can map more pages than one wants to visit.
        for extent in tables.extents(&memory, Gva::new(start), len_bytes).take(MOST_RUNS) {
            tiling.next(extent.start.raw(), extent.last.raw());
            for offset in offsets(&samples, extent.last.raw() - extent.start.raw()) {
                let single = tables.walk(&memory, Gva::new(extent.start.raw() + offset));
                let moved = extent.found.as_ref().map(|page| page.address.raw() + offset);
                assert_alike(&extent.found, &single, moved.ok());
            }
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
        let garbage = Garbage::<Gpa>::new(seed, pool);
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
