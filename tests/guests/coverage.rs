//! Which of the guest kernel's code ran for a request, read by the host in a kernel of
//! flavour kcov.

use std::collections::BTreeSet;

use crate::common::{Ask, boot, chain, guest, image_of, mapped};
use guest_images::Flavour;
use guest_kernel::KernelFacts;
use harness::own_driver::{EAGER, LAZY};
use harness::{CodeMap, Guest, HarnessError, Mapping, Part, Strategy};
use monitor::VmConfig;
use wire::{Prot, Request};

/// A guest whose kernel notes what runs, with the driver loaded.
fn recorded() -> (Guest, CodeMap) {
    let (mut guest, code) = unrecorded();
    let started = guest.start_coverage();
    started.unwrap_or_else(|error| panic!("{}", chain(&error)));
    (guest, code)
}

/// The same, before it is told to.
fn unrecorded() -> (Guest, CodeMap) {
    let image = image_of("good", Flavour::Kcov);
    let mut guest = boot(&VmConfig::new(image.vmlinux, image.initramfs));
    guest.load_driver().expect("the driver");
    let facts = KernelFacts::read(&image.types, &image.system_map).expect("facts");
    let mm_text = image.mm_text.expect("a kernel that tells its coverage");
    let code = CodeMap::of(&guest, &facts, "mapwitness", &mm_text);
    let code = code.unwrap_or_else(|error| panic!("{}", chain(&error)));
    (guest, code)
}

fn map(guest: &mut Guest, strategy: Strategy) -> Mapping {
    let ask = Ask {
        strategy,
        window: "odd",
        first_page: 0,
        npages: 13,
        prot: Prot::READ_WRITE,
    };
    mapped(guest, ask)
}

/// Places of a part that ran since this was asked last, in bytes from its start.
type Ran = BTreeSet<u64>;

fn ran(guest: &mut Guest, code: &CodeMap) -> (Ran, Ran) {
    let coverage = guest.coverage();
    let coverage = coverage.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(coverage.is_whole, "{} addresses", coverage.pcs.len());
    let of = |part| {
        let places = coverage.pcs.iter().filter_map(|pc| code.place(*pc));
        let of_part = places.filter(|place| place.part == part);
        let offsets: Ran = of_part.map(|place| place.offset_bytes).collect();
        assert!(offsets.iter().all(|it| *it < code.len_bytes(part)));
        offsets
    };
    (of(Part::Driver), of(Part::Mm))
}

#[test]
fn a_request_tells_the_drivers_code_and_that_of_mm_apart() {
    let (mut guest, code) = recorded();
    assert_eq!(ran(&mut guest, &code), (Ran::new(), Ran::new()));

    let text = "nobody's code".to_owned();
    guest.request(&Request::Log { text }).expect("an answer");
    assert_eq!(ran(&mut guest, &code).0, Ran::new(), "not the driver's");

    map(&mut guest, EAGER);
    let (eager, mm) = ran(&mut guest, &code);
    assert!(!eager.is_empty() && !mm.is_empty(), "{eager:?} {mm:?}");

    let mapping = map(&mut guest, LAZY);
    let (lazy, _) = ran(&mut guest, &code);
    assert!(!lazy.is_empty() && lazy != eager, "{lazy:?}");

    let touch = |guest: &mut Guest| {
        let loaded = guest.load(mapping.gva, 4096, 13);
        loaded.expect("an answer").expect("loaded");
    };
    touch(&mut guest);
    let (fault, _) = ran(&mut guest, &code);
    assert!(!fault.is_empty() && fault.is_disjoint(&eager), "{fault:?}");
    touch(&mut guest);
    let (again, _) = ran(&mut guest, &code);
    assert_eq!(again, Ran::new(), "what is mapped asks nobody");
}

#[test]
fn a_reset_takes_the_recording_back_and_the_same_request_runs_the_same_code() {
    let (mut guest, code) = recorded();
    let start = guest.snapshot().expect("a snapshot");
    map(&mut guest, LAZY);
    let coverage = guest.coverage().expect("coverage");
    let mut first = vec![0; 1 << 16];
    code.count_edges(&coverage, Part::Driver, &mut first);
    assert!(first.iter().any(|count| *count > 0));
    for _ in 0..3 {
        map(&mut guest, EAGER);
        guest.reset(&start).expect("reset");
        assert_eq!(ran(&mut guest, &code), (Ran::new(), Ran::new()));
        map(&mut guest, LAZY);
        let coverage = guest.coverage().expect("coverage");
        let mut again = vec![0; 1 << 16];
        code.count_edges(&coverage, Part::Driver, &mut again);
        assert!(first == again, "other edges than at first");
    }
}

#[test]
fn every_process_is_recorded_while_it_carries_a_request_out() {
    let (mut guest, code) = recorded();
    let parent = guest.current_pid();
    let child = guest.fork().expect("an answer").expect("a child");
    let (_, mm) = ran(&mut guest, &code);
    assert!(!mm.is_empty(), "fork copies areas");
    map(&mut guest, EAGER);
    let (in_child, _) = ran(&mut guest, &code);
    assert!(!in_child.is_empty());
    guest.switch_to(parent).expect("an answer").expect("there");
    map(&mut guest, EAGER);
    let (in_parent, _) = ran(&mut guest, &code);
    assert!(!in_parent.is_empty());
    guest.switch_to(child).expect("an answer").expect("there");
    guest.exit_child(0).expect("an answer").expect("it ended");
    map(&mut guest, LAZY);
    assert!(!ran(&mut guest, &code).0.is_empty());
}

#[test]
fn coverage_that_there_is_not_is_told() {
    let (mut guest, _) = unrecorded();
    let before = guest.coverage();
    assert!(matches!(before, Err(HarnessError::CoverageNotStarted)));
    let without = guest.snapshot().expect("a snapshot");
    guest.start_coverage().expect("started");
    guest.reset(&without).expect("reset");
    let after = guest.coverage();
    assert!(
        matches!(after, Err(HarnessError::CoverageLost { .. })),
        "{after:?}"
    );
    guest.start_coverage().expect("started again");
    map(&mut guest, EAGER);
    assert!(!guest.coverage().expect("coverage").pcs.is_empty());
}

#[test]
fn a_plain_kernel_tells_none_and_a_module_must_be_loaded() {
    let mut plain = guest();
    let refused = plain.start_coverage().expect_err("no KCOV");
    let told = chain(&refused);
    assert!(told.contains("flavour kcov"), "{told}");

    let image = image_of("good", Flavour::Kcov);
    let guest = boot(&VmConfig::new(image.vmlinux, image.initramfs));
    let facts = KernelFacts::read(&image.types, &image.system_map).expect("facts");
    let mm_text = image.mm_text.expect("a kernel that tells its coverage");
    let missing = CodeMap::of(&guest, &facts, "mapwitness", &mm_text);
    assert!(
        matches!(missing, Err(HarnessError::NotLoaded { .. })),
        "{missing:?}"
    );
}

/// A module's structures are laid out for one flavour.
#[test]
fn a_module_of_another_flavour_is_refused() {
    let plain = image_of("good", Flavour::Plain);
    let kcov = image_of("good", Flavour::Kcov);
    let config = VmConfig::new(kcov.vmlinux, plain.initramfs);
    let error = boot(&config).load_driver().expect_err("another layout");
    let told = chain(&error);
    assert!(told.contains("built for another kernel"), "{told}");
}
