//! What becomes of mappings after mmap: each operation's result and errno, and every
//! page of every process after it.

use std::sync::Arc;

use crate::common::{self, guest, guest_with, window};
use addr::PAGE_SIZE;
use harness::model::{
    Anchor, Area, Call, Finding, Handle, Model, Operation, Process, Shows, Stretch, Wrong,
};
use harness::observe::Judged;
use harness::operations::{Scenario, Subject};
use harness::own_driver::{EAGER, HUGE, LAZY};
use harness::{Driver, Guest, Strategy};
use rstest::rstest;
use wire::{Advice, OpenMode, Prot};
use witness::Link;

/// The model of a guest in which nothing is mapped yet, and some pages of a window.
fn begin(guest: &Guest, strategy: Strategy, name: &str) -> (Model, Subject) {
    let index = window(guest, name);
    let file = strategy.file(guest.plan(), index);
    let file = Arc::new(file.expect("a window of this guest"));
    let model = Model::new(vec![file], guest.plan().clone(), guest.current_pid());
    let subject = Subject::of(model.files(), 0).expect("pages enough");
    (model, subject)
}

fn run(guest: &mut Guest, model: &mut Model, scenario: &Scenario, tally: &mut Judged) {
    let found = guest.run_scenario(model, scenario, tally);
    let found: Option<Finding> = found.unwrap_or_else(|error| {
        panic!("{}: {}", scenario.name, common::chain(&error));
    });
    assert_eq!(found, None, "{}", scenario.name);
}

