//! Every strategy of the driver through both hooks: the same pages, the same
//! refusals, whichever of the kernel's functions installs the entries and whenever it
//! does.

use std::collections::BTreeSet;

use crate::common::{Ask, errno, guest, mapped, open, window};
use addr::PAGE_SIZE;
use contract::When;
use harness::{Guest, Mapping, Presence, Strategy};
use rstest::rstest;
use wire::{OpenMode, Prot, Sharing};
use witness::guest_walk::FrozenTables;

const fn eager(name: &'static str) -> Strategy {
    Strategy {
        name,
        present: When::AtMmap,
    }
}

const fn lazy(name: &'static str) -> Strategy {
    Strategy {
        name,
        present: When::OnTouch,
    }
}

/// Strategies that map everything at once.
const EAGER: [Strategy; 6] = [
    eager("remap"),
    eager("eager"),
    eager("iomap"),
    eager("prepare-remap"),
    eager("prepare-eager"),
    eager("prepare-iomap"),
];
/// Strategies that map a page, and nothing else, when it is touched.
const LAZY: [Strategy; 6] = [
    lazy("lazy"),
    lazy("prot"),
    lazy("whole"),
    lazy("prepare-lazy"),
    lazy("prepare-prot"),
    lazy("prepare-whole"),
];
/// Strategies that map more than the page that is touched.
const MORE: [Strategy; 4] = [
    lazy("huge"),
    lazy("around"),
    lazy("prepare-huge"),
    lazy("prepare-around"),
];
/// Windows, first pages and numbers of pages.
const SOME: [(&str, u64, u64); 4] = [
    ("page", 0, 1),
    ("odd", 0, 13),
    ("odd", 5, 3),
    ("large", 509, 6),
];
const HUGE_NPAGES: u64 = 512;

