//! The timeline: when second-level entries were set and zapped, by KVM's own records.

use std::fs;

use crate::command::{self, mapwitness};
use crate::common::{self, guest, whole};
use crate::faults::{KvmSlot, Memory};
use addr::PAGE_SIZE;
use harness::own_driver::{EAGER, LAZY};
use harness::{Guest, Mapping, Presence, Strategy, Watch, watch};
use monitor::VmConfig;
use rstest::rstest;
use serde_json::json;
use witness::Link;
use witness::second_level::LiveTables;
use witness::timeline::{Reached, Timeline, Verdict};

#[track_caller]
fn watched(guest: &mut Guest) -> Watch {
    Watch::start(guest).unwrap_or_else(|error| panic!("{}", common::chain(&error)))
}

/// Loads from one page of a mapping.
#[track_caller]
fn touch(guest: &mut Guest, mapping: &Mapping, page: u64) {
    let gva = mapping.page_gva(page).expect("small");
    let loaded = guest.load(gva, PAGE_SIZE, 1).expect("an answer");
    assert!(loaded.is_ok(), "{loaded:?}");
}

/// Lets the guest run without any use of a mapping.
fn run(guest: &mut Guest) {
    let fd = common::open(guest, EAGER, 0, wire::OpenMode::ReadOnly);
    guest.close(fd).expect("an answer").expect("closed");
}

#[track_caller]
fn use_all(guest: &mut Guest, watch: &mut Watch, mapping: &Mapping) {
    let judged = guest.witness_in_use(mapping).expect("walked");
    assert_eq!(judged.mismatch, None);
    watch.used(guest, &mapping.spec);
}

#[track_caller]
fn withdraw(guest: &mut Guest, watch: &mut Watch, mapping: &Mapping) {
    watch.withdraw(guest, &mapping.spec).expect("withdrawn");
}

#[track_caller]
fn assert_pass(timeline: &Timeline) {
    assert_eq!(timeline.verdict, Verdict::Pass, "{timeline:#?}");
    assert!(timeline.tables_agree, "{timeline:#?}");
    assert_eq!((timeline.left, timeline.counts.lost), (0, 0));
}

/// When the guest reached how many pages.
fn reached(timeline: &Timeline) -> Vec<(&str, u64)> {
    let pair = |one: &'_ Reached| (one.phase.clone(), one.pages);
    let pairs = timeline.reached.iter().map(pair);
    let known = ["mmap", "one page touched", "in use", "munmap"];
    pairs
        .map(|(phase, pages)| {
            let name = known.into_iter().find(|name| *name == phase);
            (name.unwrap_or("?"), pages)
        })
        .collect()
}

