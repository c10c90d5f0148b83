//! Pages where nothing may be mapped.

use super::End::{Fail, Pass};
use super::fixture::{BIT_7, Case, LEAF, PRESENT, RAM_END, STAMPS, TABLE, TABLES, loaded};
use super::{B3, b3, check};
use crate::contract::{DevicePage, Expected};
use crate::link::Link::{Contract, GuestWalk, Stamp};
use crate::stamp::{IDENTITY, Loaded, Seen};

const PASS: super::End<'_> = Pass(&[Contract, GuestWalk], &[]);

#[test]
fn only_an_absent_entry_proves_absence() {
    let present = |found| Fail(GuestWalk, "nothing mapped", found);
    check(
        Case::absent,
        &[
            ("no root entry", |_| {}, PASS),
            (
                "no leaf, tables in place",
                |c| {
                    let [_, pud, pmd, pte] = TABLES;
                    c.tables.path = [pud | TABLE, pmd | TABLE, pte | TABLE, 0];
                },
                PASS,
            ),
            // PROT_NONE: a frame is noted, and the processor sees nothing.
            (
                "an entry that is not present",
                |c| {
                    c.tables.path = b3().tables.path;
                    c.tables.path[3] &= !PRESENT;
                },
                PASS,
            ),
            (
                "reserved bits",
                |c| c.tables.path[0] = TABLES[1] | TABLE | BIT_7,
                present("level 4 entry 0xfe at gpa 0x17f0 sets reserved bits 0x80 (raw 0x50e7)"),
            ),
            (
                "table outside memory",
                |c| c.tables.path[0] = RAM_END | TABLE,
                present(
                    "level 3 entry 0x48 at gpa 0x1000240 cannot be read; look at the entry above \
                     it, or the root, for a wrong table address",
                ),
            ),
            (
                "not canonical",
                |c| c.tables.gva = 1 << 47,
                present("gva 0x800000000000 is not canonical for tables that translate 48 bits"),
            ),
        ],
    );
    check(
        || Case {
            expected: Expected::Absent,
            seen: None,
            ..b3()
        },
        &[
            (
                "a device page",
                |_| {},
                present("gpa 0xd1005000 (b[3]), user rw-, UC-"),
            ),
            (
                "a page that is not the device's",
                |c| c.tables.path[3] = 0x7000 | LEAF,
                present("gpa 0x7000 (no page of the device), user rw-, UC-"),
            ),
            (
                "a page that user space cannot reach",
                |c| c.tables.path[3] &= !4,
                present("gpa 0xd1005000 (b[3]), kernel rw-, UC-"),
            ),
        ],
    );
}

/// The tables have nothing, and yet the guest gets through: a translation that
/// was not flushed.
#[test]
fn an_access_that_gets_through_is_no_absence() {
    fn seen(case: &mut Case, loaded: Result<Loaded, String>, stored: Result<DevicePage, String>) {
        case.seen = Some(Seen {
            loaded,
            stored: Some(stored.map(|page| vec![page])),
        });
    }
    fn signal<T>() -> Result<T, String> {
        Err("SIGSEGV at 0x7f123447a000".into())
    }
    let stamp = format!("{:#018x}, the stamp of b[3]", STAMPS.word(B3, IDENTITY));
    check(
        Case::absent,
        &[
            ("both refused", |c| seen(c, signal(), signal()), PASS),
            (
                "load gets through",
                |c| seen(c, Ok(loaded(B3)), signal()),
                Fail(Stamp, "a load is refused", &stamp),
            ),
            (
                "store gets through",
                |c| seen(c, signal(), Ok(B3)),
                Fail(Stamp, "a store is refused", "it arrives in b[3]"),
            ),
        ],
    );
}
