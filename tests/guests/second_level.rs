//! The live second-level tables: every page of a mapping followed to the entry
//! that the processor uses, and faults of the host told from faults of the driver.

use std::collections::BTreeSet;
use std::fs;

use crate::common::{self, guest, guest_with, whole};
use crate::faults::{self, KvmSlot, Memory};
use crate::probe_event::ProbeEvent;
use addr::{Level, PAGE_SIZE, Pfn};
use harness::observe::Judged;
use harness::own_driver::{EAGER, LAZY};
use harness::{Guest, Mapping, Presence, Strategy};
use monitor::DEVICE_REGISTERS;
use rstest::rstest;
use walk::Spte;
use witness::host_frame::Pagemap;
use witness::second_level::{Kind, LiveTables, host};
use witness::{Evidence, Link};

/// Every page present and heard at the second level.
#[track_caller]
fn assert_witnessed(judged: &Judged, npages: u64) {
    assert_eq!(judged.mismatch, None);
    assert_eq!(judged.unwitnessed.get(&Link::SecondLevel), None);
    assert_eq!(judged.present, npages);
    assert_eq!(judged.links.get(Link::SecondLevel), npages, "{judged:?}");
}

/// Holds every page against its contract from below. Where KVM maps nothing without an
/// access of the guest, the guest loads from each page first.
fn brought_in(guest: &mut Guest, mapping: &Mapping) -> Judged {
    if !guest.vm().can_prefault() {
        touch(guest, mapping);
    }
    guest.witness(mapping, &Presence::All).expect("walked")
}

/// Whatever the loads yield.
fn touch(guest: &mut Guest, mapping: &Mapping) {
    let npages = u32::try_from(mapping.spec.npages).expect("small");
    let _ = guest
        .load(mapping.gva, PAGE_SIZE, npages)
        .expect("an answer");
}

/// Lets the guest run without any use of a mapping. KVM exchanges a root that it
/// has retired when it enters the guest.
fn run(guest: &mut Guest) {
    let fd = common::open(guest, EAGER, 0, wire::OpenMode::ReadOnly);
    guest.close(fd).expect("an answer").expect("closed");
}

/// The link that is blamed, and the page; the guest's walk must have been right.
#[track_caller]
fn blamed(judged: &Judged) -> (Link, u64) {
    let mismatch = judged.mismatch.as_ref().expect("a mismatch");
    assert!(mismatch.link > Link::Memslot, "{mismatch:#?}");
    (mismatch.link, mismatch.page)
}

#[rstest]
fn every_page_is_followed_to_the_processors_own_entry(
    #[values(EAGER, LAZY)] strategy: Strategy,
    #[values("page", "odd", "large", "readonly")] window: &'static str,
) {
    let mut guest = guest();
    let mapping = whole(&mut guest, strategy, window);
    let npages = mapping.spec.npages;
    if strategy == EAGER {
        // Nothing was accessed yet, so that KVM has to be made to map it.
        let before = guest.witness(&mapping, &Presence::All).expect("walked");
        if guest.vm().can_prefault() {
            assert_witnessed(&before, npages);
        } else {
            let reason = &before.unwitnessed[&Link::SecondLevel];
            assert!(reason.contains("not accessed the page yet"), "{reason}");
            assert_eq!((&before.mismatch, before.present), (&None, npages));
            assert_eq!(before.links.get(Link::SecondLevel), 0, "never counted");
        }
    }
    let in_use = guest.witness_in_use(&mapping).expect("walked");
    assert_witnessed(&in_use, npages);
    assert_eq!(in_use.links.get(Link::Stamp), npages);
}

/// By default the processor's own depth, which need not be the guest's.
#[test]
fn the_root_is_kvms_own_and_as_deep_as_the_host_pages() {
    let guest = guest();
    let root = LiveTables::of(guest.vm()).expect("found").root();
    println!("{root:?}");
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").expect("there");
    let deep = cpuinfo.contains("57 bits virtual");
    assert_eq!(root.top, if deep { Level::Pgd } else { Level::P4d });
    assert!(root.listed, "KVM's list of roots has {root:?}");
}

