//! Page-backed files: RAM that the driver shares with the device and with user space.
//!
//! Which page is which is what the device was told by the driver. What lies there is
//! written and read by the host.

use crate::common::{bind, control, errno, guest, signal, unbind};
use addr::{Gpa, Gva, PAGE_SIZE};
use harness::Guest;
use rstest::rstest;
use walk::MemoryType;
use wire::ioctls::{RESTORE, REVOKE, Target};
use wire::{OpenMode, Prot, Sharing};
use witness::guest_walk::FrozenTables;

/// Pages of the standard buffer.
const NPAGES: u64 = 5;
const EAGER: [&str; 4] = ["pages", "mappages", "prepare-pages", "prepare-mappages"];
const LAZY: [&str; 2] = ["pagefault", "prepare-pagefault"];
const BUFFER: Target = Target {
    is_buffer: true,
    index: 0,
};

/// What the device was told of its buffer.
fn device_pages(guest: &Guest) -> Vec<Gpa> {
    let buffers = guest.vm().buffers();
    assert_eq!(buffers.len(), 1);
    let pages: Option<Vec<Gpa>> = buffers[0].pages.iter().copied().collect();
    let pages = pages.expect("the driver gave every page");
    assert_eq!(pages.len() as u64, NPAGES);
    pages
}

/// A word of its own for each page, written by the host.
fn stamp(guest: &mut Guest, pages: &[Gpa]) -> Vec<u64> {
    let words: Vec<u64> = (0..pages.len() as u64)
        .map(|page| 0x5eed_0000 + page)
        .collect();
    for (gpa, word) in pages.iter().zip(&words) {
        guest
            .vm_mut()
            .write(*gpa, &word.to_le_bytes())
            .expect("RAM");
    }
    words
}

fn map(
    guest: &mut Guest,
    name: &str,
    first: u64,
    npages: u64,
    prot: Prot,
) -> harness::Outcome<Gva> {
    let path = format!("/dev/mapwitness-{name}0");
    let mode = if prot.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let fd = guest.open(&path, mode).expect("an answer").expect(&path);
    let (offset, len) = (first * PAGE_SIZE, npages * PAGE_SIZE);
    let answer = guest.mmap(fd, offset, len, prot, Sharing::Shared);
    guest.close(fd).expect("an answer").expect("closed");
    answer.expect("an answer")
}

fn page(gva: Gva, page: u64) -> Gva {
    gva.checked_add(page * PAGE_SIZE).expect("an address")
}

/// Where the guest's tables lead, for each page of a mapping.
fn walked(guest: &Guest, gva: Gva, npages: u64, prot: Prot) -> Vec<Option<Gpa>> {
    let tables = FrozenTables::of(guest.vm()).expect("tables");
    let walk = |at| match tables.walk(page(gva, at)) {
        Ok(found) => {
            assert_eq!(found.memory_type, MemoryType::WriteBack);
            assert!(found.access.user && !found.access.exec);
            assert_eq!(found.access.write, prot.write);
            Some(found.address)
        }
        Err(error) => {
            assert!(error.is_not_present(), "{error}");
            None
        }
    };
    (0..npages).map(walk).collect()
}

/// Every page of the mapping is the device's, and carries what either side wrote.
fn assert_in_use(guest: &mut Guest, gva: Gva, pages: &[Gpa]) {
    let npages = pages.len() as u64;
    let words = stamp(guest, pages);
    let count = u32::try_from(npages).expect("few");
    let loaded = guest.load(gva, PAGE_SIZE, count).expect("an answer");
    assert_eq!(loaded.expect("loaded"), words);
    let stored: Vec<u64> = words.iter().map(|word| !word).collect();
    let at = gva.checked_add(64).expect("in the page");
    guest
        .store(at, PAGE_SIZE, stored.clone())
        .expect("an answer")
        .expect("stored");
    for (gpa, word) in pages.iter().zip(stored) {
        let at = gpa.checked_add(64).expect("in the page");
        assert_eq!(guest.vm().read_u64(at).expect("RAM"), word);
    }
    let there: Vec<Option<Gpa>> = pages.iter().copied().map(Some).collect();
    assert_eq!(walked(guest, gva, npages, Prot::READ_WRITE), there);
}

fn unmap(guest: &mut Guest, gva: Gva, npages: u64) {
    guest
        .munmap(gva, npages * PAGE_SIZE)
        .expect("an answer")
        .expect("unmapped");
}

/// How often pages are mapped, by the kernel's own account (/proc/kpagecount).
fn map_counts(guest: &mut Guest, pages: &[Gpa]) -> Vec<u64> {
    read_page_file(guest, "/proc/kpagecount", pages)
}

