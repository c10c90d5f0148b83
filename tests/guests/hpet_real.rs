//! The kernel's own hpet driver (drivers/char/hpet.c), unmodified, as its specification.
//!
//! /dev/hpet shows one page: that of the timer's registers. Its mmap promises exactly
//! one page at offset 0, uncached, and refuses everything else with `EINVAL`; a
//! private mapping is a copy-on-write one. The host knows the page without asking the
//! guest: its first register names a vendor that no other VM has, and behind the
//! registers stands a pattern of the host's. The counter between them runs.

use crate::common::{self, errno, signal};
use crate::faults::{KvmSlot, Memory};
use addr::{Gva, PAGE_SIZE};
use harness::observe::Judged;
use harness::{Guest, Mapping, MappingSpec, Outcome, Presence, reference};
use monitor::{HPET_NAME, SlotUse};
use rstest::rstest;
use walk::MemoryType;
use wire::{Fd, OpenMode, Prot, Sharing};
use witness::guest_walk::FrozenTables;
use witness::stamp::{IDENTITY, LAST};
use witness::{Access, DevicePage, Expected, Link};

const DEVICE: &str = "/dev/hpet";
/// The main counter's register.
const COUNTER: u64 = 0xf0;
/// Comparators of the timer; the driver lends one to each open file.
const TIMERS: usize = 3;

/// A guest with the timer; the module under test stays away.
fn guest() -> Guest {
    guest_with(&[])
}

fn guest_with(parameters: &[&str]) -> Guest {
    let mut config = common::config("good");
    config.hpet = true;
    config.extra_parameters = parameters.iter().map(|one| (*one).to_owned()).collect();
    common::boot(&config)
}

fn open(guest: &mut Guest) -> Fd {
    let outcome = guest.open(DEVICE, OpenMode::ReadOnly).expect("an answer");
    outcome.expect("the driver has found its timer")
}

fn page_of(guest: &Guest) -> DevicePage {
    DevicePage {
        window: common::window(guest, HPET_NAME),
        page: 0,
    }
}

/// Maps all that the contract offers as `prot` and `sharing` say, through a file that
/// is closed again.
fn map(guest: &mut Guest, prot: Prot, sharing: Sharing) -> Outcome<Mapping> {
    let file = reference::real_hpet();
    let spec = MappingSpec {
        prot,
        sharing,
        ..MappingSpec::whole(&file, &file.ranges[0])
    };
    let fd = open(guest);
    let mapping = guest.map(fd, &spec).expect("an answer");
    guest.close(fd).expect("an answer").expect("closed");
    mapping
}

fn mapped(guest: &mut Guest) -> Mapping {
    map(guest, Prot::READ, Sharing::Shared).expect("mapped")
}

fn load(guest: &mut Guest, gva: Gva, offset: u64) -> u64 {
    let at = gva.checked_add(offset).expect("in the page");
    let words = guest.load(at, 8, 1).expect("an answer").expect("loaded");
    words[0]
}

/// The page, with every link.
#[track_caller]
fn assert_witnessed(judged: &Judged) {
    assert_eq!(judged.mismatch, None);
    assert!(judged.unwitnessed.is_empty(), "{judged:?}");
    for link in Link::ALL {
        assert_eq!(judged.links.get(link), 1, "{link}: {judged:?}");
    }
}

