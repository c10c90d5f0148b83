//! Link second level.

use addr::{Level, Pfn};

use super::End::{self, Fail, Pass};
use super::fixture::{BIT_7, Case, Nested, PRESENT, PWT, TABLE, USER, WRITE};
use super::{BIG5, RO1, b3, check};
use crate::contract::Access;
use crate::link::Link::{Contract, GuestWalk, HostFrame, Memslot, SecondLevel, Stamp};
use crate::second_level::BroughtIn;

const B3_GPA: u64 = 0xd100_5000;
const B3_FRAME: Pfn = Pfn::new(0x8_0015);

/// Changes the leaf of the page's nested path.
fn leaf(case: &mut Case, change: impl Fn(u64) -> u64) {
    let mut nested = Nested::mapping(B3_GPA, B3_FRAME, true);
    nested.path[3] = change(nested.path[3]);
    case.second_level = Some(Ok(nested.entry()));
}

fn absent(case: &mut Case, brought_in: BroughtIn) {
    leaf(case, |_| 0);
    if let Some(Ok(entry)) = &mut case.second_level {
        entry.brought_in = brought_in;
    }
}

const fn fail(found: &str) -> End<'_> {
    let expected = "pfn 0x80015, the frame of b[3], writable, WB, within the window";
    Fail(SecondLevel, expected, found)
}

#[test]
fn an_entry_that_is_not_the_pages_own_fails() {
    check(
        b3,
        &[
            (
                "other frame",
                |c| leaf(c, |raw| raw ^ 0x1000),
                fail("pfn 0x80014, writable, WB, a page of 4 KiB"),
            ),
            (
                "read-only",
                |c| leaf(c, |raw| raw & !WRITE),
                fail("pfn 0x80015, read-only, WB, a page of 4 KiB"),
            ),
            (
                "no guest may use it",
                |c| leaf(c, |raw| raw & !USER),
                fail("pfn 0x80015, read-only, WB, a page of 4 KiB, not readable by a guest"),
            ),
            (
                "write-combining by its PAT index",
                |c| leaf(c, |raw| raw | PWT),
                fail("pfn 0x80015, writable, WC, a page of 4 KiB"),
            ),
            (
                "an MMIO entry",
                |c| leaf(c, |_| 1 << 51 | PRESENT),
                fail(
                    "level 1 entry 0x5 at hpa 0x9028 sets reserved bits 0x8000000000000 \
                     (raw 0x8000000000001), KVM's MMIO entry",
                ),
            ),
            (
                "not there, and KVM has no memory for it",
                |c| absent(c, BroughtIn::Refused("no slot".into())),
                fail(
                    "level 1 entry 0x5 at hpa 0x9028 is not present (raw 0x0), KVM's \
                     non-present entry; no slot",
                ),
            ),
        ],
    );
}

#[test]
fn a_page_larger_than_its_window_fails_even_where_the_frame_is_right() {
    fn large(case: &mut Case, gpa: u64) {
        let mut nested = Nested::mapping(gpa, Pfn::new(0x8_0000), true);
        nested.path[2] = 0x8_0000 << 12 | TABLE | BIT_7;
        case.second_level = Some(Ok(nested.entry()));
    }
    fn frame(case: &mut Case, pfn: u64) {
        (case.slot_frame, case.device_frame) = (Some(Ok(Pfn::new(pfn))), Some(Ok(Pfn::new(pfn))));
    }
    check(
        b3,
        &[(
            "2 MiB around 13 pages",
            |c| {
                frame(c, 0x8_0005);
                large(c, B3_GPA);
            },
            Fail(
                SecondLevel,
                "pfn 0x80005, the frame of b[3], writable, WB, within the window",
                "pfn 0x80005, writable, WB, a page of 2048 KiB",
            ),
        )],
    );
    check(
        || Case::right(BIG5, Access::READ_WRITE, Level::Pte),
        &[(
            "2 MiB that are the window",
            |c| {
                frame(c, 0x8_0005);
                large(c, 0xd120_5000);
            },
            Pass(super::CHAIN, &[]),
        )],
    );
}

#[test]
fn a_window_for_loads_only_takes_no_stores_below_the_guests_tables_either() {
    check(
        || Case::right(RO1, Access::READ, Level::Pte),
        &[(
            "takes stores",
            |c| {
                let nested = Nested::mapping(0xd140_2000, Pfn::new(0x8_0007), true);
                c.second_level = Some(Ok(nested.entry()));
            },
            Fail(
                SecondLevel,
                "pfn 0x80007, the frame of ro[1], read-only, WB, within the window",
                "pfn 0x80007, writable, WB, a page of 4 KiB",
            ),
        )],
    );
}

#[test]
fn tables_that_cannot_be_read_count_for_nothing() {
    const UNHEARD: End<'_> = Pass(
        &[Contract, GuestWalk, Memslot, HostFrame, Stamp],
        &[SecondLevel],
    );
    check(
        b3,
        &[
            (
                "no access to the host's memory",
                |c| c.second_level = Some(Err("run as root".into())),
                UNHEARD,
            ),
            ("not looked at", |c| c.second_level = None, UNHEARD),
            (
                "not there, and KVM maps nothing by itself",
                |c| absent(c, BroughtIn::Unsupported("too old".into())),
                UNHEARD,
            ),
        ],
    );
}

/// KVM without dirty bits learns of stores by withholding the right to them.
#[test]
fn a_right_to_store_may_come_with_the_first_store_where_nothing_records_it() {
    fn ept(case: &mut Case, write: bool, records: bool) {
        let nested = Nested::mapping_of_ept(B3_GPA, B3_FRAME, write);
        case.second_level = Some(Ok(nested.entry_of_ept(records)));
    }
    const READ_ONLY: &str = "pfn 0x80015, read-only, WB, a page of 4 KiB";
    check(
        b3,
        &[
            ("granted", |c| ept(c, true, false), Pass(super::CHAIN, &[])),
            (
                "not granted, and nobody has stored yet",
                |c| {
                    ept(c, false, false);
                    c.seen = None;
                },
                Pass(&[Contract, GuestWalk, Memslot, HostFrame], &[SecondLevel]),
            ),
            (
                "not granted, and yet stored to",
                |c| ept(c, false, false),
                fail(READ_ONLY),
            ),
            (
                "not granted where stores are recorded",
                |c| {
                    ept(c, false, true);
                    c.seen = None;
                },
                fail(READ_ONLY),
            ),
        ],
    );
}

/// So does KVM where it is to note which pages are stored to.
#[test]
fn a_right_to_store_may_come_with_the_first_store_where_stores_are_noted() {
    fn read_only(case: &mut Case, notes_stores: bool) {
        leaf(case, |raw| raw & !WRITE);
        case.notes_stores = notes_stores;
    }
    const READ_ONLY: &str = "pfn 0x80015, read-only, WB, a page of 4 KiB";
    check(
        b3,
        &[
            (
                "not granted, and nobody has stored yet",
                |c| {
                    read_only(c, true);
                    c.seen = None;
                },
                Pass(&[Contract, GuestWalk, Memslot, HostFrame], &[SecondLevel]),
            ),
            (
                "not granted, and yet stored to",
                |c| read_only(c, true),
                fail(READ_ONLY),
            ),
            (
                "not granted where nobody notes stores",
                |c| {
                    read_only(c, false);
                    c.seen = None;
                },
                fail(READ_ONLY),
            ),
        ],
    );
}
