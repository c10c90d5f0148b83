//! agp, as its specification: who has the backend, who is a client, which segment.
//!
//! The aperture is the window `large` of 4 MiB. What is mapped at once is
//! write-combined. The hazards of the original are part of what is promised: a size
//! of 32 bits, faults that know no segment, mappings that nothing takes back.

use std::sync::Arc;

use crate::common::{errno, guest, kernel_facts, signal};
use crate::personas::{
    self, Ask, answer, assert_in_use, assert_no_complaints, map_fd, open, window,
};
use addr::PAGE_SIZE;
use contract::FileContract;
use harness::reference;
use harness::{Guest, Outcome, Presence};
use walk::MemoryType;
use wire::personas::{AGP_ACQUIRE, AGP_MAX_SEGMENTS, AGP_RELEASE, AGP_RESERVE};
use wire::personas::{AGP_RESERVE_LEN_BYTES, AGP_SEGMENT_LEN_BYTES};
use wire::{Fd, OpenMode, Prot};
use witness::{Expected, WindowPlan};

const EAGER: &str = "/dev/mapwitness-agp";
const LAZY: &str = "/dev/mapwitness-agp-lazy";
/// Pages of the aperture.
const ALL: u64 = 1024;
const RW: Prot = Prot::READ_WRITE;

/// What a controller gives a client.
#[derive(Clone, Copy)]
struct Segment {
    start: u64,
    npages: u64,
    prot: Prot,
}

/// What a client is promised that has this segment.
fn segment_file(guest: &Guest, start: u64, npages: u64) -> Arc<FileContract> {
    let segment = reference::Segment { start, npages };
    reference::agp_client(&aperture(guest), segment)
}

fn segment(start: u64, npages: u64, prot: Prot) -> Segment {
    Segment {
        start,
        npages,
        prot,
    }
}

fn acquire(guest: &mut Guest, fd: Fd) -> Outcome<()> {
    let answer = guest.ioctl(fd, AGP_ACQUIRE, Vec::new());
    answer.expect("an answer").map(drop)
}

fn release(guest: &mut Guest, fd: Fd) -> Outcome<()> {
    let answer = guest.ioctl(fd, AGP_RELEASE, Vec::new());
    answer.expect("an answer").map(drop)
}

fn reserve(guest: &mut Guest, fd: Fd, pid: i32, segments: &[Segment]) -> Outcome<()> {
    let mut argument = Vec::new();
    argument.extend(pid.to_le_bytes());
    let count = u32::try_from(segments.len()).expect("few");
    argument.extend(count.to_le_bytes());
    for one in segments.iter().take(AGP_MAX_SEGMENTS) {
        let prot = u64::from(one.prot.read)
            | u64::from(one.prot.write) << 1
            | u64::from(one.prot.exec) << 2;
        for word in [one.start, one.npages, prot] {
            argument.extend(word.to_le_bytes());
        }
    }
    assert!(argument.len() % AGP_SEGMENT_LEN_BYTES == 8);
    argument.resize(AGP_RESERVE_LEN_BYTES, 0);
    let answer = guest.ioctl(fd, AGP_RESERVE, argument);
    answer.expect("an answer").map(drop)
}

fn aperture(guest: &Guest) -> WindowPlan {
    window(guest, "large")
}

/// A file that has acquired the backend.
fn controller(guest: &mut Guest, path: &str) -> Fd {
    let fd = open(guest, path, OpenMode::ReadWrite);
    acquire(guest, fd).expect("acquired");
    fd
}

/// A file of the same process, as that of a client with these segments.
fn client(guest: &mut Guest, path: &str, controller: Fd, segments: &[Segment]) -> Fd {
    let fd = open(guest, path, OpenMode::ReadWrite);
    let pid = guest.current_pid();
    reserve(guest, controller, pid, segments).expect("reserved");
    fd
}

fn refused(guest: &mut Guest, fd: Fd, first_page: u64, npages: u64, prot: Prot) -> i32 {
    let ask = Ask::shared(npages, prot);
    errno(answer(
        guest,
        fd,
        first_page * PAGE_SIZE,
        npages * PAGE_SIZE,
        ask,
    ))
}