#[rstest]
fn every_page_is_what_the_model_says(
    #[values(EAGER, LAZY)] strategy: Strategy,
    #[values("odd", "readonly")] window: &str,
) {
    let mut guest = guest();
    let (mut model, subject) = begin(&guest, strategy, window);
    for scenario in subject.scenarios() {
        let mut tally = Judged::default();
        run(&mut guest, &mut model, &scenario, &mut tally);
        assert!(tally.present > 0 && tally.absent > 0, "{tally:?}");
        assert_eq!(tally.unwitnessed.len(), 0, "{tally:?}");
        for link in Link::ALL {
            assert!(tally.links.get(link) > 0, "{link}: {tally:?}");
        }
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

/// A file of each kind that the others do not stand for: more than the touched page comes
/// in, no split is granted, pages are RAM, offsets mean nothing.
#[rstest]
#[case::around("around/odd")]
#[case::around_prepared("prepare-around/odd")]
#[case::whole("whole/odd")]
#[case::whole_prepared("prepare-whole/odd")]
#[case::inserted("pages/ring")]
#[case::inserted_prepared("prepare-mappages/ring")]
#[case::faulted("pagefault/ring")]
#[case::faulted_prepared("prepare-pagefault/ring")]
#[case::any_offset("persona/bsr1")]
fn every_kind_of_file_is_predicted(#[case] name: &str) {
    let mut guest = guest();
    let files = Driver::own(guest.plan()).files;
    let file = files.into_iter().find(|file| file.name == name);
    let file = file.expect("a file of the driver");
    let mut model = Model::new(vec![file], guest.plan().clone(), guest.current_pid());
    let subject = Subject::of(model.files(), 0).expect("pages enough");
    let mut tally = Judged::default();
    for scenario in subject.scenarios() {
        run(&mut guest, &mut model, &scenario, &mut tally);
    }
    assert_eq!(tally.unwitnessed.len(), 0, "{tally:?}");
    for link in Link::ALL {
        assert!(tally.links.get(link) > 0, "{link}: {tally:?}");
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

/// Entries of 2 MiB: what takes a part of one takes all of it, and what is left comes
/// back page by page; whole ones keep, move and are inherited as they are.
#[rstest]
fn two_mib_are_predicted(#[values("huge", "prepare-huge")] name: &'static str) {
    const HUGE_NPAGES: u64 = 512;
    const ALL: u64 = 2 * HUGE_NPAGES;
    let first = |call| Process::FIRST.does(call);
    let child = |call| Process(1).does(call);
    let mut guest = guest();
    let index = window(&guest, "large");
    let file = Strategy { name, ..HUGE }.file(guest.plan(), index);
    let file = Arc::new(file.expect("a window of this guest"));
    let mut model = Model::new(vec![file], guest.plan().clone(), guest.current_pid());
    let mut tally = Judged::default();
    let mut go = |model: &mut Model, operations: &[Operation]| {
        let found = guest.run(model, operations, &mut tally);
        let found = found.unwrap_or_else(|error| panic!("{}", common::chain(&error)));
        assert_eq!(found, None);
    };
    let setup = [
        first(Call::Open {
            file: 0,
            mode: OpenMode::ReadWrite,
            handle: Handle(0),
        }),
        first(Call::Reserve {
            npages: ALL + 2 * HUGE_NPAGES,
            anchor: ARENA,
        }),
        first(Call::Map {
            handle: Handle(0),
            first_page: 0,
            npages: ALL,
            prot: Prot::READ_WRITE,
            sharing: wire::Sharing::Shared,
            fixed: None,
            anchor: MAPPING,
        }),
        first(Call::Load(MAPPING.page(700))),
        first(Call::Store(MAPPING.page(3))),
    ];
    go(&mut model, &setup);
    assert!(has_all(&model));
    let in_child = [
        first(Call::Fork { child: Process(1) }),
        child(Call::Unmap(pages(600, 3))),
        child(Call::Load(MAPPING.page(599))),
        child(Call::Store(MAPPING.page(3))),
        child(Call::Exit),
    ];
    go(&mut model, &in_child);
    // The first page of the arena that is aligned to 2 MiB.
    let arena = model.gva(ARENA.page(0)).expect("reserved");
    let before = (arena.raw() / PAGE_SIZE) % HUGE_NPAGES;
    let aligned = (HUGE_NPAGES - before) % HUGE_NPAGES;
    let moved = |pages: Stretch, to| {
        first(Call::Remap {
            pages,
            new_npages: pages.npages,
            may_move: true,
            fixed: Some(to),
            anchor: OTHER,
        })
    };
    let protect = |prot| {
        first(Call::Protect {
            pages: pages(0, ALL),
            prot,
        })
    };
    let whole = [
        protect(Prot::READ),
        first(Call::Store(MAPPING.page(3))),
        protect(Prot::READ_WRITE),
        moved(pages(0, ALL), ARENA.page(aligned)),
        first(Call::Load(OTHER.page(700))),
        moved(OTHER.pages(0, ALL), MAPPING.page(0)),
    ];
    go(&mut model, &whole);
    assert!(has_all(&model));
    let in_part = [
        first(Call::Unmap(pages(600, 3))),
        first(Call::Load(MAPPING.page(700))),
        moved(pages(0, 600), ARENA.page(aligned + 3)),
        first(Call::Load(OTHER.page(1))),
        first(Call::Unmap(OTHER.pages(0, 600))),
        first(Call::Unmap(pages(0, ALL))),
    ];
    go(&mut model, &in_part);
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

/// Whether every page that the first process has mapped has an entry.
fn has_all(model: &Model) -> bool {
    let space = model.space(Process::FIRST).expect("alive");
    let full = |area: &Area| match &area.shows {
        Shows::File(pages) => !pages.entries.contains(&false),
        Shows::Nothing => true,
    };
    space.areas().all(|(_, area)| full(area))
}

/// Where the guest does something that the model is not told of, the next look at it
/// finds a page.
#[rstest]
#[case::unmapped(Call::Unmap(pages(1, 1)))]
#[case::lowered(Call::Protect { pages: pages(2, 1), prot: Prot::READ })]
#[case::without_rights(Call::Protect { pages: pages(2, 1), prot: Prot::NONE })]
#[case::moved(Call::Remap {
    pages: pages(0, 2),
    new_npages: 2,
    may_move: true,
    fixed: Some(ARENA.page(0)),
    anchor: OTHER,
})]
#[case::shrunk(Call::Remap {
    pages: pages(0, 5),
    new_npages: 4,
    may_move: false,
    fixed: None,
    anchor: OTHER,
})]
#[case::mapped_over(remapped(4, 1))]
#[case::mapped_elsewhere(remapped(0, 10))]
fn what_the_model_was_not_told_is_found(
    #[case] call: Call,
    #[values(EAGER, LAZY)] strategy: Strategy,
) {
    let mut guest = guest();
    let (mut model, subject) = begin(&guest, strategy, "odd");
    let scenario = subject.scenario("fork").expect("there");
    let mut tally = Judged::default();
    let found = guest.run_at_once(&mut model, &scenario.setup, &mut tally);
    assert_eq!(found.expect("done"), None);
    for page in 0..subject.npages {
        let load = Process::FIRST.does(Call::Load(MAPPING.page(page)));
        let came = guest.perform(&model, &load).expect("an answer");
        model
            .apply(&load, &came)
            .expect("it means something")
            .expect("as it must");
    }
    assert_eq!(guest.look_at_all(&model, &mut tally).expect("looked"), None);

    let secret = Process::FIRST.does(call);
    guest.perform(&model, &secret).expect("an answer");
    if strategy == LAZY && matches!(secret.call, Call::Map { .. }) {
        // Nothing is there before it is touched.
        guest
            .perform(
                &model,
                &Process::FIRST.does(Call::Load(touched(&secret.call))),
            )
            .expect("an answer");
    }
    let found = guest.look_at_all(&model, &mut tally).expect("looked");
    let Some(Wrong::Page(mismatch)) = found else {
        panic!("{found:?}");
    };
    assert_eq!(mismatch.link, Link::GuestWalk, "{mismatch:?}");
}

