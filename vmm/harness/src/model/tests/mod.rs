//! The model by itself, without a guest.

mod kinds;

use std::sync::Arc;

use addr::{Gpa, Gva, PAGE_SIZE};
use contract::FileContract;
use wire::{Advice, Fd, OpenMode, Prot, Sharing, Signal};
use witness::{DevicePage, Plan, WindowPlan};

use super::*;
use crate::outcome::Refusal;
use crate::own_driver::{EAGER, LAZY, Strategy};

const FIRST: Process = Process::FIRST;
const CHILD: Process = Process(1);
const MAPPING: Anchor = Anchor(0);
const ARENA: Anchor = Anchor(1);
const FILE: Handle = Handle(0);
const BASE: u64 = 0x7f00_0000_0000;
const ROOM: u64 = 0x7e00_0000_0000;
const NPAGES: u64 = 8;

fn plan() -> Plan {
    Plan {
        windows: vec![WindowPlan {
            name: "w".into(),
            base: Gpa::new(0xd100_0000),
            npages: 16,
            read_only: false,
        }],
        buffers: Vec::new(),
    }
}

/// A model with pages 2 to 9 of a window mapped at [`BASE`], and room at [`ROOM`].
fn mapped(strategy: Strategy) -> Model {
    let file: FileContract = strategy.file(&plan(), 0).expect("a window");
    let mut model = Model::new(vec![Arc::new(file)], plan(), 10);
    let open = Call::Open {
        file: 0,
        mode: OpenMode::ReadWrite,
        handle: FILE,
    };
    comes_to(&mut model, FIRST.does(open), Came::Fd(Fd(3)));
    let reserve = Call::Reserve {
        npages: 64,
        anchor: ARENA,
    };
    comes_to(&mut model, FIRST.does(reserve), Came::At(Gva::new(ROOM)));
    let map = map_call(2, NPAGES, None);
    comes_to(&mut model, FIRST.does(map), Came::At(Gva::new(BASE)));
    model
}

fn map_call(first_page: u64, npages: u64, fixed: Option<Place>) -> Call {
    Call::Map {
        handle: FILE,
        first_page,
        npages,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Shared,
        fixed,
        anchor: MAPPING,
    }
}

#[track_caller]
fn comes_to(model: &mut Model, operation: Operation, came: Came) {
    let applied = model.apply(&operation, &came);
    assert_eq!(applied, Ok(Ok(())), "{operation:?}");
}

fn predicted(model: &Model, call: Call) -> Wanted {
    model
        .predict(&FIRST.does(call))
        .expect("it means something")
}

/// Pages that have entries, by the pages of the file, area by area.
fn entries(model: &Model, process: Process) -> Vec<(u64, Vec<bool>)> {
    let space = model.space(process).expect("alive");
    let areas = space.areas().filter_map(|(_, area)| match &area.shows {
        Shows::File(pages) => Some((pages.first_page, pages.entries.clone())),
        Shows::Nothing => None,
    });
    areas.collect()
}

fn signal(number: i32, code: i32, page: u64) -> Wanted {
    Wanted::Signal {
        number,
        code,
        page: Gva::new(BASE + page * PAGE_SIZE),
    }
}

#[test]
fn a_touch_brings_a_lazy_page_in_and_finds_an_eager_one() {
    let page = DevicePage { window: 0, page: 5 };
    for strategy in [EAGER, LAZY] {
        let mut model = mapped(strategy);
        let load = FIRST.does(Call::Load(MAPPING.page(3)));
        assert_eq!(model.predict(&load), Ok(Wanted::Reaches(page)));
        comes_to(&mut model, load, Came::Reached(vec![page]));
        let there = entries(&model, FIRST)[0].1.iter().filter(|it| **it).count();
        assert_eq!(there as u64, if strategy == LAZY { 1 } else { NPAGES });
    }
}

/// A prediction changes nothing.
#[test]
fn to_predict_is_not_to_do() {
    let model = mapped(LAZY);
    let before = entries(&model, FIRST);
    predicted(&model, Call::Load(MAPPING.page(0)));
    predicted(&model, Call::Unmap(MAPPING.pages(0, 3)));
    assert_eq!(entries(&model, FIRST), before);
}

#[test]
fn a_surprise_leaves_the_model_as_it_was() {
    let mut model = mapped(EAGER);
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(0, 1)));
    let came = Came::Refused(Refusal::Errno(libc::EINVAL));
    let surprise = model.apply(&unmap, &came).expect("it means something");
    assert_eq!(surprise.expect_err("a surprise").wanted, Wanted::Done);
    assert_eq!(entries(&model, FIRST).len(), 1);
}