/// Maps a client's segment and unmaps it when `check` is done.
fn with_segment(guest: &mut Guest, fd: Fd, start: u64, npages: u64, prot: Prot) {
    let file = segment_file(guest, start, npages);
    let ask = Ask::shared(npages, prot).at(start);
    let mapping = map_fd(guest, fd, &file, ask).expect("mapped");
    personas::assert_all_present(guest, &mapping);
    assert_in_use(guest, &mapping);
    personas::unmap(guest, mapping.gva, mapping.spec.len_bytes());
    personas::assert_nothing(guest, &mapping);
}

#[test]
fn a_controller_maps_the_whole_aperture_write_combined() {
    let mut guest = guest();
    let facts = kernel_facts();
    let fd = controller(&mut guest, EAGER);
    let file = reference::agp_controller(&aperture(&guest));
    // The offset is nobody's concern.
    for first_page in [0, 7] {
        let ask = Ask::shared(ALL, RW).at(first_page);
        let mapping = map_fd(&mut guest, fd, &file, ask).expect("mapped");
        personas::assert_all_present(&guest, &mapping);
        personas::assert_flags_of_a_device(&guest, &facts, mapping.gva);
        assert_in_use(&mut guest, &mapping);
        personas::unmap(&mut guest, mapping.gva, mapping.spec.len_bytes());
        personas::assert_nothing(&guest, &mapping);
    }
    for npages in [1, ALL - 1, ALL + 1] {
        assert_eq!(refused(&mut guest, fd, 0, npages, RW), libc::EINVAL);
    }
    assert_no_complaints(&mut guest);
}

#[test]
fn a_client_maps_its_segments_and_nothing_like_them() {
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let segments = [
        segment(0, 3, RW),
        segment(16, 5, RW),
        segment(40, 2, Prot::READ),
        segment(ALL - 1, 1, RW),
    ];
    let fd = client(&mut guest, EAGER, control, &segments);
    for one in segments {
        with_segment(&mut guest, fd, one.start, one.npages, one.prot);
    }
    let almost = [
        ("another start", 17, 5, RW),
        ("a page less", 16, 4, RW),
        ("a page more", 16, 6, RW),
        ("its second half", 18, 3, RW),
        ("less protection", 16, 5, Prot::READ),
        ("more protection", 40, 2, RW),
        ("two segments", 0, 21, RW),
        ("no segment", 100, 1, RW),
        ("past the end", ALL, 1, RW),
        ("across the end", ALL - 1, 2, RW),
        ("the whole aperture", 0, ALL, RW),
    ];
    for (what, start, npages, prot) in almost {
        let found = refused(&mut guest, fd, start, npages, prot);
        assert_eq!(found, libc::EINVAL, "{what}");
    }
    assert_no_complaints(&mut guest);
}

/// A private mapping for reading has the protection of a shared one, a private one for
/// writing has that of none.
#[test]
fn a_segment_is_found_by_the_protection_of_its_pages() {
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let segments = [segment(4, 2, Prot::READ), segment(8, 2, RW)];
    let fd = client(&mut guest, EAGER, control, &segments);
    let file = segment_file(&guest, 4, 2);
    let reading = Ask::private(2, Prot::READ).at(4);
    let mapping = map_fd(&mut guest, fd, &file, reading).expect("mapped");
    assert_in_use(&mut guest, &mapping);
    let file = segment_file(&guest, 8, 2);
    let writing = map_fd(&mut guest, fd, &file, Ask::private(2, RW).at(8));
    assert_eq!(errno(writing), libc::EINVAL);
}