const MAPPING: Anchor = Anchor(0);
const ARENA: Anchor = Anchor(2);
const OTHER: Anchor = Anchor(7);

fn pages(first: u64, npages: u64) -> Stretch {
    MAPPING.pages(first, npages)
}

/// One page of the window, at page `at` of the mapping.
fn remapped(first_page: u64, at: u64) -> Call {
    Call::Map {
        handle: Handle(0),
        first_page,
        npages: 1,
        prot: Prot::READ,
        sharing: wire::Sharing::Shared,
        fixed: Some(if at < 6 {
            MAPPING.page(at)
        } else {
            ARENA.page(at)
        }),
        anchor: OTHER,
    }
}

fn touched(call: &Call) -> harness::model::Place {
    match call {
        Call::Map {
            fixed: Some(at), ..
        } => *at,
        _ => MAPPING.page(0),
    }
}

/// A child that has what the model keeps from it.
#[rstest]
fn a_child_that_has_too_much_is_found(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let (mut model, subject) = begin(&guest, strategy, "odd");
    let scenario = subject.scenario("not inherited").expect("there");
    let mut tally = Judged::default();
    let found = guest.run_at_once(&mut model, &scenario.setup, &mut tally);
    assert_eq!(found.expect("done"), None);
    // The model is told of the advice and the guest is not.
    let advice = Process::FIRST.does(Call::Advise {
        pages: pages(2, 2),
        advice: Advice::DontFork,
    });
    let done = harness::model::Came::Done;
    model
        .apply(&advice, &done)
        .expect("it means something")
        .expect("as it must");
    let fork = Process::FIRST.does(Call::Fork { child: Process(1) });
    let found = guest.run(&mut model, &[fork], &mut tally).expect("looked");
    let wrong = found.map(|found| found.wrong);
    let Some(Wrong::Page(mismatch)) = wrong else {
        panic!("{wrong:?}");
    };
    assert_eq!(mismatch.expected, "nothing mapped");
}

/// A driver that maps a wrong page is found by operations, too.
#[rstest]
fn a_wrong_driver_is_found(
    #[values("off-by-one", "wrong-offset")] variant: &str,
    #[values(EAGER, LAZY)] strategy: Strategy,
) {
    let mut guest = guest_with(variant);
    let (mut model, subject) = begin(&guest, strategy, "odd");
    let scenario = subject.scenario("munmap front").expect("there");
    let found = guest.run_scenario(&mut model, &scenario, &mut Judged::default());
    let found = found.expect("looked").expect("the planted fault");
    match (&found.wrong, strategy) {
        (Wrong::Page(mismatch), _) => assert_eq!(mismatch.link, Link::GuestWalk),
        // Setting up looks once, at its end; a load comes before.
        (Wrong::Outcome(surprise), _) => assert!(
            matches!(surprise.wanted, harness::model::Wanted::Reaches(_)),
            "{surprise:?}"
        ),
    }
}
