//! hpet, as its specification: one page of registers, and nothing else.
//!
//! The same promises as those of the kernel's own driver (tests/guests/hpet_real.rs), here
//! through the `mmap` hook, and with the states that a machine seldom has.

use std::sync::Arc;

use crate::common::{errno, guest, kernel_facts, signal};
use crate::personas::{self, Ask, answer, assert_in_use, assert_no_complaints, map, mapped, open};
use addr::PAGE_SIZE;
use contract::FileContract;
use harness::{Guest, reference};
use wire::personas::{HPET_OFFER, HPET_PLACE};
use wire::{Fd, OpenMode, Prot};
use witness::Link;
use witness::stamp::{IDENTITY, LAST};

const ONE: Ask = Ask::shared(1, Prot::READ);

fn file(guest: &Guest) -> Arc<FileContract> {
    reference::hpet(&personas::window(guest, "page"))
}

fn tell(guest: &mut Guest, fd: Fd, command: u32, value: u32) {
    let argument = value.to_le_bytes().to_vec();
    let told = guest.ioctl(fd, command, argument).expect("an answer");
    told.expect("told");
}

#[test]
fn one_page_at_offset_0_is_the_registers() {
    let mut guest = guest();
    let facts = kernel_facts();
    let file = file(&guest);
    let mapping = mapped(&mut guest, &file, ONE);
    personas::assert_all_present(&guest, &mapping);
    personas::assert_flags_of_a_device(&guest, &facts, mapping.gva);
    assert_in_use(&mut guest, &mapping);
    personas::unmap(&mut guest, mapping.gva, PAGE_SIZE);
    personas::assert_nothing(&guest, &mapping);
    assert_no_complaints(&mut guest);
}

/// Each check comes before the next, whatever else is wrong with the request.
#[test]
fn the_checks_come_in_their_order() {
    let mut guest = guest();
    let fd = open(&mut guest, "/dev/mapwitness-hpet", OpenMode::ReadOnly);
    let requests = [(0, 1), (0, 2), (PAGE_SIZE, 1), (1 << 40, 7)];
    let everywhere = |guest: &mut Guest, wanted: [i32; 4]| {
        for ((offset, npages), wanted) in requests.into_iter().zip(wanted) {
            let found = match answer(guest, fd, offset, npages * PAGE_SIZE, ONE) {
                Ok(()) => 0,
                refused => errno(refused),
            };
            assert_eq!(found, wanted, "{npages} pages at {offset:#x}");
        }
    };
    everywhere(&mut guest, [0, libc::EINVAL, libc::EINVAL, libc::EINVAL]);
    // The registers begin within a page: whoever may have the page would see more.
    tell(&mut guest, fd, HPET_PLACE, 0x400);
    everywhere(&mut guest, [libc::ENOSYS; 4]);
    tell(&mut guest, fd, HPET_OFFER, 0);
    everywhere(&mut guest, [libc::EACCES; 4]);
    tell(&mut guest, fd, HPET_PLACE, 0);
    everywhere(&mut guest, [libc::EACCES; 4]);
    tell(&mut guest, fd, HPET_OFFER, 1);
    everywhere(&mut guest, [0, libc::EINVAL, libc::EINVAL, libc::EINVAL]);
}

#[test]
fn it_is_for_reading() {
    let mut guest = guest();
    for mode in [OpenMode::ReadWrite, OpenMode::WriteOnly] {
        let answer = guest.open("/dev/mapwitness-hpet", mode);
        assert_eq!(errno(answer.expect("an answer")), libc::EINVAL, "{mode:?}");
    }
    let file = file(&guest);
    let mapping = mapped(&mut guest, &file, ONE);
    let raised = guest
        .mprotect(mapping.gva, PAGE_SIZE, Prot::READ_WRITE)
        .expect("an answer");
    assert_eq!(errno(raised), libc::EACCES);
    assert_eq!(
        signal(personas::store(&mut guest, mapping.gva, 1)),
        libc::SIGSEGV
    );
    assert_in_use(&mut guest, &mapping);
}

#[test]
fn nobody_asks_whether_it_is_to_be_executed() {
    let mut guest = guest();
    let file = file(&guest);
    let exec = Prot {
        exec: true,
        ..Prot::READ
    };
    let mapping = mapped(&mut guest, &file, Ask::shared(1, exec));
    assert_in_use(&mut guest, &mapping);
}

/// A private mapping is the page until the process stores to it.
#[test]
fn a_private_mapping_is_copied_when_it_is_stored_to() {
    let mut guest = guest();
    let file = file(&guest);
    let mapping = mapped(&mut guest, &file, Ask::private(1, Prot::READ_WRITE));
    personas::assert_all_present(&guest, &mapping);
    let page = mapping.spec.device_page(guest.plan(), 0).expect("a page");
    personas::store(&mut guest, mapping.gva, 0x5eed).expect("stored");
    let copy = personas::ram_page(&guest, mapping.gva);
    assert!(copy.writable);
    assert_eq!(guest.vm().read_u64(copy.gpa).expect("RAM"), 0x5eed);
    let last = mapping.gva.checked_add(LAST).expect("in the page");
    let word = personas::load(&mut guest, last).expect("loaded");
    assert_eq!(word, guest.stamps().word(page, LAST), "the rest is a copy");
    let kept = guest.vm().windows()[page.window].read(0, IDENTITY, 8);
    let identity = guest.stamps().word(page, IDENTITY).to_le_bytes();
    assert_eq!(kept.expect("inside"), identity, "the device has noticed");
    assert_no_complaints(&mut guest);
}

/// The device is there for ever, and nobody counts: what was once mapped stays.
#[test]
fn a_mapping_outlives_its_file_and_the_offer() {
    let mut guest = guest();
    let file = file(&guest);
    let mapping = mapped(&mut guest, &file, ONE);
    let fd = open(&mut guest, &file.path, OpenMode::ReadOnly);
    tell(&mut guest, fd, HPET_OFFER, 0);
    assert_eq!(errno(map(&mut guest, &file, ONE)), libc::EACCES);
    assert_in_use(&mut guest, &mapping);
    guest.fork().expect("an answer").expect("a child");
    assert_in_use(&mut guest, &mapping);
    guest.exit_child(0).expect("an answer").expect("ended");
    assert_in_use(&mut guest, &mapping);
}

/// A contract for the neighbour is not met, and the guest's own tables say so.
#[test]
fn another_page_would_be_noticed() {
    let mut guest = guest();
    let file = file(&guest);
    let mut mapping = mapped(&mut guest, &file, ONE);
    mapping.spec.file = reference::hpet(&personas::window(&guest, "odd"));
    let judged = guest.witness_in_use(&mapping).expect("walked");
    let mismatch = judged.mismatch.expect("another window");
    assert_eq!(mismatch.link, Link::GuestWalk);
    assert!(mismatch.found.contains("page[0]"), "{mismatch:?}");
}