#[test]
fn the_checks_come_in_their_order() {
    let mut guest = guest();
    // Nobody ever acquired the backend: nothing else is looked at.
    let fd = open(&mut guest, EAGER, OpenMode::ReadWrite);
    for (first_page, npages) in [(0, ALL), (0, 1), (ALL, 1), (1 << 40, 9)] {
        assert_eq!(refused(&mut guest, fd, first_page, npages, RW), libc::EPERM);
    }
    // Somebody has, but this file is neither its own nor a client's.
    let control = controller(&mut guest, EAGER);
    assert_eq!(refused(&mut guest, fd, 0, ALL, RW), libc::EPERM);
    assert_eq!(refused(&mut guest, fd, ALL, 1, RW), libc::EPERM);
    // A client's file in the hands of a process that is no client: the bounds come first.
    let pid = guest.current_pid();
    let mine = client(&mut guest, EAGER, control, &[segment(2, 2, RW)]);
    guest.fork().expect("an answer").expect("a child");
    assert_eq!(refused(&mut guest, mine, ALL, 1, RW), libc::EINVAL);
    assert_eq!(refused(&mut guest, mine, 2, 2, RW), libc::EPERM);
    assert_eq!(refused(&mut guest, mine, 3, 3, RW), libc::EPERM);
    guest.exit_child(0).expect("an answer").expect("ended");
    assert_eq!(guest.current_pid(), pid);
    // A client: now the segment.
    assert_eq!(refused(&mut guest, mine, 3, 3, RW), libc::EINVAL);
    with_segment(&mut guest, mine, 2, 2, RW);
}

#[test]
fn one_controller_at_a_time_and_only_by_its_own_process() {
    let mut guest = guest();
    let first = open(&mut guest, EAGER, OpenMode::ReadWrite);
    let second = open(&mut guest, EAGER, OpenMode::ReadWrite);
    let pid = guest.current_pid();
    assert_eq!(errno(release(&mut guest, first)), libc::EINVAL);
    acquire(&mut guest, first).expect("acquired");
    assert_eq!(errno(acquire(&mut guest, second)), libc::EBUSY);
    assert_eq!(errno(acquire(&mut guest, first)), libc::EBUSY);
    let nobody = reserve(&mut guest, second, pid, &[segment(0, 1, RW)]);
    assert_eq!(errno(nobody), libc::EPERM);
    let many = [segment(0, 1, RW); AGP_MAX_SEGMENTS + 1];
    assert_eq!(errno(reserve(&mut guest, first, pid, &many)), libc::EINVAL);
    release(&mut guest, first).expect("released");
    acquire(&mut guest, second).expect("acquired");
}

/// Each process by its own pid, the child through the file that it opened.
#[test]
fn a_child_is_a_client_of_its_own() {
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let mine = client(&mut guest, EAGER, control, &[segment(2, 2, RW)]);
    let child = guest.fork().expect("an answer").expect("a child");
    let theirs = open(&mut guest, EAGER, OpenMode::ReadWrite);
    assert_eq!(refused(&mut guest, theirs, 6, 3, RW), libc::EPERM);
    // The child has the controller's file too, which goes by who opened it.
    reserve(&mut guest, control, child, &[segment(6, 3, RW)]).expect("reserved");
    with_segment(&mut guest, theirs, 6, 3, RW);
    assert_eq!(refused(&mut guest, theirs, 2, 2, RW), libc::EINVAL);
    guest.exit_child(0).expect("an answer").expect("ended");
    with_segment(&mut guest, mine, 2, 2, RW);
    assert_eq!(refused(&mut guest, mine, 6, 3, RW), libc::EINVAL);
}

#[test]
fn released_nobody_maps_and_acquired_again_clients_do() {
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let fd = client(&mut guest, EAGER, control, &[segment(2, 2, RW)]);
    release(&mut guest, control).expect("released");
    assert_eq!(refused(&mut guest, control, 0, ALL, RW), libc::EPERM);
    assert_eq!(refused(&mut guest, fd, 2, 2, RW), libc::EPERM);
    acquire(&mut guest, control).expect("acquired");
    with_segment(&mut guest, fd, 2, 2, RW);
    // No segments: no client any more, although its file still counts as one's.
    let pid = guest.current_pid();
    reserve(&mut guest, control, pid, &[]).expect("removed");
    assert_eq!(refused(&mut guest, fd, ALL, 1, RW), libc::EINVAL);
    assert_eq!(refused(&mut guest, fd, 2, 2, RW), libc::EPERM);
}