/// KVM's own marks are known on each kernel that these tests run on. The driver has used
/// its registers, which no memory backs.
#[test]
fn registers_without_memory_stand_there_as_kvms_mmio_entry() {
    let guest = guest();
    let tables = LiveTables::of(guest.vm()).expect("found");
    let entry = tables.look(DEVICE_REGISTERS);
    assert!(entry.walked.is_err(), "{entry:?}");
    // In NPT the mark is a reserved bit of the address, and not every processor has one.
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").expect("there");
    let markless = host().expect("open").processor().kind() == Kind::Npt
        && cpuinfo.contains("52 bits physical");
    let expected = if markless {
        Spte::NonPresent
    } else {
        Spte::Mmio
    };
    assert_eq!(entry.means, Some(expected), "{entry:?}");
}

#[test]
fn each_vm_of_a_process_has_tables_of_its_own() {
    let (mut one, mut other) = (guest(), guest());
    let root = |guest: &Guest| LiveTables::of(guest.vm()).expect("found").root().table;
    assert_ne!(root(&one), root(&other));
    for guest in [&mut one, &mut other] {
        let mapping = whole(guest, EAGER, "odd");
        assert_witnessed(&guest.witness_in_use(&mapping).expect("walked"), 13);
    }
}

/// KVM may keep entries after munmap: it knows memslots, not mappings. But none of
/// them may lead to a frame that is not the window's own.
#[rstest]
fn after_munmap_no_entry_leads_to_a_foreign_frame(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    for window in ["page", "odd", "large", "readonly"] {
        let mapping = whole(&mut guest, strategy, window);
        guest.witness_in_use(&mapping).expect("walked");
        guest
            .munmap(mapping.gva, mapping.spec.len_bytes())
            .expect("an answer")
            .expect("unmapped");
    }
    let tables = LiveTables::of(guest.vm()).expect("found");
    let pagemap = Pagemap::open().expect("open");
    let mut led_there = 0;
    for window in guest.vm().windows() {
        for page in 0..window.npages() {
            let gpa = window.base().checked_add(page * PAGE_SIZE).expect("small");
            let Ok(found) = tables.look(gpa).walked else {
                continue;
            };
            let hva = window.ledger_hva(page).expect("in the window");
            let own = pagemap.pfn(hva).expect("locked");
            assert_eq!(Pfn::containing(found.address), own, "gpa {gpa}");
            led_there += 1;
        }
        // The pages after a window are nobody's.
        let past = window
            .base()
            .checked_add(window.len_bytes())
            .expect("small");
        assert!(tables.look(past).walked.is_err(), "{past} is mapped");
    }
    assert!(led_there > 0, "nothing was looked at");
}

#[test]
fn a_driver_that_is_off_by_one_is_blamed_by_the_guests_own_tables() {
    let mut guest = guest_with("off-by-one");
    let mapping = whole(&mut guest, EAGER, "odd");
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    let mismatch = judged.mismatch.expect("a mismatch");
    assert_eq!((mismatch.link, mismatch.page), (Link::GuestWalk, 1));
    let lines = mismatch.host.join("\n");
    assert!(lines.contains("second level"), "both walks: {lines}");
}

#[rstest]
fn a_memslot_swapped_under_the_guest_is_blamed_on_the_second_level(
    #[values(false, true)] in_use: bool,
) {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    assert_witnessed(&brought_in(&mut guest, &mapping), 13);
    // KVM is told of the memory of another window; the VMM's own table is not.
    let large = guest.vm().memslots()[common::slot(&guest, "large")];
    let odd = KvmSlot::of(&guest, "odd");
    odd.replace(guest.vm(), large.hva, false);
    let judged = if in_use {
        guest.witness_in_use(&mapping).expect("walked")
    } else {
        run(&mut guest);
        brought_in(&mut guest, &mapping)
    };
    assert_eq!(blamed(&judged), (Link::SecondLevel, 0));
}

