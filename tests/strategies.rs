//! Every strategy of the driver through both hooks: the same pages, the same refusals, whichever of the
//! kernel's functions installs the entries and whenever it does.

mod common;

use std::collections::BTreeSet;

use addr::PAGE_SIZE;
use common::{guest, window};
use harness::{Guest, Mapping, MappingSpec, Presence, Strategy};
use wire::{Fd, OpenMode, Prot};

/// Prefixes of the device files' names: `mmap` and `mmap_prepare`.
const HOOKS: [&str; 2] = ["", "prepare-"];
/// Strategies that map everything at once.
const EAGER: [&str; 3] = ["remap", "eager", "iomap"];
/// Strategies that map a page, and nothing else, when it is touched.
const LAZY: [&str; 3] = ["lazy", "prot", "whole"];

fn path(hook: &str, strategy: &str, window: usize) -> String {
    format!("/dev/mapwitness-{hook}{strategy}{window}")
}

fn open(guest: &mut Guest, path: &str, prot: Prot) -> Fd {
    let mode = if prot.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    guest
        .open(path, mode)
        .expect("an answer")
        .unwrap_or_else(|refusal| panic!("{path}: {refusal}"))
}

/// Pages of a window, by its name.
#[derive(Clone, Copy, Debug)]
struct Pages(&'static str, u64, u64);

fn spec(guest: &Guest, Pages(name, first_page, npages): Pages, prot: Prot) -> MappingSpec {
    MappingSpec {
        // Only its name differs here: what is expected is said in each test.
        strategy: Strategy::Eager,
        window: window(guest, name),
        first_page,
        npages,
        prot,
    }
}

/// Maps through a file of its own, which is closed again.
fn mapped(guest: &mut Guest, hook: &str, strategy: &str, pages: Pages, prot: Prot) -> Mapping {
    let spec = spec(guest, pages, prot);
    let path = path(hook, strategy, spec.window);
    let fd = open(guest, &path, prot);
    let mapping = guest
        .map(fd, &spec)
        .expect("an answer")
        .unwrap_or_else(|refusal| panic!("{path} {pages:?}: {refusal}"));
    guest.close(fd).expect("an answer").expect("closed");
    mapping
}

#[track_caller]
fn assert_there(guest: &Guest, mapping: &Mapping, presence: &Presence, npages: u64) {
    let judged = guest.witness(mapping, presence).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!(judged.present, npages);
}

#[track_caller]
fn assert_in_use(guest: &mut Guest, mapping: &Mapping) {
    let judged = guest.witness_in_use(mapping).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!(judged.links.stamp, mapping.spec.npages);
}

fn touch(guest: &mut Guest, mapping: &Mapping, page: u64) {
    let gva = mapping.page_gva(page).expect("in the mapping");
    guest
        .load(gva, PAGE_SIZE, 1)
        .expect("an answer")
        .expect("loaded");
}

fn unmap(guest: &mut Guest, mapping: &Mapping) {
    guest
        .munmap(mapping.gva, mapping.spec.len_bytes())
        .expect("an answer")
        .expect("unmapped");
    assert_there(guest, mapping, &Presence::Nothing, 0);
}

fn no_complaints(guest: &mut Guest) {
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

const SOME: [Pages; 4] = [
    Pages("page", 0, 1),
    Pages("odd", 0, 13),
    Pages("odd", 5, 3),
    Pages("large", 509, 6),
];

#[test]
fn eager_strategies_map_every_page_before_it_is_touched() {
    let mut guest = guest();
    for hook in HOOKS {
        for strategy in EAGER {
            for pages in SOME {
                let mapping = mapped(&mut guest, hook, strategy, pages, Prot::READ_WRITE);
                assert_there(&guest, &mapping, &Presence::All, pages.2);
                assert_in_use(&mut guest, &mapping);
                unmap(&mut guest, &mapping);
            }
        }
    }
    no_complaints(&mut guest);
}

#[test]
fn lazy_strategies_map_the_touched_page_and_no_other() {
    let mut guest = guest();
    for hook in HOOKS {
        for strategy in LAZY {
            for pages in SOME {
                let mapping = mapped(&mut guest, hook, strategy, pages, Prot::READ_WRITE);
                assert_there(&guest, &mapping, &Presence::Nothing, 0);
                let middle = pages.2 / 2;
                touch(&mut guest, &mapping, middle);
                let only = Presence::Only(BTreeSet::from([middle]));
                assert_there(&guest, &mapping, &only, 1);
                assert_in_use(&mut guest, &mapping);
                unmap(&mut guest, &mapping);
            }
        }
    }
    no_complaints(&mut guest);
}