/// Hazard: nothing that was mapped is ever taken back.
#[test]
fn a_mapping_outlives_its_segment_its_file_and_its_controller() {
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let fd = client(&mut guest, EAGER, control, &[segment(2, 3, RW)]);
    let file = segment_file(&guest, 2, 3);
    let ask = Ask::shared(3, RW).at(2);
    let mapping = map_fd(&mut guest, fd, &file, ask).expect("mapped");
    let pid = guest.current_pid();
    reserve(&mut guest, control, pid, &[segment(9, 1, RW)]).expect("replaced");
    assert_eq!(refused(&mut guest, fd, 2, 3, RW), libc::EINVAL);
    assert_in_use(&mut guest, &mapping);
    reserve(&mut guest, control, pid, &[]).expect("removed");
    assert_in_use(&mut guest, &mapping);
    personas::close(&mut guest, fd);
    personas::close(&mut guest, control);
    assert_in_use(&mut guest, &mapping);
    assert_no_complaints(&mut guest);
}

/// Hazard: of 4 GiB and a page the driver sees a page.
#[test]
fn a_size_beyond_32_bits_is_taken_for_its_remainder() {
    const LONG: u64 = (1 << 32) + PAGE_SIZE;
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let fd = client(&mut guest, EAGER, control, &[segment(5, 1, RW)]);
    // The kernel keeps the memory type only of a remap that fills its vma (x86 PAT): of
    // this one stores are not combined.
    let mut file = FileContract::clone(&segment_file(&guest, 5, 1));
    file.ranges[0].memory_type = MemoryType::UncachedMinus;
    let file = Arc::new(file);
    let long = Ask::shared(LONG / PAGE_SIZE, RW).at(5);
    let mapping = map_fd(&mut guest, fd, &file, long).expect("taken for a page");
    // The page is there; all behind it is empty, and raises SIGBUS.
    let head = mapping.spec.contract(guest.plan(), &Presence::All);
    let judged = guest.judge(&mapping, &head[..3], None).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!((judged.present, judged.absent), (1, 2));
    let behind = personas::page_at(mapping.gva, 1);
    assert_eq!(signal(personas::load(&mut guest, behind)), libc::SIGBUS);
    personas::unmap(&mut guest, mapping.gva, LONG);
    // Exactly 4 GiB are no bytes at all, and no segment is as short as that.
    let none = Ask::shared(1 << 20, RW).at(5);
    assert_eq!(errno(map_fd(&mut guest, fd, &file, none)), libc::EINVAL);
    // A private mapping must be filled to be copied on write: the remap fails.
    let most = Ask::private((1 << 20) + ALL, Prot::READ);
    let whole = reference::agp_controller(&aperture(&guest));
    let failed = map_fd(&mut guest, control, &whole, most);
    assert_eq!(errno(failed), libc::EAGAIN);
    assert_no_complaints(&mut guest);
}

fn lazy_file(guest: &Guest) -> Arc<FileContract> {
    reference::agp_lazy_controller(&aperture(guest))
}

#[test]
fn a_lazy_bridge_shows_each_page_when_it_is_touched() {
    let mut guest = guest();
    let fd = controller(&mut guest, LAZY);
    let file = lazy_file(&guest);
    let mapping = map_fd(&mut guest, fd, &file, Ask::shared(ALL, RW)).expect("mapped");
    personas::assert_nothing(&guest, &mapping);
    let far = personas::page_at(mapping.gva, 700);
    personas::load(&mut guest, far).expect("loaded");
    let only = Presence::Only([700].into());
    let judged = guest.witness(&mapping, &only).expect("walked");
    assert_eq!((judged.mismatch, judged.present), (None, 1));
    assert_in_use(&mut guest, &mapping);
    assert_eq!(refused(&mut guest, fd, 0, ALL - 1, RW), libc::EINVAL);
    assert_no_complaints(&mut guest);
}