#[rstest]
fn a_slot_with_other_rights_than_the_window_is_blamed_on_the_second_level(
    #[values(("readonly", false), ("odd", true))] (window, read_only): (&'static str, bool),
) {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, window);
    let slot = KvmSlot::of(&guest, window);
    let hva = slot.hva();
    slot.replace(guest.vm(), hva, read_only);
    run(&mut guest);
    let judged = brought_in(&mut guest, &mapping);
    assert_eq!(blamed(&judged), (Link::SecondLevel, 0));
}

#[test]
fn a_slot_that_kvm_has_lost_is_blamed_on_the_second_level() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    KvmSlot::of(&guest, "odd").remove(guest.vm());
    run(&mut guest);
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    if guest.vm().can_prefault() {
        assert_eq!(blamed(&judged), (Link::SecondLevel, 0));
    } else {
        // Nothing tells it from a page that was not accessed, so that it is no pass.
        assert_eq!(judged.links.get(Link::SecondLevel), 0);
        assert!(judged.unwitnessed.contains_key(&Link::SecondLevel));
    }
}

#[test]
fn a_remapped_host_page_is_blamed_on_the_host_frame() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    let before = guest.witness_in_use(&mapping).expect("walked");
    assert_witnessed(&before, 13);
    faults::remap(KvmSlot::of(&guest, "odd").page_hva(5));
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    assert_eq!(blamed(&judged), (Link::HostFrame, 5));
}

/// The opposite fault: the VMM looks at memory that the guest no longer has.
#[test]
fn a_stale_view_of_the_host_is_blamed_on_the_host() {
    let mut guest = guest();
    let mapping = whole(&mut guest, LAZY, "odd");
    let copy = Memory::ordinary(13);
    KvmSlot::of(&guest, "odd").replace(guest.vm(), copy.hva(), false);
    let judged = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(blamed(&judged), (Link::SecondLevel, 0));
}

#[test]
fn a_root_that_kvm_retires_is_noticed_and_the_next_one_is_found() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    let witnessed = guest.witness_in_use(&mapping).expect("walked");
    assert_witnessed(&witnessed, 13);
    let fd = guest.vm().vcpu_descriptor().expect("at the doorbell");
    assert!(host().expect("open").root(fd).expect("a root").listed);

    let slot = KvmSlot::of(&guest, "odd");
    slot.replace(guest.vm(), slot.hva(), false);
    let retired = host()
        .expect("open")
        .root(fd)
        .expect_err("no root in force");
    assert!(retired.is_passing(), "{retired}");
    let unheard = guest.witness(&mapping, &Presence::All).expect("walked");
    assert_eq!(unheard.links.get(Link::SecondLevel), 0);
    let reason = &unheard.unwitnessed[&Link::SecondLevel];
    assert!(reason.contains("retired"), "{reason}");
    run(&mut guest);
    assert_witnessed(&brought_in(&mut guest, &mapping), 13);
    assert!(host().expect("open").root(fd).expect("a root").listed);
}

/// A change of the VM's memslots.
#[derive(Clone, Copy, Debug)]
enum Change {
    Added,
    Removed,
    GivenBack,
    LogsStores,
}

impl Change {
    fn make(self, guest: &Guest) {
        let (vm, slot) = (guest.vm(), KvmSlot::of(guest, "odd"));
        match self {
            Self::Added => KvmSlot::add_another(vm, Memory::ordinary(1)),
            Self::Removed => KvmSlot::of(guest, "page").remove(vm),
            Self::GivenBack => slot.replace(vm, slot.hva(), false),
            Self::LogsStores => slot.log_dirty(vm),
        }
    }
}