#[test]
fn the_kernel_may_not_give_addresses_that_are_taken() {
    let mut model = mapped(EAGER);
    let map = FIRST.does(map_call(0, 2, None));
    let last = Gva::new(BASE + (NPAGES - 1) * PAGE_SIZE);
    for (gva, is_free) in [(last, false), (Gva::new(BASE + NPAGES * PAGE_SIZE), true)] {
        let applied = model.apply(&map, &Came::At(gva));
        assert_eq!(applied.expect("it means something").is_ok(), is_free);
    }
}

#[test]
fn munmap_splits_and_leaves_holes() {
    let mut model = mapped(EAGER);
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(3, 2)));
    comes_to(&mut model, unmap, Came::Done);
    let wanted = [(2, vec![true; 3]), (7, vec![true; 3])];
    assert_eq!(entries(&model, FIRST), wanted);
    let load = predicted(&model, Call::Load(MAPPING.page(4)));
    assert_eq!(load, signal(libc::SIGSEGV, SEGV_MAPERR, 4));
}

#[test]
fn mprotect_goes_as_far_as_it_may() {
    let mut model = mapped(EAGER);
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(2, 1)));
    comes_to(&mut model, unmap, Came::Done);
    let protect = FIRST.does(Call::Protect {
        pages: MAPPING.pages(0, 4),
        prot: Prot::READ,
    });
    let refused = Came::Refused(Refusal::Errno(libc::ENOMEM));
    comes_to(&mut model, protect, refused);
    // Before the hole it was done, and behind it it was not.
    let store = |page| predicted(&model, Call::Store(MAPPING.page(page)));
    assert_eq!(store(1), signal(libc::SIGSEGV, SEGV_ACCERR, 1));
    assert!(matches!(store(3), Wanted::Reaches(_)));
    let exec = Call::Protect {
        pages: MAPPING.pages(0, 1),
        prot: Prot {
            exec: true,
            ..Prot::READ
        },
    };
    assert_eq!(predicted(&model, exec), Wanted::Errno(libc::EACCES));
}

#[test]
fn a_page_without_rights_is_there_and_cannot_be_had() {
    let mut model = mapped(EAGER);
    let protect = |prot| {
        FIRST.does(Call::Protect {
            pages: MAPPING.pages(0, 1),
            prot,
        })
    };
    comes_to(&mut model, protect(Prot::NONE), Came::Done);
    let load = predicted(&model, Call::Load(MAPPING.page(0)));
    assert_eq!(load, signal(libc::SIGSEGV, SEGV_ACCERR, 0));
    assert_eq!(entries(&model, FIRST)[0], (2, vec![true]));
    comes_to(&mut model, protect(Prot::READ), Came::Done);
    let load = predicted(&model, Call::Load(MAPPING.page(0)));
    assert!(matches!(load, Wanted::Reaches(_)));
}

fn remap(pages: Stretch, new_npages: u64, fixed: Option<Place>) -> Call {
    Call::Remap {
        pages,
        new_npages,
        may_move: true,
        fixed,
        anchor: Anchor(9),
    }
}

#[test]
fn mremap_moves_with_entries_and_holes() {
    let mut model = mapped(LAZY);
    for page in [0_u64, 5] {
        let device_page = DevicePage {
            window: 0,
            page: 2 + page,
        };
        let load = FIRST.does(Call::Load(MAPPING.page(page)));
        comes_to(&mut model, load, Came::Reached(vec![device_page]));
    }
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(2, 1)));
    comes_to(&mut model, unmap, Came::Done);
    let to = ARENA.page(4);
    let call = remap(MAPPING.pages(0, NPAGES), NPAGES, Some(to));
    let target = Gva::new(ROOM + 4 * PAGE_SIZE);
    comes_to(&mut model, FIRST.does(call), Came::At(target));
    let wanted = [
        (2, vec![true, false]),
        (5, vec![false, false, true, false, false]),
    ];
    assert_eq!(entries(&model, FIRST), wanted);
    let space = model.space(FIRST).expect("alive");
    assert!(space.has_device(target));
    assert!(!space.has_device(Gva::new(target.raw() + 2 * PAGE_SIZE)));
    assert!(!space.has_device(Gva::new(BASE)));
}

#[test]
fn mremap_is_refused_as_the_kernel_refuses_it() {
    let model = mapped(EAGER);
    let errno = |call| match predicted(&model, call) {
        Wanted::Errno(errno) => errno,
        other => panic!("{other:?}"),
    };
    let all = MAPPING.pages(0, NPAGES);
    assert_eq!(errno(remap(all, NPAGES + 1, None)), libc::EFAULT);
    assert_eq!(errno(remap(all, 0, None)), libc::EINVAL);
    assert_eq!(errno(remap(MAPPING.pages(0, 0), 2, None)), libc::EFAULT);
    let onto_itself = remap(MAPPING.pages(0, 2), 2, Some(MAPPING.page(1)));
    assert_eq!(errno(onto_itself), libc::EINVAL);
    let mut model = mapped(EAGER);
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(0, 1)));
    comes_to(&mut model, unmap, Came::Done);
    let from_a_hole = remap(MAPPING.pages(0, 2), 2, Some(ARENA.page(0)));
    assert_eq!(predicted(&model, from_a_hole), Wanted::Errno(libc::EFAULT));
}