fn read_page_file(guest: &mut Guest, path: &str, pages: &[Gpa]) -> Vec<u64> {
    let fd = guest.open(path, OpenMode::ReadOnly).expect("an answer");
    let fd = fd.expect(path);
    let mut words = Vec::new();
    for gpa in pages {
        let request = wire::Request::Read {
            fd,
            offset_bytes: gpa.raw() / PAGE_SIZE * 8,
            len_bytes: 8,
        };
        match guest.request(&request).expect("an answer") {
            wire::Reply::Done(wire::Value::Bytes(bytes)) => {
                words.push(u64::from_le_bytes(bytes.try_into().expect("a word")));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    guest.close(fd).expect("an answer").expect("closed");
    words
}

#[test]
fn the_device_has_pages_of_ram_that_are_all_different() {
    let guest = guest();
    let mut pages = device_pages(&guest);
    pages.sort();
    pages.dedup();
    assert_eq!(pages.len() as u64, NPAGES);
    assert!(
        pages
            .iter()
            .all(|page| page.raw() < 128 << 20 && page.is_page_aligned())
    );
}

#[test]
fn every_page_of_a_mapping_is_the_devices() {
    let mut guest = guest();
    let pages = device_pages(&guest);
    for name in EAGER.into_iter().chain(LAZY) {
        for (first, npages) in [(0, NPAGES), (2, 2), (4, 1)] {
            let prot = Prot::READ_WRITE;
            let gva = map(&mut guest, name, first, npages, prot).expect(name);
            let first = usize::try_from(first).expect("small");
            let mine = &pages[first..][..usize::try_from(npages).expect("small")];
            let before = walked(&guest, gva, npages, prot);
            let is_lazy = LAZY.contains(&name);
            assert!(
                before.iter().all(|page| page.is_none() == is_lazy),
                "{name}"
            );
            assert_in_use(&mut guest, gva, mine);
            unmap(&mut guest, gva, npages);
            assert_eq!(walked(&guest, gva, npages, prot), vec![None; mine.len()]);
        }
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[test]
fn a_page_fault_brings_in_one_page() {
    let mut guest = guest();
    let pages = device_pages(&guest);
    for name in LAZY {
        let gva = map(&mut guest, name, 0, NPAGES, Prot::READ).expect(name);
        let load = guest.load(page(gva, 3), PAGE_SIZE, 1).expect("an answer");
        load.expect("loaded");
        let mut wanted = vec![None; 5];
        wanted[3] = Some(pages[3]);
        assert_eq!(walked(&guest, gva, NPAGES, Prot::READ), wanted);
        unmap(&mut guest, gva, NPAGES);
    }
}

#[test]
fn what_a_buffer_has_not_is_refused() {
    let mut guest = guest();
    for name in EAGER.into_iter().chain(LAZY) {
        for (first, npages) in [(0, 6), (5, 1), (4, 2), (1 << 40, 1)] {
            let answer = map(&mut guest, name, first, npages, Prot::READ);
            assert_eq!(errno(answer), libc::EINVAL, "{name} {first} {npages}");
        }
        let gva = map(&mut guest, name, 0, 1, Prot::READ).expect(name);
        let grown = guest.mremap(gva, PAGE_SIZE, 2 * PAGE_SIZE, true);
        assert_eq!(errno(grown.expect("an answer")), libc::EFAULT, "{name}");
    }
}

/// One more for each entry, in whatever process, and one less for each that goes.
#[test]
fn references_follow_the_entries() {
    let mut guest = guest();
    let pages = device_pages(&guest);
    for name in EAGER.into_iter().chain(LAZY) {
        assert_eq!(map_counts(&mut guest, &pages), [0; 5], "{name}");
        let gva = map(&mut guest, name, 0, NPAGES, Prot::READ_WRITE).expect(name);
        assert_in_use(&mut guest, gva, &pages);
        assert_eq!(map_counts(&mut guest, &pages), [1; 5], "{name}");
        guest.fork().expect("an answer").expect("a child");
        assert_in_use(&mut guest, gva, &pages);
        assert_eq!(map_counts(&mut guest, &pages), [2; 5], "{name}");
        unmap(&mut guest, page(gva, 1), 2);
        assert_eq!(map_counts(&mut guest, &pages), [2, 1, 1, 2, 2], "{name}");
        guest.exit_child(0).expect("an answer").expect("ended");
        assert_eq!(map_counts(&mut guest, &pages), [1; 5], "{name}");
        unmap(&mut guest, gva, NPAGES);
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

/// The device is told to forget the pages; the mapping keeps them, and gives them back
/// with its last reference.
#[rstest]
fn a_mapping_keeps_the_pages_of_a_driver_that_is_gone(
    #[values("pages", "prepare-mappages", "pagefault", "prepare-pagefault")] name: &str,
) {
    let mut guest = guest();
    let pages = device_pages(&guest);
    let gva = map(&mut guest, name, 0, NPAGES, Prot::READ_WRITE).expect(name);
    assert_in_use(&mut guest, gva, &pages);
    unbind(&mut guest);
    assert_eq!(guest.vm().buffers()[0].pages, [None; 5]);
    assert_in_use(&mut guest, gva, &pages);
    // Bound again, the driver gives other pages: these are still in use.
    bind(&mut guest);
    let others = device_pages(&guest);
    assert!(others.iter().all(|other| !pages.contains(other)));
    assert_in_use(&mut guest, gva, &pages);
    assert_eq!(map_counts(&mut guest, &pages), [1; 5]);
    unmap(&mut guest, gva, NPAGES);
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[test]
fn a_revoked_buffer_is_gone_and_comes_back() {
    let mut guest = guest();
    let pages = device_pages(&guest);
    for name in EAGER.into_iter().chain(LAZY) {
        let gva = map(&mut guest, name, 0, NPAGES, Prot::READ_WRITE).expect(name);
        assert_in_use(&mut guest, gva, &pages);
        control(&mut guest, REVOKE, BUFFER).expect("revoked");
        assert_eq!(map_counts(&mut guest, &pages), [0; 5], "{name}");
        assert_eq!(walked(&guest, gva, NPAGES, Prot::READ_WRITE), [None; 5]);
        let load = guest.load(gva, PAGE_SIZE, 1).expect("an answer");
        assert_eq!(signal(load), libc::SIGBUS);
        let refused = map(&mut guest, name, 0, 1, Prot::READ);
        assert_eq!(errno(refused), libc::ENXIO);
        control(&mut guest, RESTORE, BUFFER).expect("restored");
        if LAZY.contains(&name) {
            assert_in_use(&mut guest, gva, &pages);
        }
        unmap(&mut guest, gva, NPAGES);
    }
}
