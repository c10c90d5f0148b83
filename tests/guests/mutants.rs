//! The battery that catches planted faults: the good driver passes it, with whatever
//! eyes, and a fault of each kind does not.

use crate::common::{self, config, kernel_facts};
use harness::Guest;
use harness::mutants::{Caught, EVERY_FAULT, Eyes, GOOD, first_finding};
use rstest::rstest;

fn look_at(name: &str, eyes: Eyes) -> Option<Caught> {
    let mut guest: Guest = common::boot(&config(EVERY_FAULT));
    first_finding(&mut guest, &kernel_facts(), name, eyes)
        .unwrap_or_else(|error| panic!("{name}: {}", common::chain(&error)))
}

#[rstest]
fn the_good_driver_passes(#[values(Eyes::All, Eyes::DataAlone)] eyes: Eyes) {
    assert_eq!(look_at(GOOD, eyes), None);
}

/// Each is caught by the witness that is there for it.
#[rstest]
#[case("off-by-one", "guest-walk")]
#[case("lazy-maps-at-once", "guest-walk")]
#[case("cached", "guest-walk")]
#[case("dontdump-missing", "vm_flags")]
#[case("close-not-counted", "page references")]
#[case("copies-not-counted", "reference count")]
#[case("reference-leaked", "page references")]
#[case("page-freed-while-mapped", "page references")]
#[case("device-told-wrong-page", "guest-walk")]
#[case("neighbours-without-bound", "guest-walk")]
#[case("io-missing", "vm_flags")]
fn a_fault_is_caught_by_its_witness(#[case] name: &str, #[case] by: &str) {
    let caught = look_at(name, Eyes::All).expect("the planted fault");
    assert_eq!(caught.by, by, "{caught:?}");
}

/// What a process sees tells a wrong page, and does not tell how a right one is cached.
#[rstest]
#[case("wrong-offset", true)]
#[case("cached", false)]
#[case("dontdump-missing", false)]
fn data_alone_tells_some(#[case] name: &str, #[case] is_seen: bool) {
    let seen = look_at(name, Eyes::DataAlone);
    assert_eq!(seen.is_some(), is_seen, "{seen:?}");
}
