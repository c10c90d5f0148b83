//! bsr, as its specification: a register's memory from its start, at any offset.
//!
//! The driver never looks at the offset. That is no fault of the checker's to find:
//! the contract says so, and a contract that does not is not met.

use std::sync::Arc;

use crate::common::{self, errno, guest, kernel_facts};
use crate::personas::{self, Ask, assert_in_use, assert_no_complaints, map, mapped, window};
use addr::PAGE_SIZE;
use contract::{FileContract, Offset};
use harness::{Guest, reference};
use wire::{OpenMode, Prot};
use witness::Link;

/// The register that fills the window `odd` of 13 pages.
fn odd(guest: &Guest) -> Arc<FileContract> {
    reference::bsr(common::window(guest, "odd"), &window(guest, "odd"))
}

fn small(guest: &Guest) -> Arc<FileContract> {
    reference::bsr_small(&window(guest, "page"))
}

#[test]
fn all_of_a_register_is_shown_at_once() {
    let mut guest = guest();
    let facts = kernel_facts();
    for name in ["page", "odd", "large"] {
        let register = window(&guest, name);
        let file = reference::bsr(common::window(&guest, name), &register);
        let all = Ask::shared(register.npages, Prot::READ_WRITE);
        let mapping = mapped(&mut guest, &file, all);
        personas::assert_all_present(&guest, &mapping);
        personas::assert_flags_of_a_device(&guest, &facts, mapping.gva);
        assert_in_use(&mut guest, &mapping);
        personas::unmap(&mut guest, mapping.gva, mapping.spec.len_bytes());
        personas::assert_nothing(&guest, &mapping);
    }
    assert_no_complaints(&mut guest);
}

#[test]
fn a_shorter_mapping_shows_its_front() {
    let mut guest = guest();
    let file = odd(&guest);
    for (npages, prot) in [(1, Prot::READ), (5, Prot::READ_WRITE), (12, Prot::READ)] {
        let mapping = mapped(&mut guest, &file, Ask::shared(npages, prot));
        assert_in_use(&mut guest, &mapping);
    }
}

/// Offsets within the register, at its end, far beyond it: all show page 0 first.
#[test]
fn any_offset_shows_page_0() {
    let mut guest = guest();
    let file = odd(&guest);
    // A driver that looked at its offset would promise another page, or none.
    let mut counting = FileContract::clone(&file);
    counting.ranges[0].offset = Offset::Page(0);
    let counting = Arc::new(counting);
    for first_page in [1, 5, 12, 13, 1000, 1 << 40] {
        let ask = Ask::shared(3, Prot::READ_WRITE).at(first_page);
        let mut mapping = mapped(&mut guest, &file, ask);
        assert_in_use(&mut guest, &mapping);
        mapping.spec.file = Arc::clone(&counting);
        let judged = guest.witness_in_use(&mapping).expect("walked");
        let mismatch = judged.mismatch.expect("the offset is ignored");
        assert_eq!((mismatch.link, mismatch.page), (Link::GuestWalk, 0));
        assert!(mismatch.found.contains("odd[0]"), "{mismatch:?}");
    }
}

#[test]
fn more_than_the_register_is_refused_at_any_offset() {
    let mut guest = guest();
    let file = odd(&guest);
    for first_page in [0, 1, 13, 1 << 40] {
        for npages in [14, 15, 1 << 20] {
            for ask in [
                Ask::shared(npages, Prot::READ_WRITE),
                Ask::private(npages, Prot::READ),
            ] {
                let refused = map(&mut guest, &file, ask.at(first_page));
                assert_eq!(errno(refused), libc::EINVAL, "{npages} at {first_page}");
            }
        }
    }
}

/// The register has 512 bytes; what is mapped is the page around it, all of which can
/// be read and written.
#[test]
fn a_register_within_a_page_is_shown_with_its_neighbours() {
    let mut guest = guest();
    let file = small(&guest);
    for first_page in [0, 1, 1 << 30] {
        let ask = Ask::shared(1, Prot::READ_WRITE).at(first_page);
        let mapping = mapped(&mut guest, &file, ask);
        // The stamp's last word is the last of the page.
        assert_in_use(&mut guest, &mapping);
    }
    // Not even two such pages, although a page was granted for less than one.
    for npages in [2, 13] {
        let refused = map(&mut guest, &file, Ask::shared(npages, Prot::READ));
        assert_eq!(errno(refused), libc::EINVAL);
    }
}

#[test]
fn a_private_mapping_is_copied_page_by_page() {
    let mut guest = guest();
    let file = odd(&guest);
    let mapping = mapped(&mut guest, &file, Ask::private(4, Prot::READ_WRITE));
    personas::assert_all_present(&guest, &mapping);
    let second = personas::page_at(mapping.gva, 1);
    personas::store(&mut guest, second, 0x5eed).expect("stored");
    let copy = personas::ram_page(&guest, second);
    assert_eq!(guest.vm().read_u64(copy.gpa).expect("RAM"), 0x5eed);
    // Page 1 is a copy, and no other.
    let judged = guest.witness(&mapping, &harness::Presence::All);
    let mismatch = judged.expect("walked").mismatch.expect("a copy");
    assert_eq!((mismatch.link, mismatch.page), (Link::GuestWalk, 1));
    personas::unmap(&mut guest, second, PAGE_SIZE);
    let others = harness::Presence::Only([0, 2, 3].into());
    let judged = guest.witness(&mapping, &others).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_no_complaints(&mut guest);
}

/// Nothing is counted, and nothing needs to be: the device never goes.
#[test]
fn a_mapping_outlives_its_file_in_every_process() {
    let mut guest = guest();
    let file = odd(&guest);
    let fd = personas::open(&mut guest, &file.path, OpenMode::ReadWrite);
    let ask = Ask::shared(13, Prot::READ_WRITE);
    let mapping = personas::map_fd(&mut guest, fd, &file, ask).expect("mapped");
    personas::close(&mut guest, fd);
    guest.fork().expect("an answer").expect("a child");
    assert_in_use(&mut guest, &mapping);
    guest.exit_child(0).expect("an answer").expect("ended");
    assert_in_use(&mut guest, &mapping);
    let grown = guest
        .mremap(mapping.gva, 13 * PAGE_SIZE, 14 * PAGE_SIZE, true)
        .expect("an answer");
    assert_eq!(errno(grown), libc::EFAULT);
}