#[rstest]
fn each_page_is_set_when_the_guest_reaches_it_and_zapped_when_it_is_withdrawn(
    #[values(EAGER, LAZY)] strategy: Strategy,
    #[values("page", "odd", "large", "readonly")] window: &'static str,
) {
    let mut guest = guest();
    let mut watch = watched(&mut guest);
    watch.phase(&guest, "mmap");
    let mapping = whole(&mut guest, strategy, window);
    let npages = mapping.spec.npages;
    watch.phase(&guest, "in use");
    use_all(&mut guest, &mut watch, &mapping);
    watch.phase(&guest, "munmap");
    guest
        .munmap(mapping.gva, mapping.spec.len_bytes())
        .expect("an answer")
        .expect("unmapped");
    withdraw(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_pass(&timeline);
    assert_eq!(reached(&timeline), [("in use", npages)]);
    let counts = timeline.counts;
    assert_eq!(
        (counts.set_by_guest, counts.set_by_host, counts.zapped),
        (npages, 0, npages)
    );
}

#[test]
fn a_touch_reaches_its_page_and_no_other() {
    let mut guest = guest();
    let mut watch = watched(&mut guest);
    watch.phase(&guest, "mmap");
    let mapping = whole(&mut guest, LAZY, "odd");
    watch.phase(&guest, "one page touched");
    touch(&mut guest, &mapping, 6);
    watch.phase(&guest, "in use");
    use_all(&mut guest, &mut watch, &mapping);
    withdraw(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_pass(&timeline);
    assert_eq!(
        reached(&timeline),
        [("one page touched", 1), ("in use", 12)]
    );
}

/// Neither strategy reaches the device at mmap or munmap: only accesses do.
#[rstest]
fn a_mapping_that_nobody_uses_makes_no_entry(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let mut watch = watched(&mut guest);
    watch.phase(&guest, "mmap");
    let mapping = whole(&mut guest, strategy, "odd");
    guest
        .munmap(mapping.gva, mapping.spec.len_bytes())
        .expect("an answer")
        .expect("unmapped");
    withdraw(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_pass(&timeline);
    assert_eq!((timeline.counts.set, timeline.counts.faults), (0, 0));
}

#[test]
fn the_hosts_own_prefault_is_told_from_the_guests_accesses() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    let mut watch = watched(&mut guest);
    watch.phase(&guest, "mmap");
    touch(&mut guest, &mapping, 2);
    // This look has the pages made that are not there.
    let judged = guest.witness(&mapping, &Presence::All).expect("walked");
    assert_eq!(judged.mismatch, None);
    withdraw(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_pass(&timeline);
    let counts = timeline.counts;
    // Before Linux 6.11 KVM maps nothing without an access of the guest.
    let by_host = if guest.vm().can_prefault() { 12 } else { 0 };
    assert_eq!((counts.set_by_guest, counts.set_by_host), (1, by_host));
    assert_eq!(reached(&timeline), [("mmap", 1)]);
}

/// What all links together cannot see, since all is right again when they look.
#[test]
fn a_memslot_swapped_for_a_moment_is_seen_by_the_timeline_alone() {
    let mut guest = guest();
    let mapping = whole(&mut guest, LAZY, "odd");
    let mut watch = watched(&mut guest);
    let mut timeline = swapped_for_a_moment(&mut guest, &mut watch, &mapping);
    // A host that moves pages of its own just then can witness nothing, and says so.
    for _ in 0..4 {
        if timeline.verdict != Verdict::Unwitnessed {
            break;
        }
        timeline = swapped_for_a_moment(&mut guest, &mut watch, &mapping);
    }
    assert_eq!(timeline.verdict, Verdict::Fail, "{timeline:#?}");
    assert!(timeline.unwitnessed.is_empty(), "{timeline:#?}");
    let [finding] = timeline.findings.as_slice() else {
        panic!("{timeline:#?}");
    };
    assert_eq!(finding.name, "odd[3]");
    assert_eq!(finding.phase, "between two looks");
    let blamed = watch::blame(&guest, Some(&mapping), &timeline).expect("a mismatch");
    assert_eq!((blamed.link, blamed.page), (Link::SecondLevel, 3));
    // The next stretch of time is not tainted by it.
    use_all(&mut guest, &mut watch, &mapping);
    withdraw(&mut guest, &mut watch, &mapping);
    assert_pass(&watch.finish(&guest));
}

/// Page 3 leads into another window, until all links are looked at.
fn swapped_for_a_moment(guest: &mut Guest, watch: &mut Watch, mapping: &Mapping) -> Timeline {
    let large = guest.vm().memslots()[common::slot(guest, "large")];
    let odd = KvmSlot::of(guest, "odd");
    watch.phase(guest, "between two looks");
    odd.replace(guest.vm(), large.hva, false);
    touch(guest, mapping, 3);
    odd.replace(guest.vm(), odd.hva(), false);
    watch.phase(guest, "in use");
    // Every link of every page is right.
    use_all(guest, watch, mapping);
    let all = guest.witness(mapping, &Presence::All).expect("walked");
    assert_eq!((all.mismatch, all.links.get(Link::SecondLevel)), (None, 13));
    withdraw(guest, watch, mapping);
    watch.finish(guest)
}

/// Memory that is no window's: its frame is in no ledger.
#[test]
fn a_moment_in_foreign_memory_is_seen_too() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    let mut watch = watched(&mut guest);
    let copy = Memory::ordinary(13);
    let odd = KvmSlot::of(&guest, "odd");
    odd.replace(guest.vm(), copy.hva(), false);
    touch(&mut guest, &mapping, 12);
    odd.replace(guest.vm(), odd.hva(), false);
    use_all(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_eq!(timeline.verdict, Verdict::Fail, "{timeline:#?}");
    assert_eq!(timeline.findings[0].name, "odd[12]");
}

#[test]
fn a_read_only_window_that_is_writable_for_a_moment_is_seen() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "readonly");
    let mut watch = watched(&mut guest);
    let slot = KvmSlot::of(&guest, "readonly");
    slot.replace(guest.vm(), slot.hva(), false);
    touch(&mut guest, &mapping, 1);
    slot.replace(guest.vm(), slot.hva(), true);
    use_all(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_eq!(timeline.verdict, Verdict::Fail, "{timeline:#?}");
    assert_eq!(timeline.findings[0].name, "readonly[1]");
    assert!(timeline.findings[0].expected.contains("no stores"));
}

#[test]
fn of_a_memslot_that_is_taken_away_nothing_is_left() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "odd");
    let mut watch = watched(&mut guest);
    use_all(&mut guest, &mut watch, &mapping);
    let slot = KvmSlot::of(&guest, "odd");
    slot.remove(guest.vm());
    run(&mut guest);
    let timeline = watch.finish(&guest);
    assert_pass(&timeline);
    assert_eq!((timeline.counts.set, timeline.counts.zapped), (13, 13));
    let tables = LiveTables::of(guest.vm()).expect("a root");
    for page in 0..13 {
        let device_page = mapping.spec.device_page(guest.plan(), page);
        let gpa = guest.plan().gpa(device_page.expect("shown"));
        assert!(tables.look(gpa.expect("there")).walked.is_err(), "{page}");
    }
}