fn ask(strategy: Strategy, (window, first_page, npages): (&'static str, u64, u64)) -> Ask {
    Ask {
        strategy,
        window,
        first_page,
        npages,
        prot: Prot::READ_WRITE,
    }
}

#[track_caller]
fn assert_only(guest: &Guest, mapping: &Mapping, pages: impl IntoIterator<Item = u64>) {
    let pages: BTreeSet<u64> = pages.into_iter().collect();
    let npages = pages.len() as u64;
    let judged = guest
        .witness(mapping, &Presence::Only(pages))
        .expect("walked");
    let name = &mapping.spec.file.name;
    assert_eq!((judged.mismatch, judged.present), (None, npages), "{name}");
}

#[track_caller]
fn assert_in_use(guest: &mut Guest, mapping: &Mapping) {
    let judged = guest.witness_in_use(mapping).expect("walked");
    let name = &mapping.spec.file.name;
    assert_eq!(judged.mismatch, None, "{name}");
    assert_eq!(judged.links.stamp, mapping.spec.npages, "{name}");
}

fn touch(guest: &mut Guest, mapping: &Mapping, page: u64) {
    let gva = mapping.page_gva(page).expect("in the mapping");
    guest
        .load(gva, PAGE_SIZE, 1)
        .expect("an answer")
        .expect("loaded");
}

fn store(guest: &mut Guest, mapping: &Mapping, page: u64) {
    let gva = mapping.page_gva(page).expect("in the mapping");
    // A word that no stamp uses.
    let gva = gva.checked_add(PAGE_SIZE / 2).expect("in the page");
    guest
        .store(gva, PAGE_SIZE, vec![0])
        .expect("an answer")
        .expect("stored");
}

fn unmap(guest: &mut Guest, mapping: &Mapping) {
    guest
        .munmap(mapping.gva, mapping.spec.len_bytes())
        .expect("an answer")
        .expect("unmapped");
    assert_only(guest, mapping, []);
}

/// Bytes of the guest page that shows page `page` of the mapping.
fn page_size(guest: &Guest, mapping: &Mapping, page: u64) -> u64 {
    let gva = mapping.page_gva(page).expect("in the mapping");
    let tables = FrozenTables::of(guest.vm()).expect("tables");
    tables.walk(gva).expect("mapped").page_bytes()
}

fn no_complaints(guest: &mut Guest) {
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[test]
fn eager_strategies_map_every_page_before_it_is_touched() {
    let mut guest = guest();
    for strategy in EAGER {
        for pages in SOME {
            let mapping = mapped(&mut guest, ask(strategy, pages));
            assert_only(&guest, &mapping, 0..pages.2);
            assert_in_use(&mut guest, &mapping);
            unmap(&mut guest, &mapping);
        }
    }
    no_complaints(&mut guest);
}

#[test]
fn lazy_strategies_map_the_touched_page_and_no_other() {
    let mut guest = guest();
    for strategy in LAZY {
        for pages in SOME {
            let mapping = mapped(&mut guest, ask(strategy, pages));
            assert_only(&guest, &mapping, []);
            let middle = pages.2 / 2;
            touch(&mut guest, &mapping, middle);
            assert_only(&guest, &mapping, [middle]);
            assert_in_use(&mut guest, &mapping);
            unmap(&mut guest, &mapping);
        }
    }
    no_complaints(&mut guest);
}

/// Pages of the mapping that share a naturally aligned stretch of 16 pages with it.
fn neighbourhood(mapping: &Mapping, page: u64) -> std::ops::Range<u64> {
    const NPAGES: u64 = 16;
    let start = mapping.gva.raw() / PAGE_SIZE;
    let first = (start + page) / NPAGES * NPAGES;
    first.saturating_sub(start)..(first + NPAGES - start).min(mapping.spec.npages)
}

/// A load goes by `map_pages` once there is a table, a store by `fault` always: the
/// neighbourhood is the same.
#[rstest]
fn a_touch_brings_its_neighbours_in(#[values("around", "prepare-around")] name: &'static str) {
    let mut guest = guest();
    for (window, first_page, npages) in [("odd", 0, 13), ("odd", 3, 9), ("large", 100, 800)] {
        let mapping = mapped(&mut guest, ask(lazy(name), (window, first_page, npages)));
        assert_only(&guest, &mapping, []);
        let mut there = BTreeSet::new();
        for (page, is_store) in [
            (npages / 2, false),
            (0, true),
            (npages - 1, false),
            (1, true),
        ] {
            match is_store {
                true => store(&mut guest, &mapping, page),
                false => touch(&mut guest, &mapping, page),
            }
            there.extend(neighbourhood(&mapping, page));
            assert_only(&guest, &mapping, there.iter().copied());
        }
        assert_in_use(&mut guest, &mapping);
        unmap(&mut guest, &mapping);
    }
    no_complaints(&mut guest);
}

#[rstest]
fn a_touch_brings_in_2_mib_where_they_fit(
    #[values("huge", "prepare-huge")] name: &'static str,
    #[values(false, true)] is_store: bool,
) {
    let mut guest = guest();
    let touch_one = |guest: &mut Guest, mapping: &Mapping, page| match is_store {
        true => store(guest, mapping, page),
        false => touch(guest, mapping, page),
    };
    // The window is aligned to 2 MiB, and the driver has mappings aligned as it is.
    let mapping = mapped(&mut guest, ask(lazy(name), ("large", 0, 1024)));
    assert_only(&guest, &mapping, []);
    touch_one(&mut guest, &mapping, 700);
    assert_only(&guest, &mapping, HUGE_NPAGES..2 * HUGE_NPAGES);
    assert_eq!(page_size(&guest, &mapping, 512), 2 << 20);
    assert_in_use(&mut guest, &mapping);
    unmap(&mut guest, &mapping);

    // Page 512 of the window is page 62 of the mapping: what lies before it is no
    // whole stretch, and what lies behind it is one.
    let mapping = mapped(&mut guest, ask(lazy(name), ("large", 450, 574)));
    touch_one(&mut guest, &mapping, 61);
    assert_only(&guest, &mapping, [61]);
    touch_one(&mut guest, &mapping, 62);
    assert_only(&guest, &mapping, 61..574);
    assert_eq!(page_size(&guest, &mapping, 61), PAGE_SIZE);
    assert_eq!(page_size(&guest, &mapping, 62), 2 << 20);
    assert_in_use(&mut guest, &mapping);
    unmap(&mut guest, &mapping);
    no_complaints(&mut guest);
}

/// A window without a multiple of 2 MiB, and a mapping that ends before one does.
#[rstest]
#[case("odd", 0, 13)]
#[case("large", 1, 1023)]
#[case("large", 0, 511)]
fn what_is_too_small_for_2_mib_is_mapped_page_by_page(
    #[case] window: &'static str,
    #[case] first_page: u64,
    #[case] npages: u64,
    #[values("huge", "prepare-huge")] name: &'static str,
) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(lazy(name), (window, first_page, npages)));
    touch(&mut guest, &mapping, 5);
    assert_only(&guest, &mapping, [5]);
    assert_in_use(&mut guest, &mapping);
    unmap(&mut guest, &mapping);
}

