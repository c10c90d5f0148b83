//! mspec, as its specification: a mapping is a region of pages that are allocated when
//! they are touched, shared by every vma that comes from it, and freed with the last.
//!
//! The pages are RAM of the guest, so no frame is known beforehand. What is proven of
//! each: its gpa by the guest's tables, the frame behind it by the memslot and, the
//! same, by the live second level, and by content that gva and gpa are one page and
//! no other. How many vmas share a region, who holds a page and that it is cleared in
//! the end the host reads in the guest's memory: in the region's own count, in the
//! kernel's `struct page`, in the page. A page that was freed may be somebody else's
//! at once, so of those it is asked that most are nobody's; the driver's own count
//! says it of each.

use std::collections::BTreeSet;

use crate::common::{errno, guest, kernel_facts, signal};
use crate::personas::{
    self, RamPage, assert_absent, assert_no_complaints, load, open, page_at, ram_page,
};
use crate::personas::{store, unmap};
use addr::{Gfn, Gva, PAGE_SIZE};
use guest_kernel::KernelFacts;
use harness::{Guest, Outcome};
use walk::MemoryType;
use wire::personas::{MSPEC_COUNTS, MSPEC_LOSE_RACE};
use wire::{Fd, OpenMode, Prot, Sharing};

const CACHED: &str = "/dev/mapwitness-mspec";
const UNCACHED: &str = "/dev/mapwitness-mspec-uncached";
const NPAGES: u64 = 5;
const LEN_BYTES: u64 = NPAGES * PAGE_SIZE;

/// What the driver says of its regions: how many, pages that they have, pages ever
/// allocated, pages ever freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    regions: u64,
    pages: u64,
    allocated: u64,
    freed: u64,
}

fn counts(guest: &mut Guest, fd: Fd) -> Counts {
    let told = guest.ioctl(fd, MSPEC_COUNTS, vec![0; 32]);
    let told = told.expect("an answer").expect("told");
    let word = |at: usize| u64::from_le_bytes(told[at..at + 8].try_into().expect("8 bytes"));
    Counts {
        regions: word(0),
        pages: word(8),
        allocated: word(16),
        freed: word(24),
    }
}

fn of(regions: u64, pages: u64, allocated: u64, freed: u64) -> Counts {
    Counts {
        regions,
        pages,
        allocated,
        freed,
    }
}

fn region(guest: &mut Guest, fd: Fd) -> Gva {
    let answer = guest.mmap(fd, 0, LEN_BYTES, Prot::READ_WRITE, Sharing::Shared);
    answer.expect("an answer").expect("mapped")
}

/// A word that no other page has.
fn secret(page: u64) -> u64 {
    0x6d73_7065_6300_0000 | page << 8 | 0x5a
}

/// Stores its secret to each page, and gives the pages: all there, each another, each
/// holding at its gpa what was stored at its gva.
#[track_caller]
fn fill(guest: &mut Guest, gva: Gva) -> Vec<RamPage> {
    for page in 0..NPAGES {
        let first = load(guest, page_at(gva, page)).expect("loaded");
        assert_eq!(first, 0, "page {page} was somebody else's");
        store(guest, page_at(gva, page), secret(page)).expect("stored");
    }
    let pages = hold(guest, gva, &(0..NPAGES).collect::<Vec<_>>());
    let different: BTreeSet<_> = pages.iter().map(|page| page.gpa).collect();
    assert_eq!(different.len() as u64, NPAGES);
    pages
}

/// These pages hold their secrets, at their gva as at their gpa.
#[track_caller]
fn hold(guest: &mut Guest, gva: Gva, pages: &[u64]) -> Vec<RamPage> {
    let mut found = Vec::new();
    for page in pages {
        let at = page_at(gva, *page);
        assert_eq!(load(guest, at).expect("loaded"), secret(*page));
        let ram = ram_page(guest, at);
        let word = guest.vm().read_u64(ram.gpa).expect("RAM");
        assert_eq!(word, secret(*page), "gva {at} and gpa {} differ", ram.gpa);
        assert!(ram.writable);
        found.push(ram);
    }
    found
}

/// Vmas that share the region of the one at `gva`: the count of the region itself, the
/// first member of what the vma's private data points to.
#[track_caller]
fn vmas(guest: &Guest, facts: &KernelFacts, gva: Gva) -> u32 {
    let area = personas::area(guest, facts, gva);
    let mut count = [0; 4];
    let view = guest.kernel(facts).expect("this kernel");
    view.read(Gva::new(area.private_data), &mut count)
        .expect("the region");
    u32::from_le_bytes(count)
}

