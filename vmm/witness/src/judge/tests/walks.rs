//! Link guest walk: where the tables lead, with which rights and memory type.

use addr::Level;

use super::End::Fail;
use super::fixture::{
    Case, GLOBAL, LEAF, NO_EXECUTE, PCD, PRESENT, PWT, RAM_END, TABLE, USER, WRITE,
};
use super::{B3, BIG5, b3, check, clear, set};
use crate::contract::Access;
use crate::link::Link::GuestWalk;

const WANTED: &str = "gpa 0xd1005000 (b[3]), user rw-, UC-";

#[test]
fn a_walk_to_another_page_fails() {
    fn leaf(case: &mut Case, gpa: u64) {
        case.tables.path[3] = gpa | LEAF;
    }
    check(
        b3,
        &[
            (
                "next page",
                |c| leaf(c, 0xd100_6000),
                Fail(GuestWalk, WANTED, "gpa 0xd1006000 (b[4]), user rw-, UC-"),
            ),
            (
                "page before",
                |c| leaf(c, 0xd100_4000),
                Fail(GuestWalk, WANTED, "gpa 0xd1004000 (b[2]), user rw-, UC-"),
            ),
            (
                "other window",
                |c| leaf(c, 0xd120_3000),
                Fail(GuestWalk, WANTED, "gpa 0xd1203000 (big[3]), user rw-, UC-"),
            ),
            (
                "no device page",
                |c| leaf(c, 0x7000),
                Fail(
                    GuestWalk,
                    WANTED,
                    "gpa 0x7000 (no page of the device), user rw-, UC-",
                ),
            ),
            (
                "the frame alone differs in its highest bit",
                |c| set(c, 3, 1 << 45),
                Fail(
                    GuestWalk,
                    WANTED,
                    "gpa 0x2000d1005000 (no page of the device), user rw-, UC-",
                ),
            ),
        ],
    );
}

/// A leaf of 2 MiB leads each page of it to a page of its own.
#[test]
fn a_page_of_a_large_leaf_is_held_to_its_own_address() {
    let wanted = "gpa 0xd1205000 (big[5]), user rw-, UC-";
    check(
        || Case::right(BIG5, Access::READ_WRITE, Level::Pmd),
        &[
            (
                "page after it",
                |c| c.tables.gva += 0x1000,
                Fail(GuestWalk, wanted, "gpa 0xd1206000 (big[6]), user rw-, UC-"),
            ),
            (
                "leaf 2 MiB off",
                |c| c.tables.path[2] += 0x20_0000,
                Fail(
                    GuestWalk,
                    wanted,
                    "gpa 0xd1405000 (no page of the device), user rw-, UC-",
                ),
            ),
            (
                "first page where the sixth is wanted",
                |c| c.tables.gva &= !0x1f_ffff,
                Fail(GuestWalk, wanted, "gpa 0xd1200000 (big[0]), user rw-, UC-"),
            ),
            (
                "bit 12 is PAT there",
                |c| {
                    clear(c, 2, PCD);
                    set(c, 2, 1 << 12 | PWT);
                },
                Fail(GuestWalk, wanted, "gpa 0xd1205000 (big[5]), user rw-, WP"),
            ),
        ],
    );
}

#[test]
fn rights_and_memory_types_are_held_exactly() {
    let rw = |found| Fail(GuestWalk, WANTED, found);
    check(
        b3,
        &[
            (
                "no stores",
                |c| clear(c, 3, WRITE),
                rw("gpa 0xd1005000 (b[3]), user r--, UC-"),
            ),
            (
                "no stores further up",
                |c| clear(c, 1, WRITE),
                rw("gpa 0xd1005000 (b[3]), user r--, UC-"),
            ),
            (
                "execution",
                |c| clear(c, 3, NO_EXECUTE),
                rw("gpa 0xd1005000 (b[3]), user rwx, UC-"),
            ),
            (
                "kernel",
                |c| clear(c, 3, USER),
                rw("gpa 0xd1005000 (b[3]), kernel rw-, UC-"),
            ),
            (
                "kernel further up",
                |c| clear(c, 0, USER),
                rw("gpa 0xd1005000 (b[3]), kernel rw-, UC-"),
            ),
            (
                "cached",
                |c| clear(c, 3, PCD),
                rw("gpa 0xd1005000 (b[3]), user rw-, WB"),
            ),
            (
                "strong UC",
                |c| set(c, 3, PWT),
                rw("gpa 0xd1005000 (b[3]), user rw-, UC"),
            ),
            (
                "write combining",
                |c| {
                    clear(c, 3, PCD);
                    set(c, 3, PWT);
                },
                rw("gpa 0xd1005000 (b[3]), user rw-, WC"),
            ),
            (
                "global",
                |c| set(c, 3, GLOBAL),
                rw("gpa 0xd1005000 (b[3]), user rw-, UC-, global"),
            ),
            (
                "protection key",
                |c| set(c, 3, 5 << 59),
                rw("gpa 0xd1005000 (b[3]), user rw-, UC-, protection key 5"),
            ),
        ],
    );
    check(
        || Case::right(B3, Access::READ, Level::Pte),
        &[(
            "stores too many",
            |c| set(c, 3, WRITE),
            Fail(GuestWalk, "gpa 0xd1005000 (b[3]), user r--, UC-", WANTED),
        )],
    );
}

#[test]
fn a_walk_that_does_not_arrive_fails() {
    let broken = |found| Fail(GuestWalk, WANTED, found);
    check(
        b3,
        &[
            (
                "not present",
                |c| clear(c, 3, PRESENT),
                broken("level 1 entry 0x7a at gpa 0x93d0 is not present (raw 0x80000000d1005076)"),
            ),
            (
                "no table",
                |c| c.tables.path[1] = 0,
                broken("level 3 entry 0x48 at gpa 0x5240 is not present (raw 0x0)"),
            ),
            (
                "reserved bit",
                |c| set(c, 3, 1 << 50),
                broken(
                    "level 1 entry 0x7a at gpa 0x93d0 sets reserved bits 0x4000000000000 \
                     (raw 0x80040000d1005077)",
                ),
            ),
            (
                "table outside memory",
                |c| c.tables.path[2] = RAM_END | TABLE,
                broken(
                    "level 1 entry 0x7a at gpa 0x10003d0 cannot be read; look at the entry above \
                     it, or the root, for a wrong table address",
                ),
            ),
            (
                "not canonical",
                |c| c.tables.gva |= 1 << 47,
                broken("gva 0xff123447a000 is not canonical for tables that translate 48 bits"),
            ),
        ],
    );
}