#[test]
fn a_child_has_entries_of_its_own() {
    let mut model = mapped(LAZY);
    let load = |by: Process, page| by.does(Call::Load(MAPPING.page(page)));
    let reached = |page: u64| {
        Came::Reached(vec![DevicePage {
            window: 0,
            page: 2 + page,
        }])
    };
    comes_to(&mut model, load(FIRST, 1), reached(1));
    let advise = FIRST.does(Call::Advise {
        pages: MAPPING.pages(6, 2),
        advice: Advice::DontFork,
    });
    comes_to(&mut model, advise, Came::Done);
    let fork = FIRST.does(Call::Fork { child: CHILD });
    comes_to(&mut model, fork, Came::Child(11));
    comes_to(&mut model, load(CHILD, 2), reached(2));
    let [parent, _] = &entries(&model, FIRST)[..] else {
        panic!("two areas");
    };
    assert_eq!(parent.1, [false, true, false, false, false, false]);
    let child = entries(&model, CHILD);
    assert_eq!(child, [(2, vec![false, true, true, false, false, false])]);
    let exit = CHILD.does(Call::Exit);
    comes_to(&mut model, exit.clone(), Came::Ended(0));
    assert!(model.predict(&exit).is_err(), "the dead do nothing");
}

#[test]
fn a_refused_mapping_leaves_a_hole_only_where_the_driver_was_asked() {
    let mut model = mapped(EAGER);
    let by_kernel = FIRST.does(map_call(2, 0, Some(MAPPING.page(0))));
    let refused = Came::Refused(Refusal::Errno(libc::EINVAL));
    comes_to(&mut model, by_kernel, refused.clone());
    assert_eq!(entries(&model, FIRST), [(2, vec![true; 8])]);
    let by_driver = FIRST.does(map_call(1 << 20, 1, Some(MAPPING.page(0))));
    comes_to(&mut model, by_driver, refused);
    assert_eq!(entries(&model, FIRST), [(3, vec![true; 7])]);
}

#[test]
fn what_is_not_known_means_nothing() {
    let model = mapped(EAGER);
    let pages = [
        MAPPING.pages(NPAGES, 1),
        MAPPING.pages(0, NPAGES + 1),
        Anchor(5).pages(0, 1),
        MAPPING.pages(u64::MAX, 1),
        MAPPING.pages(0, u64::MAX),
    ];
    for pages in pages {
        let unmap = FIRST.does(Call::Unmap(pages));
        assert!(model.predict(&unmap).is_err(), "{pages:?}");
    }
    let stranger = CHILD.does(Call::Unmap(MAPPING.pages(0, 1)));
    assert!(model.predict(&stranger).is_err());
}

#[test]
fn operations_are_data() {
    let operation = FIRST.does(map_call(2, 3, Some(ARENA.page(1))));
    let bytes = postcard::to_allocvec(&operation).expect("written");
    assert_eq!(postcard::from_bytes::<Operation>(&bytes), Ok(operation));
}

#[test]
fn a_signal_elsewhere_is_a_surprise() {
    let mut model = mapped(EAGER);
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(0, 1)));
    comes_to(&mut model, unmap, Came::Done);
    let load = FIRST.does(Call::Load(MAPPING.page(0)));
    let came = |address| {
        Came::Refused(Refusal::Signal(Signal {
            number: libc::SIGSEGV,
            code: SEGV_MAPERR,
            address,
        }))
    };
    let elsewhere = model.apply(&load, &came(BASE + PAGE_SIZE));
    assert!(elsewhere.expect("it means something").is_err());
    comes_to(&mut model, load, came(BASE + 8));
}

