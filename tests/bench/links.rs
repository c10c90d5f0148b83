//! What each link costs for each page: `cargo bench`.
//!
//! All links look at the same pages of the same guest in one run, so that their ratios
//! mean something on a machine whose speed does not.

#[path = "../common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use addr::{Gpa, Gva, PAGE_SIZE};
use common::{Ask, guest, mapped};
use harness::own_driver::EAGER;
use harness::{Guest, Mapping, Presence};
use wire::Prot;
use witness::guest_walk::FrozenTables;
use witness::host_frame::{Pagemap, at_one_moment};
use witness::memslot;
use witness::second_level::{LiveTables, host};

/// The shortest of these is taken: what disturbs only ever adds.
const ROUNDS: usize = 7;
const WINDOW: &str = "large";
const NPAGES: u64 = 1024;

fn main() {
    // Cargo asks each program of the kind for its list; this one has none.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let mut guest = guest();
    let opening = timed(|| assert!(host().is_ok(), "it is readable"));
    let mapping = mapped(
        &mut guest,
        Ask {
            strategy: EAGER,
            window: WINDOW,
            first_page: 0,
            npages: NPAGES,
            prot: Prot::READ_WRITE,
        },
    );
    let first = timed(|| second_level(&guest));
    let rows = links(&mut guest, &mapping);
    println!("{NPAGES} pages; the shortest of {ROUNDS} rounds");
    println!("{:<34}{:>12}{:>10}", "link", "ns a page", "ratio");
    let unit = rows[0].1;
    for (name, time) in rows {
        println!(
            "{name:<34}{:>12}{:>10.2}",
            per_page(time),
            ratio(time, unit)
        );
    }
    let name = "second-level, with pre-faulting";
    println!(
        "{name:<34}{:>12}{:>10.2}",
        per_page(first),
        ratio(first, unit)
    );
    let fd = guest.vm().vcpu_descriptor().expect("at the doorbell");
    let root = shortest(|| drop(black_box(host().map(|host| host.root(fd)))));
    println!("once: host opened in {opening:?}; for each look: root found in {root:?}");
}

/// Each link by itself, the guest walk first.
fn links(guest: &mut Guest, mapping: &Mapping) -> Vec<(&'static str, Duration)> {
    let below = shortest(|| drop(guest.witness(mapping, &Presence::All).expect("walked")));
    let rows = vec![
        ("guest-walk", shortest(|| guest_walk(guest, mapping))),
        ("memslot", shortest(|| memslots(guest))),
        ("host-frame", shortest(|| host_frames(guest))),
        ("second-level", shortest(|| second_level(guest))),
        ("all of these, and the judge", below),
    ];
    let in_use = shortest(|| drop(guest.witness_in_use(mapping).expect("walked")));
    let stamp = in_use.saturating_sub(below);
    rows.into_iter().chain([("stamp", stamp)]).collect()
}

fn guest_walk(guest: &Guest, mapping: &Mapping) {
    let tables = FrozenTables::of(guest.vm()).expect("long mode");
    for page in 0..NPAGES {
        let gva: Gva = mapping.page_gva(page).expect("small");
        black_box(tables.walk(gva)).expect("mapped");
    }
}

fn memslots(guest: &Guest) {
    for gpa in pages(guest) {
        black_box(memslot::find(guest.vm().memslots(), gpa)).expect("backed");
    }
}

fn host_frames(guest: &Guest) {
    let pagemap = Pagemap::open().expect("there");
    let window = &guest.vm().windows()[common::window(guest, WINDOW)];
    for (page, gpa) in (0..).zip(pages(guest)) {
        let ledger = window.ledger_hva(page).expect("in the window");
        let slot = memslot::find(guest.vm().memslots(), gpa).expect("backed");
        let (one, other) = at_one_moment(|| pagemap.pfn(ledger), || pagemap.pfn(slot.hva), || ());
        assert_eq!(one.expect("visible"), other.expect("visible"));
    }
}

fn second_level(guest: &Guest) {
    let tables = LiveTables::of(guest.vm()).expect("readable");
    for gpa in pages(guest) {
        black_box(tables.page(gpa)).expect("a root");
    }
    assert!(tables.are_in_force());
}

fn pages(guest: &Guest) -> impl Iterator<Item = Gpa> {
    let base = guest.vm().windows()[common::window(guest, WINDOW)].base();
    (0..NPAGES).map(move |page| base.checked_add(page * PAGE_SIZE).expect("small"))
}

fn shortest(mut work: impl FnMut()) -> Duration {
    let rounds = (0..ROUNDS).map(|_| timed(&mut work));
    rounds.min().unwrap_or_default()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn per_page(time: Duration) -> u128 {
    time.as_nanos() / u128::from(NPAGES)
}

fn ratio(time: Duration, unit: Duration) -> f64 {
    time.as_secs_f64() / unit.as_secs_f64()
}
