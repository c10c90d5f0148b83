//! What the tests of the personas have in common.

use std::sync::Arc;

use addr::{Gpa, Gva, PAGE_SIZE, Pfn};
use contract::FileContract;
use guest_kernel::{KernelFacts, VmaView};
use harness::observe::Judged;
use harness::{Guest, Mapping, MappingSpec, Outcome, Presence};
use monitor::SlotUse;
use walk::MemoryType;
use wire::{Fd, OpenMode, Prot, Sharing};
use witness::guest_walk::FrozenTables;
use witness::host_frame::Pagemap;
use witness::second_level::LiveTables;
use witness::{Link, WindowPlan};

use crate::common;

/// A window of the device by its name.
pub fn window(guest: &Guest, name: &str) -> WindowPlan {
    guest.plan().windows[common::window(guest, name)].clone()
}

/// Opens a device file that must be there.
pub fn open(guest: &mut Guest, path: &str, mode: OpenMode) -> Fd {
    let outcome = guest.open(path, mode).expect("an answer");
    outcome.unwrap_or_else(|refusal| panic!("open {path}: {refusal}"))
}

pub fn close(guest: &mut Guest, fd: Fd) {
    guest.close(fd).expect("an answer").expect("closed");
}

/// What is asked of mmap(2) for a file: offset, length, protection, sharing.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub first_page: u64,
    pub npages: u64,
    pub prot: Prot,
    pub sharing: Sharing,
}

impl Ask {
    /// `npages` from the start, shared.
    pub const fn shared(npages: u64, prot: Prot) -> Self {
        Self {
            first_page: 0,
            npages,
            prot,
            sharing: Sharing::Shared,
        }
    }

    pub const fn private(npages: u64, prot: Prot) -> Self {
        Self {
            sharing: Sharing::Private,
            ..Self::shared(npages, prot)
        }
    }

    pub const fn at(self, first_page: u64) -> Self {
        Self { first_page, ..self }
    }
}

/// Maps an open file.
pub fn map_fd(guest: &mut Guest, fd: Fd, file: &Arc<FileContract>, ask: Ask) -> Outcome<Mapping> {
    let spec = MappingSpec {
        file: Arc::clone(file),
        first_page: ask.first_page,
        npages: ask.npages,
        prot: ask.prot,
        sharing: ask.sharing,
    };
    guest.map(fd, &spec).expect("an answer")
}