#[test]
fn a_revoked_window_is_gone_until_it_is_touched_after_its_return() {
    for strategy in [EAGER, LAZY] {
        let mut model = mapped(strategy);
        let load = FIRST.does(Call::Load(MAPPING.page(1)));
        let revoke = FIRST.does(Call::Revoke { window: 0 });
        comes_to(&mut model, revoke, Came::Done);
        let bus_error = Came::Refused(Refusal::Signal(Signal {
            number: libc::SIGBUS,
            code: BUS_ADRERR,
            address: BASE + PAGE_SIZE,
        }));
        comes_to(&mut model, load.clone(), bus_error.clone());
        let refused = Came::Refused(Refusal::Errno(libc::ENXIO));
        comes_to(&mut model, FIRST.does(map_call(2, NPAGES, None)), refused);
        let restore = FIRST.does(Call::Restore { window: 0 });
        comes_to(&mut model, restore, Came::Done);
        let page = DevicePage { window: 0, page: 3 };
        let comes_back = strategy == LAZY;
        let came = if comes_back {
            Came::Reached(vec![page])
        } else {
            bus_error
        };
        comes_to(&mut model, load, came);
    }
}

#[test]
fn a_request_by_bytes_is_answered_as_the_contract_says() {
    let mut model = mapped(LAZY);
    let ask = |offset_bytes, len_bytes| {
        FIRST.does(Call::Ask {
            handle: FILE,
            offset_bytes,
            len_bytes,
            prot: Prot::READ,
            sharing: Sharing::Shared,
            anchor: Anchor(7),
        })
    };
    let errno = |errno| Came::Refused(Refusal::Errno(errno));
    comes_to(&mut model, ask(0, 0), errno(libc::EINVAL));
    comes_to(&mut model, ask(8, PAGE_SIZE), errno(libc::EINVAL));
    comes_to(&mut model, ask(0, u64::MAX), errno(libc::ENOMEM));
    comes_to(
        &mut model,
        ask(15 * PAGE_SIZE, PAGE_SIZE + 1),
        errno(libc::EINVAL),
    );
    // The kernel rounds up.
    comes_to(
        &mut model,
        ask(15 * PAGE_SIZE, 1),
        Came::At(Gva::new(0x1000)),
    );
    let area = model
        .space(FIRST)
        .and_then(|space| space.area_at(Gva::new(0x1fff)));
    assert_eq!(area.map(|(_, area)| area.npages), Some(1));
}

/// mremap(2) of pages to as many at the same place, and munmap(2) of none, split nothing.
#[test]
fn nothing_is_split_where_nothing_changes() {
    let mut model = mapped(EAGER);
    let same = Call::Remap {
        pages: MAPPING.pages(2, 2),
        new_npages: 2,
        may_move: false,
        fixed: None,
        anchor: Anchor(9),
    };
    let at = Came::At(Gva::new(BASE + 2 * PAGE_SIZE));
    comes_to(&mut model, FIRST.does(same), at);
    assert_eq!(entries(&model, FIRST).len(), 1);
}

#[test]
fn an_open_file_lives_for_as_long_as_it_is_mapped() {
    let mut model = mapped(EAGER);
    assert_eq!(model.opens(0), 1);
    let open = Call::Open {
        file: 0,
        mode: OpenMode::ReadOnly,
        handle: Handle(1),
    };
    comes_to(&mut model, FIRST.does(open), Came::Fd(Fd(4)));
    let fork = FIRST.does(Call::Fork { child: CHILD });
    comes_to(&mut model, fork, Came::Child(11));
    assert_eq!(model.opens(0), 2);
    for (by, handle) in [(FIRST, FILE), (FIRST, Handle(1)), (CHILD, Handle(1))] {
        comes_to(&mut model, by.does(Call::Close { handle }), Came::Done);
    }
    comes_to(&mut model, CHILD.does(Call::Exit), Came::Ended(0));
    assert_eq!(model.opens(0), 1, "it is mapped");
    let unmap = FIRST.does(Call::Unmap(MAPPING.pages(0, NPAGES)));
    comes_to(&mut model, unmap, Came::Done);
    assert_eq!(model.opens(0), 0);
}

/// Where rights come to addresses that were only taken, there is ordinary memory, which is
/// nothing of a device.
#[test]
fn memory_that_is_no_devices_means_nothing() {
    let mut model = mapped(EAGER);
    let touches = [Call::Load(ARENA.page(1)), Call::Store(ARENA.page(1))];
    for call in touches.clone() {
        let wanted = predicted(&model, call);
        assert!(matches!(wanted, Wanted::Signal { .. }), "{wanted:?}");
    }
    let protect = FIRST.does(Call::Protect {
        pages: ARENA.pages(0, 2),
        prot: Prot::READ_WRITE,
    });
    comes_to(&mut model, protect, Came::Done);
    let fork = FIRST.does(Call::Fork { child: CHILD });
    comes_to(&mut model, fork, Came::Child(11));
    let peek = Call::Peek {
        of: CHILD,
        at: ARENA.page(3),
    };
    for call in touches.into_iter().chain([peek]) {
        let predicted = model.predict(&FIRST.does(call.clone()));
        assert!(predicted.is_err(), "{call:?}: {predicted:?}");
    }
}