#[test]
fn vms_of_one_process_are_told_apart() {
    let (mut one, mut other) = (guest(), guest());
    let mapping = whole(&mut one, EAGER, "odd");
    let (mut watch_one, mut watch_other) = (watched(&mut one), watched(&mut other));
    use_all(&mut one, &mut watch_one, &mapping);
    // The same thread looks at both, and withdraws the memory of both.
    withdraw(&mut one, &mut watch_one, &mapping);
    let timeline = watch_one.finish(&one);
    assert_pass(&timeline);
    assert_eq!((timeline.counts.set, timeline.counts.zapped), (13, 13));

    withdraw(&mut other, &mut watch_other, &mapping);
    let timeline = watch_other.finish(&other);
    assert_pass(&timeline);
    assert_eq!((timeline.counts.set, timeline.counts.faults), (0, 0));
    assert!(timeline.counts.foreign >= 39, "{timeline:#?}");
}

#[test]
fn lost_records_are_said_and_witness_nothing() {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "large");
    let mut watch = Watch::in_room_of(&mut guest, 8).expect("room for little");
    let judged = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(judged.mismatch, None);
    watch.used(&guest, &mapping.spec);
    let timeline = watch.finish(&guest);
    assert_eq!(timeline.verdict, Verdict::Unwitnessed, "{timeline:#?}");
    assert!(timeline.counts.lost > 1000, "{timeline:#?}");
    let reasons = timeline.unwitnessed.join("\n");
    assert!(reasons.contains("overwritten"), "{reasons}");
    assert!(reasons.contains("a page follows"), "{reasons}");
    assert!(!timeline.tables_agree);
    // Little fits, and little is used: all is told again.
    let page = whole(&mut guest, EAGER, "page");
    for mapping in [&mapping, &page] {
        withdraw(&mut guest, &mut watch, mapping);
        let _ = watch.finish(&guest);
    }
    use_all(&mut guest, &mut watch, &page);
    withdraw(&mut guest, &mut watch, &page);
    assert_pass(&watch.finish(&guest));
}

#[test]
fn each_vcpu_is_the_guest() {
    let config = VmConfig {
        vcpus: 2,
        ..common::config("good")
    };
    let mut guest = common::boot(&config);
    guest.load_driver().expect("loaded");
    assert_eq!(guest.vm().threads().vcpus.len(), 2);
    let mut watch = watched(&mut guest);
    let mapping = whole(&mut guest, LAZY, "odd");
    use_all(&mut guest, &mut watch, &mapping);
    withdraw(&mut guest, &mut watch, &mapping);
    let timeline = watch.finish(&guest);
    assert_pass(&timeline);
    assert_eq!(timeline.counts.set_by_guest, 13);
}

#[test]
fn a_check_tells_when_entries_came_and_went() {
    let output = mapwitness("good")
        .args(["check", "--json", "--timeline", "--file", "eager,lazy"])
        .output()
        .expect("it runs");
    let report = command::json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let timeline = &report["timeline"];
    assert_eq!(
        (&timeline["verdict"], &timeline["lost"]),
        (&json!("pass"), &json!(0))
    );
    assert!(timeline["set_by_guest"].as_u64() >= report["pages_checked"].as_u64());
    let mappings = report["mappings"].as_array().expect("mappings");
    let lazy = mappings.iter().find(|one| one["name"] == "lazy/odd");
    let lazy = &lazy.expect("checked")["timeline"];
    assert_eq!(
        lazy["reached"],
        json!([
            { "phase": "one page touched", "pages": 1 },
            { "phase": "in use", "pages": 12 },
        ])
    );
    for (count, expected) in [("set", 13), ("zapped", 13), ("faults", 13), ("left", 0)] {
        assert_eq!(lazy[count], expected, "{count}: {lazy:#}");
    }
    assert_eq!(lazy["tables_agree"], true);
}

#[test]
fn no_instance_is_left_behind() {
    let own = format!("mapwitness-{}-", std::process::id());
    let instances = || {
        let listed = fs::read_dir("/sys/kernel/tracing/instances").expect("tracefs");
        let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&own)).count()
    };
    let before = instances();
    let mut guest = guest();
    let watch = watched(&mut guest);
    assert_eq!(instances(), before + 1);
    drop(watch);
    assert_eq!(instances(), before);
}