#[test]
fn the_page_is_the_timers_by_all_six_links() {
    let mut guest = guest();
    let mapping = mapped(&mut guest);
    // All at mmap time: it is there before anything is touched.
    let before = guest.witness(&mapping, &Presence::All).expect("walked");
    assert_eq!((before.mismatch, before.present), (None, 1));
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
    guest
        .munmap(mapping.gva, PAGE_SIZE)
        .expect("an answer")
        .expect("unmapped");
    let after = guest.witness(&mapping, &Presence::Nothing).expect("walked");
    assert_eq!((after.mismatch, after.absent), (None, 1));
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[test]
fn what_is_shown_is_the_live_timer() {
    let mut guest = guest();
    let gva = mapped(&mut guest).gva;
    let capabilities = guest.vm().hpet().expect("configured").capabilities();
    assert_eq!(load(&mut guest, gva, IDENTITY), capabilities);
    let mut earlier = load(&mut guest, gva, COUNTER);
    for _ in 0..200 {
        let later = load(&mut guest, gva, COUNTER);
        assert!(later >= earlier, "the counter went back");
        if later > earlier {
            return;
        }
        earlier = later;
    }
    panic!("the counter stands at {earlier}");
}

/// With an ACPI table of its own it would be: the driver's calibration and nothing
/// else is what the counter runs for.
#[test]
fn the_kernel_does_not_take_it_for_its_clock() {
    let mut guest = guest();
    let path = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    let clocks = guest.read_file(path).expect("an answer").expect("there");
    let clocks = String::from_utf8_lossy(&clocks).into_owned();
    assert!(clocks.contains("kvm-clock"), "{clocks}");
    assert!(!clocks.contains("hpet"), "{clocks}");
}

#[test]
fn exactly_one_page_at_offset_0_and_nothing_else() {
    let mut guest = guest();
    let fd = open(&mut guest);
    let cases = [
        ("two pages", 0, 2 * PAGE_SIZE, libc::EINVAL),
        ("a byte too long", 0, PAGE_SIZE + 1, libc::EINVAL),
        ("1 GiB", 0, 1 << 30, libc::EINVAL),
        ("the page after it", PAGE_SIZE, PAGE_SIZE, libc::EINVAL),
        ("half a page in", PAGE_SIZE / 2, PAGE_SIZE, libc::EINVAL),
        ("two pages in", 2 * PAGE_SIZE, PAGE_SIZE, libc::EINVAL),
        ("an offset near 2^63", 1 << 62, PAGE_SIZE, libc::EINVAL),
        (
            "the last offset",
            u64::MAX - (PAGE_SIZE - 1),
            PAGE_SIZE,
            libc::EOVERFLOW,
        ),
        ("no length", 0, 0, libc::EINVAL),
    ];
    for (what, offset, len_bytes, wanted) in cases {
        for sharing in [Sharing::Shared, Sharing::Private] {
            let answer = guest
                .mmap(fd, offset, len_bytes, Prot::READ, sharing)
                .expect("an answer");
            assert_eq!(errno(answer), wanted, "{what}, {sharing:?}");
        }
    }
    // A length is one of pages: the kernel rounds up.
    let byte = guest
        .mmap(fd, 0, 1, Prot::READ, Sharing::Shared)
        .expect("an answer");
    byte.expect("a page");
}

/// There is nothing that user space may store to.
#[test]
fn it_is_for_reading() {
    let mut guest = guest();
    for mode in [OpenMode::ReadWrite, OpenMode::WriteOnly] {
        let answer = guest.open(DEVICE, mode).expect("an answer");
        assert_eq!(errno(answer), libc::EINVAL, "{mode:?}");
    }
    let fd = open(&mut guest);
    let shared = guest
        .mmap(fd, 0, PAGE_SIZE, Prot::READ_WRITE, Sharing::Shared)
        .expect("an answer");
    assert_eq!(errno(shared), libc::EACCES);
    let mapping = mapped(&mut guest);
    let later = guest
        .mprotect(mapping.gva, PAGE_SIZE, Prot::READ_WRITE)
        .expect("an answer");
    assert_eq!(errno(later), libc::EACCES);
    let store = guest.store(mapping.gva, 8, vec![1]).expect("an answer");
    assert_eq!(signal(store), libc::SIGSEGV);
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
}

/// A mapping keeps its file, and with it the comparator, beyond close(2).
#[test]
fn each_file_has_a_comparator_until_its_last_mapping_is_gone() {
    let mut guest = guest();
    let mapping = mapped(&mut guest);
    let files: Vec<Fd> = (1..TIMERS).map(|_| open(&mut guest)).collect();
    let more = guest.open(DEVICE, OpenMode::ReadOnly).expect("an answer");
    assert_eq!(errno(more), libc::EBUSY);
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
    guest.close(files[0]).expect("an answer").expect("closed");
    open(&mut guest);
    guest
        .munmap(mapping.gva, PAGE_SIZE)
        .expect("an answer")
        .expect("unmapped");
    open(&mut guest);
}

#[test]
fn a_mapping_is_inherited_and_never_grown() {
    let mut guest = guest();
    let mapping = mapped(&mut guest);
    guest.fork().expect("an answer").expect("a child");
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
    guest.exit_child(0).expect("an answer").expect("ended");
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
    // Nothing bars a second one, and each is the page.
    let second = mapped(&mut guest);
    assert_ne!(second.gva, mapping.gva);
    for one in [&second, &mapping] {
        assert_witnessed(&guest.witness_in_use(one).expect("walked"));
    }
    // Neither more of it nor, by an old length of 0, the same once more.
    for (old_len, new_len) in [(PAGE_SIZE, 2 * PAGE_SIZE), (0, PAGE_SIZE)] {
        let grown = guest
            .mremap(mapping.gva, old_len, new_len, true)
            .expect("an answer");
        assert_eq!(errno(grown), libc::EFAULT);
    }
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
}

/// The mapping covers the whole vma, so `remap_pfn_range` allows it to be private.
/// Until a store it shows the device; a store gives the process a page of RAM with
/// what the registers held then, and the device notices nothing.
#[test]
fn a_private_mapping_becomes_a_copy_when_it_is_stored_to() {
    let mut guest = guest();
    let mapping = map(&mut guest, Prot::READ_WRITE, Sharing::Private).expect("allowed");
    let gva = mapping.gva;
    // Not writable in the tables, although the vma is: the page is yet to be copied.
    let before = guest.witness(&mapping, &Presence::All).expect("walked");
    assert_eq!((before.mismatch, before.present), (None, 1));
    let stored = guest.store(gva, 8, vec![0x0bad_c0de]).expect("an answer");
    stored.expect("private pages can be stored to");

    let tables = FrozenTables::of(guest.vm()).expect("long mode");
    let found = tables.walk(gva).expect("present");
    let slot = witness::memslot::find(guest.vm().memslots(), found.address);
    assert_eq!(slot.expect("backed").used_for, SlotUse::Ram, "{found:?}");
    assert!(found.access.write && found.access.user);
    // The copy keeps the protection of the vma: RAM, and yet uncached.
    assert_eq!(found.memory_type, MemoryType::UncachedMinus);

    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    let mismatch = judged.mismatch.expect("another page");
    assert_eq!(mismatch.link, Link::GuestWalk);
    let page = page_of(&guest);
    assert_eq!(load(&mut guest, gva, IDENTITY), 0x0bad_c0de);
    let last = guest.stamps().word(page, LAST);
    assert_eq!(load(&mut guest, gva, LAST), last, "the rest was copied");
    let frozen = load(&mut guest, gva, COUNTER);
    let device = guest.vm().windows()[page.window].read(0, COUNTER, 8);
    let device = u64::from_le_bytes(device.expect("inside").try_into().expect("8 bytes"));
    assert!(frozen <= device, "{frozen:#x} of {device:#x}");
    // The device has kept what it had.
    let shared = mapped(&mut guest);
    assert_witnessed(&guest.witness_in_use(&shared).expect("walked"));
}

#[test]
fn a_private_mapping_for_reading_is_the_page() {
    let mut guest = guest();
    let mapping = map(&mut guest, Prot::READ, Sharing::Private).expect("allowed");
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
}

/// `hpet_mmap=0`: the driver is told to keep the page to itself.
#[test]
fn switched_off_it_is_refused_before_anything_is_looked_at() {
    let mut guest = guest_with(&["hpet_mmap=0"]);
    let fd = open(&mut guest);
    for (offset, npages) in [(0, 1), (0, 2), (PAGE_SIZE, 1)] {
        let answer = guest
            .mmap(fd, offset, npages * PAGE_SIZE, Prot::READ, Sharing::Shared)
            .expect("an answer");
        assert_eq!(errno(answer), libc::EACCES);
    }
}

/// A page with the very same content, so that no load could tell.
fn decoy(guest: &Guest) -> Memory {
    let copy = Memory::ordinary(1);
    let page = &guest.vm().windows()[page_of(guest).window];
    copy.fill(&page.read(0, 0, 0x1000).expect("a page"));
    copy
}

#[test]
fn a_timer_swapped_for_its_double_is_blamed_on_the_second_level() {
    let mut guest = guest();
    let mapping = mapped(&mut guest);
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
    let decoy = decoy(&guest);
    KvmSlot::of(&guest, HPET_NAME).replace(guest.vm(), decoy.hva(), false);
    let judged = guest.witness_in_use(&mapping).expect("walked");
    let mismatch = judged.mismatch.expect("the decoy");
    assert_eq!(mismatch.link, Link::SecondLevel, "{mismatch:#?}");
}

#[rstest]
#[case::of_the_registers(IDENTITY)]
#[case::of_the_pattern(LAST)]
fn a_page_with_other_content_is_blamed_on_the_stamp(#[case] offset: u64) {
    let mut guest = guest();
    let mapping = mapped(&mut guest);
    let page = &guest.vm().windows()[page_of(&guest).window];
    page.write(0, offset, &[0x5a; 8]).expect("inside");
    let judged = guest.witness_in_use(&mapping).expect("walked");
    let mismatch = judged.mismatch.expect("other content");
    assert_eq!(mismatch.link, Link::Stamp, "{mismatch:#?}");
}

#[rstest]
#[case::cached(MemoryType::WriteBack, Access::READ)]
#[case::writable(MemoryType::UncachedMinus, Access::READ_WRITE)]
fn a_contract_that_asks_for_something_else_is_not_met(
    #[case] memory_type: MemoryType,
    #[case] access: Access,
) {
    let mut guest = guest();
    let mapping = mapped(&mut guest);
    let wrong = [Expected::Present {
        page: page_of(&guest),
        access,
        memory_type,
    }];
    let judged = guest.judge(&mapping, &wrong, None).expect("walked");
    let mismatch = judged.mismatch.expect("not what it is");
    assert_eq!(mismatch.link, Link::GuestWalk, "{mismatch:#?}");
}

/// The driver has no word about instructions, and the kernel none about its file.
#[test]
fn it_may_be_executed() {
    let mut guest = guest();
    let exec = Prot {
        exec: true,
        ..Prot::READ
    };
    let mapping = map(&mut guest, exec, Sharing::Shared).expect("allowed");
    assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"));
}