/// Hazard: faults count from the start of the vma, with no regard to its offset, so a
/// client sees the start of the aperture wherever its segment is.
#[test]
fn a_lazy_client_sees_the_apertures_start_for_its_segment() {
    let mut guest = guest();
    let control = controller(&mut guest, LAZY);
    let fd = client(&mut guest, LAZY, control, &[segment(30, 4, RW)]);
    let file = lazy_file(&guest);
    let ask = Ask::shared(4, RW).at(30);
    let mapping = map_fd(&mut guest, fd, &file, ask).expect("mapped");
    personas::assert_nothing(&guest, &mapping);
    assert_in_use(&mut guest, &mapping);
    assert_eq!(refused(&mut guest, fd, 0, 4, RW), libc::EINVAL);
}

/// Hazard: after the front is unmapped the vma begins elsewhere, and so do its faults.
#[test]
fn a_lazy_mapping_without_its_front_shows_other_pages() {
    let mut guest = guest();
    let control = controller(&mut guest, LAZY);
    let fd = client(&mut guest, LAZY, control, &[segment(0, 4, RW)]);
    let file = lazy_file(&guest);
    let mut mapping = map_fd(&mut guest, fd, &file, Ask::shared(4, RW)).expect("mapped");
    let third = personas::page_at(mapping.gva, 2);
    personas::load(&mut guest, third).expect("loaded");
    personas::unmap(&mut guest, mapping.gva, PAGE_SIZE);
    let second = personas::page_at(mapping.gva, 1);
    personas::load(&mut guest, second).expect("loaded");
    // What was page 1 shows page 0 now; page 2, which was touched before, shows itself.
    let expected = mapping.spec.contract(guest.plan(), &Presence::All);
    mapping.gva = second;
    let shifted = [expected[0], expected[2], Expected::Absent];
    let judged = guest.judge(&mapping, &shifted, None).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!((judged.present, judged.absent), (2, 1));
}

/// Hazard: with a size of 32 bits and faults that know no segment, a client with one
/// page has the whole aperture.
#[test]
fn a_lazy_client_with_one_page_can_have_the_whole_aperture() {
    const LONG: u64 = (1 << 32) + PAGE_SIZE;
    let mut guest = guest();
    let control = controller(&mut guest, LAZY);
    let fd = client(&mut guest, LAZY, control, &[segment(9, 1, RW)]);
    let file = lazy_file(&guest);
    let long = Ask::shared(LONG / PAGE_SIZE, RW).at(9);
    let mut mapping = map_fd(&mut guest, fd, &file, long).expect("taken for a page");
    let gva = mapping.gva;
    mapping.spec.npages = 64;
    assert_in_use(&mut guest, &mapping);
    // The aperture's end is where it stops.
    personas::load(&mut guest, personas::page_at(gva, ALL - 1)).expect("the last page");
    let past = personas::load(&mut guest, personas::page_at(gva, ALL));
    assert_eq!(signal(past), libc::SIGBUS);
    personas::unmap(&mut guest, gva, LONG);
    assert_no_complaints(&mut guest);
}

#[test]
fn a_lazy_bridge_answers_no_fault_of_a_private_mapping() {
    let mut guest = guest();
    let fd = controller(&mut guest, LAZY);
    let file = lazy_file(&guest);
    let private = Ask::private(ALL, Prot::READ);
    let mapping = map_fd(&mut guest, fd, &file, private).expect("mapped");
    let touched = personas::load(&mut guest, mapping.gva);
    assert_eq!(signal(touched), libc::SIGBUS);
    personas::assert_nothing(&guest, &mapping);
    assert_no_complaints(&mut guest);
}

/// The memory type is a promise as much as the page is.
#[test]
fn an_uncached_aperture_would_be_noticed() {
    let mut guest = guest();
    let control = controller(&mut guest, EAGER);
    let fd = client(&mut guest, EAGER, control, &[segment(2, 2, RW)]);
    let mut file = FileContract::clone(&segment_file(&guest, 2, 2));
    file.ranges[0].memory_type = MemoryType::UncachedMinus;
    let ask = Ask::shared(2, RW).at(2);
    let mapping = map_fd(&mut guest, fd, &Arc::new(file), ask).expect("mapped");
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    let mismatch = judged.mismatch.expect("write-combined");
    assert_eq!(mismatch.link, witness::Link::GuestWalk);
}