/// Maps through a file of its own, which is closed again.
pub fn map(guest: &mut Guest, file: &Arc<FileContract>, ask: Ask) -> Outcome<Mapping> {
    let mode = if ask.prot.write && ask.sharing == Sharing::Shared {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let fd = open(guest, &file.path, mode);
    let mapping = map_fd(guest, fd, file, ask);
    close(guest, fd);
    mapping
}

/// As [`map`], for a mapping that must be granted.
#[track_caller]
pub fn mapped(guest: &mut Guest, file: &Arc<FileContract>, ask: Ask) -> Mapping {
    map(guest, file, ask).unwrap_or_else(|refusal| panic!("{}, {ask:?}: {refusal}", file.name))
}

/// What mmap(2) answers for an open file, in bytes; what it maps is unmapped again.
pub fn answer(guest: &mut Guest, fd: Fd, offset: u64, len_bytes: u64, ask: Ask) -> Outcome<()> {
    let answer = guest
        .mmap(fd, offset, len_bytes, ask.prot, ask.sharing)
        .expect("an answer");
    answer.map(|gva| unmap(guest, gva, len_bytes))
}

pub fn unmap(guest: &mut Guest, gva: Gva, len_bytes: u64) {
    let unmapped = guest.munmap(gva, len_bytes).expect("an answer");
    unmapped.expect("unmapped");
}

/// Nothing wrong, and each of `npages` heard by every link.
#[track_caller]
pub fn assert_witnessed(judged: &Judged, npages: u64) {
    assert_eq!(judged.mismatch, None);
    assert!(judged.unwitnessed.is_empty(), "{judged:?}");
    for link in Link::ALL {
        assert_eq!(judged.links.get(link), npages, "{link}: {judged:?}");
    }
}

/// Uses all of a mapping, which must be what its contract says by every link.
#[track_caller]
pub fn assert_in_use(guest: &mut Guest, mapping: &Mapping) {
    let judged = guest.witness_in_use(mapping).expect("walked");
    assert_witnessed(&judged, mapping.spec.npages);
}

/// Looks at a mapping that nobody uses meanwhile.
#[track_caller]
pub fn assert_all_present(guest: &Guest, mapping: &Mapping) {
    let judged = guest.witness(mapping, &Presence::All).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!(judged.present, mapping.spec.npages);
}

/// Nothing of it is in the tables.
#[track_caller]
pub fn assert_nothing(guest: &Guest, mapping: &Mapping) {
    let judged = guest.witness(mapping, &Presence::Nothing).expect("walked");
    assert_eq!(judged.mismatch, None);
    assert_eq!(judged.absent, mapping.spec.npages);
}

/// The guest kernel has found nothing wrong with itself.
#[track_caller]
pub fn assert_no_complaints(guest: &mut Guest) {
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

pub fn load(guest: &mut Guest, gva: Gva) -> Outcome<u64> {
    let words = guest.load(gva, 8, 1).expect("an answer");
    words.map(|words| words[0])
}

pub fn store(guest: &mut Guest, gva: Gva, word: u64) -> Outcome<()> {
    guest.store(gva, 8, vec![word]).expect("an answer")
}

/// First byte of page `page` from `gva` on.
pub fn page_at(gva: Gva, page: u64) -> Gva {
    gva.checked_add(page * PAGE_SIZE).expect("a small mapping")
}

/// The area at `gva`, as the guest kernel has noted it in its own memory.
#[track_caller]
pub fn area(guest: &Guest, facts: &KernelFacts, gva: Gva) -> VmaView {
    let view = guest.kernel(facts).expect("this kernel");
    let found = view.vma_at(gva).expect("readable");
    found.unwrap_or_else(|| panic!("no area at {gva}"))
}

/// The area has the flags of memory that is a device's, or to be treated like it: not
/// the kernel's pages, never longer, in no dump of memory.
#[track_caller]
pub fn assert_flags_of_a_device(guest: &Guest, facts: &KernelFacts, gva: Gva) {
    let flags = area(guest, facts, gva).flags;
    for flag in ["IO", "PFNMAP", "DONTEXPAND", "DONTDUMP"] {
        assert!(flags.has(flag), "{flag} is not among {flags}");
    }
    assert!(!flags.has("MIXEDMAP"), "{flags}");
}

/// A page of the guest's RAM, as a process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamPage {
    pub gpa: Gpa,
    pub writable: bool,
    pub memory_type: MemoryType,
}

/// Follows a page that must be RAM of the guest down to the host's frame: guest walk,
/// memslot, host frame and second level. Which frame it should be nobody knows
/// beforehand; that both ends agree on it is what is asked here.
#[track_caller]
pub fn ram_page(guest: &Guest, gva: Gva) -> RamPage {
    let tables = FrozenTables::of(guest.vm()).expect("long mode");
    let found = tables.walk(gva).unwrap_or_else(|error| panic!("{error}"));
    assert!(found.access.user, "{found:?}");
    let slot = witness::memslot::find(guest.vm().memslots(), found.address);
    let slot = slot.unwrap_or_else(|| panic!("{found:?} is nowhere"));
    assert_eq!(slot.used_for, SlotUse::Ram, "{found:?}");
    // Brings the host's page in, should the guest not have touched it.
    guest.vm().read_u64(found.address).expect("RAM");
    let own = Pagemap::open().expect("open").pfn(slot.hva);
    let live = LiveTables::of(guest.vm()).expect("a root");
    let below = live.page(found.address).expect("a root").walked;
    let below = below.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Pfn::containing(below.address), own.expect("there"));
    RamPage {
        gpa: found.address,
        writable: found.access.write,
        memory_type: found.memory_type,
    }
}

/// The page at `gva` is not in the tables.
#[track_caller]
pub fn assert_absent(guest: &Guest, gva: Gva) {
    let tables = FrozenTables::of(guest.vm()).expect("long mode");
    let walked = tables.walk(gva);
    assert!(
        matches!(&walked, Err(error) if error.is_not_present()),
        "{walked:?}"
    );
}
