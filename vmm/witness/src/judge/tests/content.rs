//! Link stamp: what loads yield, and where stores arrive.

use addr::Level;

use super::End::{Fail, Pass};
use super::fixture::{Case, STAMPS, loaded};
use super::{B3, B4, CHAIN, RO1, b3, check};
use crate::contract::Access;
use crate::link::Link::Stamp;
use crate::stamp::{IDENTITY, LAST, Seen, Stamps};

fn seen(case: &mut Case) -> &mut Seen {
    case.seen.as_mut().expect("seen")
}

#[test]
fn a_load_of_anything_but_the_stamp_fails() {
    let word = |offset| format!("{:#018x}", STAMPS.word(B3, offset));
    let identity = format!("{} at byte 0x0, the stamp of b[3]", word(IDENTITY));
    let last = format!("{} at byte 0xff8, the stamp of b[3]", word(LAST));
    let neighbour = format!("{:#018x}, the stamp of b[4]", STAMPS.word(B4, IDENTITY));
    let other_vm = format!("{:#018x}", Stamps::new(8).word(B3, IDENTITY));
    let neighbours_last = format!("{:#018x}", STAMPS.word(B4, LAST));
    check(
        b3,
        &[
            (
                "neighbour",
                |c| seen(c).loaded = Ok(loaded(B4)),
                Fail(Stamp, &identity, &neighbour),
            ),
            (
                "zeroes",
                |c| seen(c).loaded.as_mut().expect("loaded").identity = 0,
                Fail(Stamp, &identity, "0x0000000000000000"),
            ),
            (
                "another VM",
                |c| {
                    seen(c).loaded.as_mut().expect("loaded").identity =
                        Stamps::new(8).word(B3, IDENTITY);
                },
                Fail(Stamp, &identity, &other_vm),
            ),
            (
                "begins right, ends as its neighbour",
                |c| seen(c).loaded.as_mut().expect("loaded").last = STAMPS.word(B4, LAST),
                Fail(Stamp, &last, &neighbours_last),
            ),
            (
                "signal",
                |c| seen(c).loaded = Err("SIGBUS at 0x7f123447a000".into()),
                Fail(Stamp, "a load from b[3]", "SIGBUS at 0x7f123447a000"),
            ),
        ],
    );
}

#[test]
fn a_store_must_arrive_once_and_in_its_page() {
    let arrives = "the guest's store arrives in b[3]";
    check(
        b3,
        &[
            (
                "elsewhere",
                |c| seen(c).stored = Some(Ok(vec![B4])),
                Fail(Stamp, arrives, "it arrives in b[4]"),
            ),
            (
                "nowhere",
                |c| seen(c).stored = Some(Ok(Vec::new())),
                Fail(Stamp, arrives, "it arrives nowhere in the device"),
            ),
            (
                "there and elsewhere",
                |c| seen(c).stored = Some(Ok(vec![B3, B4])),
                Fail(Stamp, arrives, "it arrives in b[3], b[4]"),
            ),
            (
                "signal",
                |c| seen(c).stored = Some(Err("SIGSEGV at 0x7f123447a008".into())),
                Fail(Stamp, arrives, "SIGSEGV at 0x7f123447a008"),
            ),
            // Loads alone are not what the link stands for on such a page.
            (
                "not tried",
                |c| seen(c).stored = None,
                Pass(&CHAIN[..5], &[Stamp]),
            ),
        ],
    );
}

#[test]
fn a_page_for_loads_only_must_refuse_a_store() {
    let refused = "a store to b[3] is refused";
    check(
        || Case::right(B3, Access::READ, Level::Pte),
        &[
            (
                "signal",
                |c| seen(c).stored = Some(Err("SIGSEGV at 0x7f123447a008".into())),
                Pass(CHAIN, &[]),
            ),
            (
                "arrives",
                |c| seen(c).stored = Some(Ok(vec![B3])),
                Fail(Stamp, refused, "it arrives in b[3]"),
            ),
            (
                "is lost",
                |c| seen(c).stored = Some(Ok(Vec::new())),
                Fail(Stamp, refused, "it arrives nowhere in the device"),
            ),
        ],
    );
    check(
        || Case::right(RO1, Access::READ, Level::Pte),
        &[(
            "neighbour of a window for loads only",
            |c| seen(c).loaded = Ok(loaded(B4)),
            Fail(
                Stamp,
                &format!(
                    "{:#018x} at byte 0x0, the stamp of ro[1]",
                    STAMPS.word(RO1, IDENTITY)
                ),
                &format!("{:#018x}, the stamp of b[4]", STAMPS.word(B4, IDENTITY)),
            ),
        )],
    );
}