/// How many hold each of these pages, by the guest kernel's `struct page`.
fn holders(guest: &Guest, facts: &KernelFacts, pages: &[RamPage]) -> Vec<i32> {
    let view = guest.kernel(facts).expect("this kernel");
    let holders = |page: &RamPage| {
        let of = view.page_of(Gfn::containing(page.gpa)).expect("readable");
        of.expect("RAM has one for each page").refcount
    };
    pages.iter().map(holders).collect()
}

/// Most of these pages are free, which all were when the region ended.
#[track_caller]
fn assert_free(guest: &Guest, facts: &KernelFacts, pages: &[RamPage]) {
    let holders = holders(guest, facts, pages);
    let free = holders.iter().filter(|count| **count == 0).count();
    assert!(free * 2 > pages.len(), "{holders:?}");
}

/// The secret of none of these pages is in memory any more, whoever has them now.
#[track_caller]
fn assert_cleared(guest: &Guest, pages: &[RamPage]) {
    for (page, ram) in (0..).zip(pages) {
        let word = guest.vm().read_u64(ram.gpa).expect("RAM");
        assert_ne!(word, secret(page), "page {page} at {} was kept", ram.gpa);
    }
}

fn ask(
    guest: &mut Guest,
    fd: Fd,
    offset: u64,
    len_bytes: u64,
    prot: Prot,
    sharing: Sharing,
) -> Outcome<Gva> {
    let answer = guest.mmap(fd, offset, len_bytes, prot, sharing);
    answer.expect("an answer")
}

#[test]
fn the_checks_come_in_their_order() {
    use Sharing::{Private, Shared};
    let mut guest = guest();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let readable = open(&mut guest, CACHED, OpenMode::ReadOnly);
    let (r, rw) = (Prot::READ, Prot::READ_WRITE);
    // 64 GiB take a list of 128 MiB, which is all the memory that there is.
    let too_long = 64 << 30;
    let cases = [
        (
            "an offset",
            fd,
            PAGE_SIZE,
            LEN_BYTES,
            rw,
            Shared,
            libc::EINVAL,
        ),
        (
            "an offset, private",
            fd,
            PAGE_SIZE,
            LEN_BYTES,
            rw,
            Private,
            libc::EINVAL,
        ),
        (
            "an offset, for reading",
            fd,
            PAGE_SIZE,
            LEN_BYTES,
            r,
            Shared,
            libc::EINVAL,
        ),
        ("private", fd, 0, LEN_BYTES, rw, Private, libc::EINVAL),
        (
            "private, for reading",
            fd,
            0,
            LEN_BYTES,
            r,
            Private,
            libc::EINVAL,
        ),
        (
            "private, too long",
            fd,
            0,
            too_long,
            r,
            Private,
            libc::EINVAL,
        ),
        // The kernel takes VM_SHARED away where the file cannot be written to.
        (
            "a file for reading",
            readable,
            0,
            LEN_BYTES,
            r,
            Shared,
            libc::EINVAL,
        ),
        ("for reading", fd, 0, LEN_BYTES, r, Shared, libc::EPERM),
        (
            "nothing at all",
            fd,
            0,
            LEN_BYTES,
            Prot::NONE,
            Shared,
            libc::EPERM,
        ),
        (
            "for reading, too long",
            fd,
            0,
            too_long,
            r,
            Shared,
            libc::EPERM,
        ),
        ("too long", fd, 0, too_long, rw, Shared, libc::ENOMEM),
    ];
    for (what, fd, offset, len_bytes, prot, sharing, wanted) in cases {
        let answer = ask(&mut guest, fd, offset, len_bytes, prot, sharing);
        assert_eq!(errno(answer), wanted, "{what}");
    }
    assert_eq!(counts(&mut guest, fd), of(0, 0, 0, 0));
    assert_no_complaints(&mut guest);
}

#[test]
fn a_page_is_allocated_when_it_is_first_touched() {
    let mut guest = guest();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    for page in 0..NPAGES {
        assert_absent(&guest, page_at(gva, page));
    }
    assert_eq!(counts(&mut guest, fd), of(1, 0, 0, 0));
    load(&mut guest, page_at(gva, 3)).expect("loaded");
    assert_eq!(counts(&mut guest, fd), of(1, 1, 1, 0));
    for page in [0, 1, 2, 4] {
        assert_absent(&guest, page_at(gva, page));
    }
    let third = ram_page(&guest, page_at(gva, 3));
    assert_eq!(third.memory_type, MemoryType::WriteBack);
    fill(&mut guest, gva);
    assert_eq!(ram_page(&guest, page_at(gva, 3)), third, "it was replaced");
    assert_eq!(counts(&mut guest, fd), of(1, NPAGES, NPAGES, 0));
    assert_no_complaints(&mut guest);
}