/// Whether or not KVM exchanges the root for it.
#[rstest]
fn tables_from_before_a_change_of_memslots_are_no_evidence(
    #[values(Change::Added, Change::Removed, Change::GivenBack, Change::LogsStores)] change: Change,
) {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    let before = guest.witness_in_use(&mapping).expect("walked");
    assert_witnessed(&before, 13);
    let tables = LiveTables::of(guest.vm()).expect("found");
    let old = tables.root();
    let evidence = Evidence::of(guest.vm()).expect("long mode");
    // The tables are opened for the first page that is looked at.
    let looked_at = evidence.page(mapping.gva, None, None);
    assert!(matches!(looked_at.second_level, Some(Ok(_))));
    assert!(tables.are_in_force() && evidence.is_current(), "no change");
    change.make(&guest);
    assert!(!tables.are_in_force(), "{change:?} is not noticed");
    assert!(!evidence.is_current(), "{change:?} is not noticed");
    run(&mut guest);
    let after = guest.witness_in_use(&mapping).expect("walked");
    assert_witnessed(&after, 13);
    let tables = LiveTables::of(guest.vm()).expect("found");
    assert!(tables.are_in_force() && tables.root() != old, "{old:?}");
}

/// Two witnesses without a step in common: what KVM hands to the processor, noted by a
/// probe in its code, and what is found later in its memory.
#[test]
fn the_root_that_is_found_is_the_one_that_kvm_loads() {
    let mut guest = guest();
    let fd = guest.vm().vcpu_descriptor().expect("at the doorbell");
    let probe = ProbeEvent::on_root_loads();
    let mut tables = BTreeSet::new();
    for round in 0..3 {
        // KVM takes another root when the guest runs next.
        let slot = KvmSlot::of(&guest, "odd");
        slot.replace(guest.vm(), slot.hva(), false);
        run(&mut guest);
        let found = host().expect("open").root(fd).expect("a root");
        let loaded = probe
            .last_of_its_vcpu(found.table)
            .unwrap_or_else(|| panic!("round {round}: {found:?} was never loaded"));
        assert_eq!((loaded.table, loaded.top), (found.table, found.top));
        tables.insert(found.table);
    }
    assert!(tables.len() > 1, "the root never moved: {tables:?}");
}

/// Linux 6.12 pre-faults for ever where the root is retired; later kernels do not.
#[test]
fn prefaulting_comes_to_an_end_whatever_the_root() {
    let mut guest = guest();
    let slot = KvmSlot::of(&guest, "odd");
    slot.replace(guest.vm(), slot.hva(), false);
    let base = guest.vm().windows()[common::window(&guest, "odd")].base();
    let outcome = guest.vm().prefault(base, PAGE_SIZE);
    println!("{outcome:?}");
    // The guest can go on, and so can the witness.
    run(&mut guest);
    let mapping = whole(&mut guest, EAGER, "odd");
    assert_witnessed(&brought_in(&mut guest, &mapping), 13);
}

#[test]
fn leaves_of_2_mib_are_followed_to_their_frames() {
    let mut guest = guest();
    let slot = common::slot(&guest, "large");
    let base = guest.vm().memslots()[slot].base;
    let memory = Memory::of_2_mib(2);
    KvmSlot::of(&guest, "large").replace(guest.vm(), memory.hva(), false);
    let mapping = whole(&mut guest, EAGER, "large");
    if !guest.vm().can_prefault() {
        touch(&mut guest, &mapping);
    }
    let tables = LiveTables::of(guest.vm()).expect("found");
    let pagemap = Pagemap::open().expect("open");
    for page in 0..1024 {
        let gpa = base.checked_add(page * PAGE_SIZE).expect("small");
        let entry = tables.page(gpa).expect("a root");
        let found = entry
            .walked
            .unwrap_or_else(|error| panic!("{gpa}: {error}"));
        assert_eq!(found.page_size, Level::Pmd, "{gpa}");
        let hva = memory.hva().checked_add(page * PAGE_SIZE).expect("small");
        let own = pagemap.pfn(hva).expect("there");
        assert_eq!(Pfn::containing(found.address), own, "{gpa}");
    }
}
