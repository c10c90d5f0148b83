//! A device that takes a window away, or the right to write to it, while it is mapped:
//! the driver's mapping stays right, and what is below it is gone.

use crate::common::{Ask, guest, mapped, window};
use addr::PAGE_SIZE;
use contract::When;
use harness::{Guest, Mapping, Presence, Strategy};
use monitor::Offer;
use rstest::rstest;
use wire::Prot;
use witness::{Evidence, Link};

const NPAGES: u64 = 13;

fn map(guest: &mut Guest, name: &'static str) -> Mapping {
    let strategy = Strategy {
        name,
        present: When::OnTouch,
    };
    let ask = Ask {
        strategy,
        window: "odd",
        first_page: 0,
        npages: NPAGES,
        prot: Prot::READ_WRITE,
    };
    let mapping = mapped(guest, ask);
    assert_in_use(guest, &mapping);
    mapping
}

#[track_caller]
fn assert_in_use(guest: &mut Guest, mapping: &Mapping) {
    let judged = guest.witness_in_use(mapping).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!(judged.links.stamp, NPAGES);
}

fn offer(guest: &mut Guest, offer: Offer) {
    let index = window(guest, "odd");
    guest.vm_mut().offer_window(index, offer).expect("changed");
}

/// The guest's tables lead where they did.
#[track_caller]
fn assert_walks_are_right(guest: &Guest, mapping: &Mapping) {
    let base = guest.plan().windows[window(guest, "odd")].base;
    let evidence = Evidence::of(guest.vm()).expect("tables");
    for page in 0..NPAGES {
        let gva = mapping.page_gva(page).expect("in the mapping");
        let walked = evidence.page(gva, None, None).walked.expect("mapped");
        assert_eq!(Some(walked.address), base.checked_add(page * PAGE_SIZE));
    }
}

#[rstest]
fn a_withdrawn_window_leads_nowhere(
    #[values("eager", "lazy", "prepare-iomap", "prepare-lazy")] name: &'static str,
) {
    let mut guest = guest();
    let mapping = map(&mut guest, name);
    offer(&mut guest, Offer::Withdrawn);
    assert_walks_are_right(&guest, &mapping);
    for page in 0..NPAGES {
        let gva = mapping.page_gva(page).expect("in the mapping");
        let evidence = Evidence::of(guest.vm()).expect("tables");
        let found = evidence.page(gva, None, None);
        assert_eq!(found.slot, None);
        // A host that shows its tables has nothing in them; another says so.
        if let Some(Ok(entry)) = found.second_level {
            assert!(entry.walked.is_err(), "page {page}: {entry:?}");
        }
    }
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    let mismatch = judged.mismatch.expect("no window below");
    assert_eq!((mismatch.link, mismatch.page), (Link::Memslot, 0));

    // As from a device that is gone: all ones, and stores are lost.
    let count = u32::try_from(NPAGES).expect("few");
    let loaded = guest
        .load(mapping.gva, PAGE_SIZE, count)
        .expect("an answer");
    assert_eq!(loaded.expect("loaded"), [u64::MAX; 13]);
    let words = vec![0; 13];
    let stored = guest
        .store(mapping.gva, PAGE_SIZE, words)
        .expect("an answer");
    stored.expect("nobody refuses");

    offer(&mut guest, Offer::AsConfigured);
    assert_in_use(&mut guest, &mapping);
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[rstest]
fn a_window_that_was_made_read_only_keeps_its_contents(
    #[values("eager", "prepare-lazy")] name: &'static str,
) {
    let mut guest = guest();
    let mapping = map(&mut guest, name);
    offer(&mut guest, Offer::ReadOnly);
    assert_walks_are_right(&guest, &mapping);
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    let mismatch = judged.mismatch.expect("the slot is read-only");
    assert_eq!((mismatch.link, mismatch.page), (Link::Memslot, 0));
    // What the guest stores does not arrive, and what it loads is what was there.
    let words = vec![0; 13];
    let stored = guest
        .store(mapping.gva, PAGE_SIZE, words)
        .expect("an answer");
    stored.expect("nobody refuses");
    offer(&mut guest, Offer::AsConfigured);
    assert_in_use(&mut guest, &mapping);
}

/// What a guest stored to a window before the device took it away is put back as well.
#[rstest]
fn a_reset_gives_a_window_back_with_what_it_held(
    #[values(Offer::Withdrawn, Offer::ReadOnly)] less: Offer,
) {
    let mut guest = guest();
    let mapping = map(&mut guest, "eager");
    let start = guest.vm_mut().snapshot().expect("a snapshot");
    for again in [false, true] {
        let words = vec![!0; 13];
        let stored = guest.store(mapping.gva, PAGE_SIZE, words);
        stored.expect("an answer").expect("stored");
        offer(&mut guest, less);
        let while_withdrawn = guest.vm_mut().snapshot().map(drop);
        assert!(while_withdrawn.is_err(), "half of the machine");
        if again {
            offer(&mut guest, Offer::AsConfigured);
            offer(&mut guest, less);
        }
        guest.vm_mut().reset(&start).expect("reset");
        let differences = guest.vm_mut().differences(&start);
        assert_eq!(differences.expect("all of it"), [""; 0]);
        assert_in_use(&mut guest, &mapping);
        guest.vm_mut().reset(&start).expect("reset");
    }
}

#[test]
fn a_window_that_is_not_there_cannot_be_withdrawn() {
    let mut guest = guest();
    let none = guest.plan().windows.len();
    let error = guest.vm_mut().offer_window(none, Offer::Withdrawn);
    assert!(error.is_err());
}