#[test]
fn each_mapping_is_a_region_of_its_own() {
    let mut guest = guest();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let (one, other) = (region(&mut guest, fd), region(&mut guest, fd));
    let first = fill(&mut guest, one);
    let second = fill(&mut guest, other);
    let both: BTreeSet<_> = first.iter().chain(&second).map(|page| page.gpa).collect();
    assert_eq!(both.len() as u64, 2 * NPAGES);
    unmap(&mut guest, one, LEN_BYTES);
    assert_cleared(&guest, &first);
    let all: Vec<u64> = (0..NPAGES).collect();
    assert_eq!(hold(&mut guest, other, &all), second);
    assert_eq!(counts(&mut guest, fd), of(1, NPAGES, 2 * NPAGES, NPAGES));
}

#[test]
fn the_last_close_clears_and_frees_every_page() {
    let mut guest = guest();
    let facts = kernel_facts();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    let pages = fill(&mut guest, gva);
    personas::assert_flags_of_a_device(&guest, &facts, gva);
    assert_eq!(vmas(&guest, &facts, gva), 1);
    // The region alone holds them: an entry for a frame is no reference.
    assert_eq!(holders(&guest, &facts, &pages), [1; 5]);
    unmap(&mut guest, gva, LEN_BYTES);
    for page in 0..NPAGES {
        assert_absent(&guest, page_at(gva, page));
    }
    assert_cleared(&guest, &pages);
    assert_free(&guest, &facts, &pages);
    assert_eq!(counts(&mut guest, fd), of(0, 0, NPAGES, NPAGES));
    // The next region begins with nothing of it.
    let again = region(&mut guest, fd);
    fill(&mut guest, again);
    assert_no_complaints(&mut guest);
}

/// A hole makes two vmas of one, which share the region.
#[test]
fn a_partial_munmap_frees_nothing() {
    let mut guest = guest();
    let facts = kernel_facts();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    let pages = fill(&mut guest, gva);
    assert_eq!(vmas(&guest, &facts, gva), 1);
    unmap(&mut guest, page_at(gva, 2), PAGE_SIZE);
    assert_absent(&guest, page_at(gva, 2));
    assert_eq!(vmas(&guest, &facts, gva), 2);
    assert_eq!(vmas(&guest, &facts, page_at(gva, 3)), 2);
    assert_eq!(holders(&guest, &facts, &pages), [1; 5]);
    assert_eq!(counts(&mut guest, fd), of(1, NPAGES, NPAGES, 0));
    hold(&mut guest, gva, &[0, 1, 3, 4]);
    // Not even the page that nobody can reach any more.
    let orphan = guest.vm().read_u64(pages[2].gpa).expect("RAM");
    assert_eq!(orphan, secret(2));
    unmap(&mut guest, gva, 2 * PAGE_SIZE);
    assert_eq!(vmas(&guest, &facts, page_at(gva, 3)), 1);
    assert_eq!(holders(&guest, &facts, &pages), [1; 5]);
    assert_eq!(counts(&mut guest, fd), of(1, NPAGES, NPAGES, 0));
    let left = hold(&mut guest, gva, &[3, 4]);
    assert_eq!(left[..], pages[3..]);
    unmap(&mut guest, page_at(gva, 3), 2 * PAGE_SIZE);
    assert_cleared(&guest, &pages);
    assert_free(&guest, &facts, &pages);
    assert_eq!(counts(&mut guest, fd), of(0, 0, NPAGES, NPAGES));
    assert_no_complaints(&mut guest);
}

#[test]
fn after_a_split_each_part_allocates_for_its_own_pages() {
    let mut guest = guest();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    unmap(&mut guest, page_at(gva, 2), PAGE_SIZE);
    for page in [4, 0] {
        store(&mut guest, page_at(gva, page), secret(page)).expect("stored");
    }
    let pages = hold(&mut guest, gva, &[0, 4]);
    assert_ne!(pages[0].gpa, pages[1].gpa);
    for page in [1, 3] {
        assert_absent(&guest, page_at(gva, page));
    }
    assert_eq!(counts(&mut guest, fd), of(1, 2, 2, 0));
}

