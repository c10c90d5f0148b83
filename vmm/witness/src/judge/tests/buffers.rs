//! Pages of buffers: RAM of the driver that the device was told of.

use super::fixture::{self, PCD, WRITE};
use super::*;
use crate::memslot;

const RING0: DevicePage = DevicePage::of_buffer(0, 0);
const RING1: DevicePage = DevicePage::of_buffer(0, 1);
/// The driver has told the device nothing of it.
const UNTOLD: DevicePage = DevicePage::of_buffer(0, 2);

fn ring0() -> Case {
    Case::of_buffer(RING0)
}

#[test]
fn what_is_right_passes_by_all_links() {
    for page in [RING0, RING1] {
        let (verdict, unheard) = Case::of_buffer(page).judge();
        assert_eq!(verdict, PageVerdict::Pass(CHAIN.to_vec()));
        assert_eq!(unheard, []);
    }
}

#[test]
fn each_deviation_fails_at_its_own_link() {
    const WALK: &str = "gpa 0x465000 (ring[0]), user rw-, WB";
    const SLOT: &str = "the memslot of RAM, writable";
    const ENTRY: &str = "pfn 0x90000, the frame behind its memslot, writable, WB";
    fn entry(case: &mut Case, change: impl FnOnce(&mut Nested)) {
        let gpa = fixture::plan().gpa(RING0).expect("told").raw();
        let mut nested = Nested::mapping(gpa, Pfn::new(0x9_0000), true);
        change(&mut nested);
        case.second_level = Some(Ok(nested.entry()));
    }
    check(
        ring0,
        &[
            (
                "another page of the buffer",
                |case| case.tables = Case::of_buffer(RING1).tables,
                Fail(GuestWalk, WALK, "gpa 0x123000 (ring[1]), user rw-, WB"),
            ),
            (
                "a page of nobody",
                |case| case.tables.path[3] ^= 0x10_0000,
                Fail(
                    GuestWalk,
                    WALK,
                    "gpa 0x565000 (no page of the device), user rw-, WB",
                ),
            ),
            (
                "uncached",
                |case| set(case, 3, PCD),
                Fail(GuestWalk, WALK, "gpa 0x465000 (ring[0]), user rw-, UC-"),
            ),
            (
                "for loads only",
                |case| clear(case, 3, WRITE),
                Fail(GuestWalk, WALK, "gpa 0x465000 (ring[0]), user r--, WB"),
            ),
            (
                "the memslot of a window",
                |case| case.slot = memslot::find(&fixture::slots(), Gpa::new(0xd100_2000)),
                Fail(Memslot, SLOT, "page 0 of memslot 2 (Window(1)), writable"),
            ),
            (
                "another frame behind its memslot",
                |case| case.slot_frame = Some(Ok(Pfn::new(0x9_0005))),
                Fail(
                    HostFrame,
                    "pfn 0x90000, the frame of ring[0]",
                    "pfn 0x90005",
                ),
            ),
            (
                "another frame in the second level",
                |case| entry(case, |nested| nested.path[3] += 0x5000),
                Fail(
                    SecondLevel,
                    ENTRY,
                    "pfn 0x90005, writable, WB, a page of 4 KiB",
                ),
            ),
            (
                "read-only in the second level",
                |case| entry(case, |nested| nested.path[3] &= !WRITE),
                Fail(
                    SecondLevel,
                    ENTRY,
                    "pfn 0x90000, read-only, WB, a page of 4 KiB",
                ),
            ),
            (
                "a store that arrives elsewhere",
                |case| {
                    let seen = case.seen.as_mut().expect("it was used");
                    seen.stored = Some(Ok(vec![RING1]));
                },
                Fail(
                    Stamp,
                    "the guest's store arrives in ring[0]",
                    "it arrives in ring[1]",
                ),
            ),
        ],
    );
}

#[test]
fn a_page_that_the_device_was_told_nothing_of_is_no_page() {
    let case = || Case {
        expected: Expected::Present {
            page: UNTOLD,
            access: Access::READ_WRITE,
            memory_type: MemoryType::WriteBack,
        },
        ..ring0()
    };
    let found = "the driver has told the device of no such page";
    check(
        case,
        &[("untold", |_| {}, Fail(Contract, "ring[2]", found))],
    );
}