/// A piece that is taken out of a huge page takes the whole of it, and what is left
/// comes back when it is touched.
#[rstest]
fn a_hole_in_2_mib_leaves_the_rest_right(#[values("huge", "prepare-huge")] name: &'static str) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(lazy(name), ("large", 0, 1024)));
    assert_in_use(&mut guest, &mapping);
    let hole = mapping.page_gva(600).expect("in the mapping");
    guest
        .munmap(hole, 3 * PAGE_SIZE)
        .expect("an answer")
        .expect("unmapped");
    for (first, npages) in [(0, 600), (603, 421)] {
        let mut piece = mapping.clone();
        piece.gva = mapping.page_gva(first).expect("in the mapping");
        piece.spec.first_page = first;
        piece.spec.npages = npages;
        assert_in_use(&mut guest, &piece);
    }
    no_complaints(&mut guest);
}

#[rstest]
fn a_mapping_that_is_to_stay_whole_does(#[values("whole", "prepare-whole")] name: &'static str) {
    let mut guest = guest();
    let mapping = mapped(&mut guest, ask(lazy(name), ("odd", 0, 13)));
    assert_in_use(&mut guest, &mapping);
    let second = mapping.page_gva(1).expect("in the mapping");
    let unmapped = guest.munmap(second, PAGE_SIZE).expect("an answer");
    assert_eq!(errno(unmapped), libc::EINVAL);
    let lowered = guest
        .mprotect(mapping.gva, PAGE_SIZE, Prot::READ)
        .expect("an answer");
    assert_eq!(errno(lowered), libc::EINVAL);
    assert_in_use(&mut guest, &mapping);
    unmap(&mut guest, &mapping);
}

/// The same answers as those of the strategies that the standard check asks.
#[test]
fn every_file_refuses_what_it_must() {
    let mut guest = guest();
    let all = EAGER.into_iter().chain(LAZY).chain(MORE);
    let odd = window(&guest, "odd");
    let read_only = window(&guest, "readonly");
    let exec = Prot {
        exec: true,
        ..Prot::READ
    };
    for strategy in all {
        let fd = open(&mut guest, strategy, odd, OpenMode::ReadWrite);
        let asks = [
            (0, 14, Prot::READ, Sharing::Shared, libc::EINVAL),
            (13, 1, Prot::READ, Sharing::Shared, libc::EINVAL),
            (12, 2, Prot::READ, Sharing::Shared, libc::EINVAL),
            (1 << 40, 1, Prot::READ, Sharing::Shared, libc::EINVAL),
            (0, 13, Prot::READ, Sharing::Private, libc::EINVAL),
            (0, 1, exec, Sharing::Shared, libc::EACCES),
            // Private goes first.
            (0, 1, exec, Sharing::Private, libc::EINVAL),
        ];
        for (first, npages, prot, sharing, wanted) in asks {
            let (offset, len) = (first * PAGE_SIZE, npages * PAGE_SIZE);
            let answer = guest.mmap(fd, offset, len, prot, sharing);
            let found = errno(answer.expect("an answer"));
            assert_eq!(found, wanted, "{} {first} {npages} {prot:?}", strategy.name);
        }
        guest.close(fd).expect("an answer").expect("closed");

        let fd = open(&mut guest, strategy, read_only, OpenMode::ReadWrite);
        let answer = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ_WRITE, Sharing::Shared);
        assert_eq!(errno(answer.expect("an answer")), libc::EACCES);
        let granted = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ, Sharing::Shared);
        let gva = granted.expect("an answer").expect("granted");
        let raised = guest.mprotect(gva, PAGE_SIZE, Prot::READ_WRITE);
        assert_eq!(errno(raised.expect("an answer")), libc::EACCES);
        let raised = guest.mprotect(gva, PAGE_SIZE, exec);
        assert_eq!(errno(raised.expect("an answer")), libc::EACCES);
        let grown = guest.mremap(gva, PAGE_SIZE, 2 * PAGE_SIZE, true);
        assert_eq!(errno(grown.expect("an answer")), libc::EFAULT);
        guest.close(fd).expect("an answer").expect("closed");
    }
    no_complaints(&mut guest);
}
