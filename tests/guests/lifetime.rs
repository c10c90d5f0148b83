//! Mappings that outlive what they were made from, and processes that share them.

use crate::common::{Ask, guest, mapped, signal};
use addr::PAGE_SIZE;
use harness::own_driver::{EAGER, LAZY};
use harness::{Mapping, Presence, Strategy};
use rstest::rstest;
use wire::{Advice, Prot};

fn ask(strategy: Strategy) -> Ask {
    Ask {
        strategy,
        window: "odd",
        first_page: 2,
        npages: 9,
        prot: Prot::READ_WRITE,
    }
}

#[rstest]
fn a_child_has_the_parents_pages(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(strategy));
    let parent = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(parent.mismatch, None);
    guest.fork().expect("an answer").expect("a child");
    let child = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(child.mismatch, None);
    assert_eq!(child.links, parent.links);
    guest
        .exit_child(3)
        .expect("an answer")
        .expect("it was waited for");
    let after = guest.witness(&mapping, &Presence::All).expect("walked");
    assert_eq!(after.mismatch, None);
}

#[rstest]
fn a_mapping_that_is_not_to_be_inherited_is_not(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(strategy));
    guest
        .madvise(mapping.gva, mapping.spec.len_bytes(), Advice::DontFork)
        .expect("an answer")
        .expect("advised");
    guest.fork().expect("an answer").expect("a child");
    let child = guest.witness(&mapping, &Presence::Nothing).expect("walked");
    assert_eq!(child.mismatch, None);
    guest
        .exit_child(0)
        .expect("an answer")
        .expect("it was waited for");
    let parent = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(parent.mismatch, None);
}

#[rstest]
fn rights_taken_away_are_gone_from_the_tables(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let mut mapping = mapped(&mut guest, ask(strategy));
    let in_use = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(in_use.mismatch, None);
    let len_bytes = mapping.spec.len_bytes();
    for prot in [Prot::READ, Prot::NONE] {
        guest
            .mprotect(mapping.gva, len_bytes, prot)
            .expect("an answer")
            .expect("lowered");
        mapping.spec.prot = prot;
        let lowered = guest.witness(&mapping, &Presence::All).expect("walked");
        assert_eq!(lowered.mismatch, None, "{prot:?}");
    }
    let load = guest.load(mapping.gva, PAGE_SIZE, 1).expect("an answer");
    assert_eq!(signal(load), libc::SIGSEGV);
}

/// What is left of a mapping after a piece of it was unmapped.
fn piece(mapping: &Mapping, first: u64, npages: u64) -> Mapping {
    let mut piece = mapping.clone();
    piece.gva = mapping.page_gva(first).expect("in the mapping");
    piece.spec.first_page += first;
    piece.spec.npages = npages;
    piece
}

#[rstest]
#[case::front(0, 3)]
#[case::middle(4, 2)]
#[case::back(7, 2)]
fn a_hole_takes_its_own_pages_and_no_other(
    #[case] first: u64,
    #[case] npages: u64,
    #[values(EAGER, LAZY)] strategy: Strategy,
) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(strategy));
    assert_eq!(
        guest.witness_in_use(&mapping).expect("walked").mismatch,
        None
    );
    let hole = piece(&mapping, first, npages);
    guest
        .munmap(hole.gva, hole.spec.len_bytes())
        .expect("an answer")
        .expect("unmapped");
    let judged = guest.witness(&hole, &Presence::Nothing).expect("walked");
    assert_eq!((judged.mismatch, judged.absent), (None, npages));
    let end = first + npages;
    for rest in [piece(&mapping, 0, first), piece(&mapping, end, 9 - end)] {
        if rest.spec.npages > 0 {
            let judged = guest.witness_in_use(&rest).expect("walked");
            assert_eq!((judged.mismatch, judged.present), (None, rest.spec.npages));
        }
    }
}

#[rstest]
fn a_moved_mapping_takes_its_pages_along(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(strategy));
    assert_eq!(
        guest.witness_in_use(&mapping).expect("walked").mismatch,
        None
    );
    let len_bytes = mapping.spec.len_bytes();
    let shrunk = guest
        .mremap(mapping.gva, len_bytes, 4 * PAGE_SIZE, false)
        .expect("an answer")
        .expect("shrunk");
    assert_eq!(shrunk, mapping.gva);
    let rest = piece(&mapping, 0, 4);
    assert_eq!(guest.witness_in_use(&rest).expect("walked").mismatch, None);
    let gone = piece(&mapping, 4, 5);
    let judged = guest.witness(&gone, &Presence::Nothing).expect("walked");
    assert_eq!(judged.mismatch, None);
}

#[test]
fn the_guests_own_account_agrees_where_it_has_one() {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(EAGER));
    let maps = guest
        .read_file("/proc/self/maps")
        .expect("an answer")
        .expect("read");
    let maps = String::from_utf8_lossy(&maps).into_owned();
    let end = mapping.gva.raw() + mapping.spec.len_bytes();
    let range = format!("{:x}-{end:x} rw-s {:08x}", mapping.gva.raw(), 2 * PAGE_SIZE);
    let line = maps.lines().find(|line| line.contains("mapwitness-eager1"));
    assert!(
        line.is_some_and(|line| line.starts_with(&range)),
        "{range}\n{maps}"
    );

    let smaps = guest
        .read_file("/proc/self/smaps")
        .expect("an answer")
        .expect("read");
    let smaps = String::from_utf8_lossy(&smaps).into_owned();
    let flags = smaps
        .split("mapwitness-eager1")
        .nth(1)
        .and_then(|rest| rest.lines().find(|line| line.starts_with("VmFlags:")))
        .expect("flags of the mapping");
    // io, pf: device memory without pages; de: never grown; dd: not dumped.
    for flag in ["io", "pf", "de", "dd", "sh", "rd", "wr"] {
        assert!(
            flags.split_whitespace().any(|it| it == flag),
            "{flag}: {flags}"
        );
    }
    // The kernel tells no frame of memory that it has no page for.
    let entries = guest
        .pagemap(mapping.gva, 9)
        .expect("an answer")
        .expect("read");
    assert!(
        entries.iter().all(|entry| entry & ((1 << 55) - 1) == 0),
        "{entries:x?}"
    );
}