#[test]
fn parent_and_child_share_what_either_touches() {
    let mut guest = guest();
    let facts = kernel_facts();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    store(&mut guest, gva, secret(0)).expect("stored");
    let parent = guest.current_pid();
    assert_eq!(vmas(&guest, &facts, gva), 1);
    let child = guest.fork().expect("an answer").expect("a child");
    assert_eq!(vmas(&guest, &facts, gva), 2);
    let in_child = hold(&mut guest, gva, &[0]);
    // Touched by the child only, after the fork.
    store(&mut guest, page_at(gva, 1), secret(1)).expect("stored");
    let theirs = hold(&mut guest, gva, &[1]);
    assert_eq!(counts(&mut guest, fd), of(1, 2, 2, 0));
    guest.switch_to(parent).expect("an answer").expect("there");
    assert_absent(&guest, page_at(gva, 1));
    assert_eq!(hold(&mut guest, gva, &[0]), in_child);
    assert_eq!(hold(&mut guest, gva, &[1]), theirs);
    assert_eq!(counts(&mut guest, fd), of(1, 2, 2, 0));
    // The parent's vma closes; the region is the child's alone, and stays.
    unmap(&mut guest, gva, LEN_BYTES);
    assert_eq!(counts(&mut guest, fd), of(1, 2, 2, 0));
    guest.switch_to(child).expect("an answer").expect("there");
    assert_eq!(vmas(&guest, &facts, gva), 1);
    hold(&mut guest, gva, &[0, 1]);
    guest.exit_child(0).expect("an answer").expect("ended");
    assert_cleared(&guest, &[in_child[0], theirs[0]]);
    assert_eq!(counts(&mut guest, fd), of(0, 0, 2, 2));
    assert_no_complaints(&mut guest);
}

#[test]
fn a_mapping_outlives_its_file() {
    let mut guest = guest();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    personas::close(&mut guest, fd);
    let pages = fill(&mut guest, gva);
    let grown = guest
        .mremap(gva, LEN_BYTES, LEN_BYTES + PAGE_SIZE, true)
        .expect("an answer");
    assert_eq!(errno(grown), libc::EFAULT);
    unmap(&mut guest, gva, LEN_BYTES);
    assert_cleared(&guest, &pages);
}

/// Who finds, with a page in hand, that another has been quicker.
#[test]
fn a_racing_loser_frees_his_own_page_and_takes_the_winners() {
    let mut guest = guest();
    let facts = kernel_facts();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    let lost = guest.ioctl(fd, MSPEC_LOSE_RACE, Vec::new());
    lost.expect("an answer").expect("told");
    store(&mut guest, page_at(gva, 1), secret(1)).expect("stored");
    assert_eq!(counts(&mut guest, fd), of(1, 1, 2, 1));
    let winner = hold(&mut guest, gva, &[1]);
    assert_eq!(holders(&guest, &facts, &winner), [1]);
    // The one that stays the region's: a child finds the same.
    guest.fork().expect("an answer").expect("a child");
    assert_eq!(hold(&mut guest, gva, &[1]), winner);
    guest.exit_child(0).expect("an answer").expect("ended");
    unmap(&mut guest, gva, LEN_BYTES);
    assert_eq!(counts(&mut guest, fd), of(0, 0, 2, 2));
    assert_no_complaints(&mut guest);
}

/// RAM has the memory type that the kernel itself uses for it, so the driver has to
/// change that first.
#[test]
fn uncached_pages_are_uncached() {
    let mut guest = guest();
    let fd = open(&mut guest, UNCACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    for page in fill(&mut guest, gva) {
        assert_eq!(page.memory_type, MemoryType::UncachedMinus, "{page:?}");
    }
    unmap(&mut guest, gva, LEN_BYTES);
    assert_eq!(counts(&mut guest, fd), of(0, 0, NPAGES, NPAGES));
    assert_no_complaints(&mut guest);
}

#[test]
fn what_was_mapped_for_writing_may_be_protected_and_opened_again() {
    let mut guest = guest();
    let fd = open(&mut guest, CACHED, OpenMode::ReadWrite);
    let gva = region(&mut guest, fd);
    fill(&mut guest, gva);
    let closed = guest.mprotect(gva, PAGE_SIZE, Prot::READ);
    closed.expect("an answer").expect("protected");
    assert!(!ram_page(&guest, gva).writable);
    assert_eq!(signal(store(&mut guest, gva, 1)), libc::SIGSEGV);
    let opened = guest.mprotect(gva, PAGE_SIZE, Prot::READ_WRITE);
    opened.expect("an answer").expect("protected");
    store(&mut guest, gva, secret(0)).expect("stored");
    hold(&mut guest, gva, &[0, 1, 2, 3, 4]);
}
