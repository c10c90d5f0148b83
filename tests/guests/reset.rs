//! A reset brings a guest back to its snapshot to the byte, whatever was done since.

use crate::common::{self, Ask, chain, config, errno, guest, mapped};
use harness::own_driver::{EAGER, LAZY, STRATEGIES};
use harness::{Guest, Presence};
use monitor::{Snapshot, VmConfig};
use wire::{Crash, OpenMode, Prot, Request, Sharing};
use witness::Link;

fn snapshot(guest: &mut Guest) -> Snapshot {
    let taken = guest.vm_mut().snapshot();
    taken.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// Resets and gives the number of pages that were put back.
fn reset(guest: &mut Guest, to: &Snapshot) -> u64 {
    let stats = guest.vm_mut().reset(to);
    stats
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
        .pages
}

fn differences(guest: &mut Guest, to: &Snapshot) -> Vec<String> {
    let found = guest.vm_mut().differences(to);
    found.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// Something of everything: mappings, page tables, files, kernel memory, the windows.
fn work(guest: &mut Guest, seed: u64) {
    for strategy in STRATEGIES {
        let ask = Ask {
            strategy,
            window: "odd",
            first_page: seed % 5,
            npages: 3 + seed % 4,
            prot: Prot::READ_WRITE,
        };
        let mapping = mapped(guest, ask);
        let words = vec![seed.wrapping_mul(0x9e37_79b9_7f4a_7c15); 3];
        let stored = guest.store(mapping.gva, 4096, words);
        stored.expect("an answer").expect("stored");
    }
    let anonymous = Request::Map {
        fd: None,
        fixed_at: None,
        len_bytes: 64 * 4096,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Private,
        offset_bytes: 0,
    };
    guest.request(&anonymous).expect("an answer");
    guest
        .request(&Request::Log {
            text: format!("work {seed}"),
        })
        .expect("an answer");
    let maps = guest.read_file("/proc/self/maps");
    maps.expect("an answer").expect("read");
}

#[test]
fn after_a_reset_nothing_differs() {
    let mut guest = guest();
    let start = snapshot(&mut guest);
    assert_eq!(differences(&mut guest, &start), Vec::<String>::new());
    let console = guest.vm().console().text();
    for seed in 0..6 {
        work(&mut guest, seed);
        // The look can see: there is something to put back.
        assert_ne!(differences(&mut guest, &start), Vec::<String>::new());
        let pages = reset(&mut guest, &start);
        assert!(pages > 0);
        assert_eq!(
            differences(&mut guest, &start),
            Vec::<String>::new(),
            "after {seed}"
        );
        assert_eq!(guest.vm().console().text(), console);
    }
}

#[test]
fn a_case_cannot_see_what_an_earlier_one_did() {
    let mut guest = guest();
    let start = snapshot(&mut guest);
    let story = |guest: &mut Guest| {
        let maps = guest.read_file("/proc/self/maps");
        let before = maps.expect("an answer").expect("read");
        let fd = guest
            .open("/proc/self/stat", OpenMode::ReadOnly)
            .expect("an answer")
            .expect("opened");
        let ask = Ask {
            strategy: LAZY,
            window: "odd",
            first_page: 0,
            npages: 13,
            prot: Prot::READ_WRITE,
        };
        let mapping = mapped(guest, ask);
        let untouched = guest
            .witness(&mapping, &Presence::Nothing)
            .expect("evidence");
        assert_eq!(untouched.mismatch, None);
        let seen = guest
            .load(mapping.gva, 4096, 13)
            .expect("an answer")
            .expect("loaded");
        let words = vec![0xdead_beef; 13];
        guest
            .store(mapping.gva, 4096, words)
            .expect("an answer")
            .expect("stored");
        (before, fd, mapping.gva, seen)
    };
    let first = story(&mut guest);
    for _ in 0..3 {
        reset(&mut guest, &start);
        assert_eq!(story(&mut guest), first);
    }
}

/// What the harness knows of a guest goes back with it: who answers, and which words
/// the next mapping is told by.
#[test]
fn the_harness_forgets_what_the_guest_forgot() {
    let mut guest = guest();
    let start = guest.snapshot().expect("its state");
    let agent = guest.current_pid();
    let story = |guest: &mut Guest| {
        let ask = Ask {
            strategy: EAGER,
            window: "odd",
            first_page: 0,
            npages: 13,
            prot: Prot::READ_WRITE,
        };
        let mapping = mapped(guest, ask);
        let judged = guest.witness_in_use(&mapping).expect("evidence");
        assert_eq!(judged.mismatch, None);
        // Which number the child gets is the guest's affair: its kernel's own threads take
        // numbers too, when its clock lets them.
        guest.fork().expect("an answer").expect("forked");
        assert_ne!(guest.current_pid(), agent);
        (mapping.gva, mapping.id)
    };
    let first = story(&mut guest);
    for _ in 0..2 {
        // The child, which answered last, is gone without having ended.
        let stats = guest.reset(&start).expect("reset");
        assert!(stats.pages > 0);
        assert_eq!(guest.current_pid(), agent);
        assert_eq!(story(&mut guest), first);
    }
}

#[test]
fn evidence_after_a_reset_is_as_good_as_before() {
    let mut guest = guest();
    let start = snapshot(&mut guest);
    for strategy in [EAGER, LAZY, EAGER] {
        let ask = Ask {
            strategy,
            window: "large",
            first_page: 500,
            npages: 64,
            prot: Prot::READ_WRITE,
        };
        let mapping = mapped(&mut guest, ask);
        let judged = guest.witness_in_use(&mapping).expect("evidence");
        assert_eq!(judged.mismatch, None);
        for link in Link::ALL {
            assert_eq!(
                judged.links.get(link),
                64,
                "{link}: {:?}",
                judged.unwitnessed
            );
        }
        reset(&mut guest, &start);
    }
}

#[test]
fn a_reset_touches_few_pages_when_little_was_done() {
    let mut guest = guest();
    let start = snapshot(&mut guest);
    guest
        .read_file("/proc/uptime")
        .expect("an answer")
        .expect("read");
    let little = reset(&mut guest, &start);
    assert!((1..400).contains(&little), "{little} pages");
    assert!(start.len_bytes() < 128 << 20, "{}", start.len_bytes());
}

#[test]
fn a_guest_that_panicked_lives_again() {
    let mut guest = guest();
    let start = snapshot(&mut guest);
    let died = guest.request(&Request::Crash(Crash::Panic));
    assert!(died.is_err(), "{died:?}");
    reset(&mut guest, &start);
    assert_eq!(differences(&mut guest, &start), Vec::<String>::new());
    work(&mut guest, 1);
}

#[test]
fn several_vcpus_come_back_together() {
    let config = VmConfig {
        vcpus: 2,
        ..config("good")
    };
    let mut guest = common::boot(&config);
    guest.load_driver().expect("the driver");
    let start = snapshot(&mut guest);
    for seed in 0..3 {
        work(&mut guest, seed);
        reset(&mut guest, &start);
        assert_eq!(differences(&mut guest, &start), Vec::<String>::new());
    }
    assert_eq!(
        errno(
            guest
                .open("/no/such", OpenMode::ReadOnly)
                .expect("an answer")
        ),
        libc::ENOENT
    );
}
