//! What differs from one kind of file to the next: what a touch brings in, what goes, and
//! who else may have a page.

use contract::{Backing, FileContract, Offset, VmaFlag};
use monitor::Buffer;

use super::*;
use crate::own_driver::{BUFFER_STRATEGIES, HUGE, STRATEGIES};

const HUGE_NPAGES: u64 = 512;
const HUGE_BYTES: u64 = HUGE_NPAGES * PAGE_SIZE;
/// A place to map at that is aligned to 2 MiB, and not to more pages from [`BASE`].
const ALIGNED: u64 = BASE + HUGE_BYTES;

/// A window of 4 MiB and a buffer of five pages.
fn plan() -> Plan {
    let gpa = |page: u64| Some(Gpa::new(0x40_0000 + page * 0x5000));
    Plan {
        windows: vec![WindowPlan {
            name: "w".into(),
            base: Gpa::new(0xd120_0000),
            npages: 2 * HUGE_NPAGES,
            read_only: false,
        }],
        buffers: vec![Buffer {
            name: "ring".into(),
            pages: (0..5).map(gpa).collect(),
        }],
    }
}

fn strategy(name: &str) -> Strategy {
    let mut all = STRATEGIES.into_iter().chain(BUFFER_STRATEGIES);
    all.find(|one| one.name == name).expect("a strategy")
}

/// Maps pages of a file at an address, with room of 6 MiB to move to at [`ROOM`].
fn at(file: FileContract, gva: u64, first_page: u64, npages: u64) -> Model {
    let mut model = Model::new(vec![Arc::new(file)], plan(), 10);
    let open = Call::Open {
        file: 0,
        mode: OpenMode::ReadWrite,
        handle: FILE,
    };
    comes_to(&mut model, FIRST.does(open), Came::Fd(Fd(3)));
    let reserve = Call::Reserve {
        npages: 3 * HUGE_NPAGES,
        anchor: ARENA,
    };
    comes_to(&mut model, FIRST.does(reserve), Came::At(Gva::new(ROOM)));
    let map = map_call(first_page, npages, None);
    comes_to(&mut model, FIRST.does(map), Came::At(Gva::new(gva)));
    model
}

fn window_file(strategy: Strategy) -> FileContract {
    strategy.file(&plan(), 0).expect("a window")
}

fn buffer_file(name: &str) -> FileContract {
    let file = strategy(name).buffer_file(&plan(), 0);
    file.expect("a buffer")
}

/// Pages that have entries, as pages of all areas of the file one after another.
fn there(model: &Model) -> Vec<u64> {
    let all = entries(model, FIRST).into_iter().flat_map(|(_, all)| all);
    let numbered = (0..).zip(all);
    numbered
        .filter_map(|(page, it)| it.then_some(page))
        .collect()
}

/// A load that must reach whatever the model says.
#[track_caller]
fn load(model: &mut Model, place: Place) -> DevicePage {
    let load = FIRST.does(Call::Load(place));
    let Ok(Wanted::Reaches(page)) = model.predict(&load) else {
        panic!("{place:?}: {:?}", model.predict(&load));
    };
    comes_to(model, load, Came::Reached(vec![page]));
    page
}

#[track_caller]
fn done(model: &mut Model, call: Call) {
    comes_to(model, FIRST.does(call), Came::Done);
}

#[track_caller]
fn refused(model: &mut Model, call: Call, errno: i32) {
    let came = Came::Refused(Refusal::Errno(errno));
    comes_to(model, FIRST.does(call), came);
}

fn protect(pages: Stretch, prot: Prot) -> Call {
    Call::Protect { pages, prot }
}

fn advise(pages: Stretch, advice: Advice) -> Call {
    Call::Advise { pages, advice }
}

#[test]
fn both_hooks_are_predicted_alike() {
    for classic in STRATEGIES.iter().chain(&BUFFER_STRATEGIES) {
        if classic.name.starts_with("prepare-") {
            continue;
        }
        let prepared = strategy(&format!("prepare-{}", classic.name));
        let of = |strategy: Strategy| {
            let file = window_file(strategy);
            let mut model = at(file, ALIGNED, 0, 2 * HUGE_NPAGES);
            load(&mut model, MAPPING.page(600));
            let hole = FIRST.does(Call::Unmap(MAPPING.pages(700, 2)));
            (there(&model), model.predict(&hole))
        };
        assert_eq!(of(*classic), of(prepared), "{}", classic.name);
    }
}

/// Of the stretch of 16 that a page lies in, what the area has of it.
#[test]
fn around_brings_in_the_neighbours_that_the_area_has() {
    for name in ["around", "prepare-around"] {
        let begin = || at(window_file(strategy(name)), BASE + 12 * PAGE_SIZE, 2, 24);
        let mut model = begin();
        load(&mut model, MAPPING.page(5));
        assert_eq!(there(&model), (4..20).collect::<Vec<u64>>());
        load(&mut model, MAPPING.page(0));
        assert_eq!(there(&model), (0..20).collect::<Vec<u64>>());
        // What is an area of its own is all that there is to it.
        let mut model = begin();
        done(&mut model, protect(MAPPING.pages(6, 3), Prot::READ));
        load(&mut model, MAPPING.page(7));
        assert_eq!(there(&model), [6, 7, 8]);
        load(&mut model, MAPPING.page(5));
        assert_eq!(there(&model), [4, 5, 6, 7, 8]);
    }
}

#[test]
fn two_mib_come_and_go_together() {
    let huge = || at(window_file(HUGE), ALIGNED, 0, 2 * HUGE_NPAGES);
    let second: Vec<u64> = (HUGE_NPAGES..2 * HUGE_NPAGES).collect();
    let mut model = huge();
    let page = load(&mut model, MAPPING.page(700));
    assert_eq!(page.page, 700);
    assert_eq!(there(&model), second);
    // Rights alone leave it as it is.
    let all = MAPPING.pages(0, 2 * HUGE_NPAGES);
    done(&mut model, protect(all, Prot::READ));
    assert_eq!(there(&model), second);
    // A hole takes all of it, and what is left comes one by one.
    done(&mut model, Call::Unmap(MAPPING.pages(600, 3)));
    assert_eq!(there(&model), [0; 0]);
    load(&mut model, MAPPING.page(599));
    load(&mut model, MAPPING.page(603));
    assert_eq!(there(&model), [599, 600]);
    load(&mut model, MAPPING.page(3));
    assert_eq!(there(&model).len() as u64, HUGE_NPAGES + 2);
    // A border between two of them takes neither.
    let mut model = huge();
    load(&mut model, MAPPING.page(0));
    load(&mut model, MAPPING.page(700));
    done(&mut model, Call::Unmap(MAPPING.pages(0, HUGE_NPAGES)));
    assert_eq!(there(&model).len() as u64, HUGE_NPAGES);
}

/// Where its address has the same place in 2 MiB it moves as it is.
#[test]
fn two_mib_move_together_or_are_gone() {
    let moved = |to: u64| {
        let mut model = at(window_file(HUGE), ALIGNED, 0, 2 * HUGE_NPAGES);
        load(&mut model, MAPPING.page(1));
        let whole = MAPPING.pages(0, 2 * HUGE_NPAGES);
        let call = remap(whole, 2 * HUGE_NPAGES, Some(ARENA.page(to)));
        let target = Gva::new(ROOM + to * PAGE_SIZE);
        comes_to(&mut model, FIRST.does(call), Came::At(target));
        model
    };
    let mut model = moved(HUGE_NPAGES);
    assert_eq!(there(&model).len() as u64, HUGE_NPAGES);
    load(&mut model, Anchor(9).page(1));
    // A page table may lie where nothing is, and then no 2 MiB come in.
    let other = FIRST.does(Call::Load(Anchor(9).page(700)));
    assert!(model.predict(&other).is_err());
    let mut model = moved(3);
    assert_eq!(there(&model), [0; 0]);
    load(&mut model, Anchor(9).page(1));
    assert_eq!(there(&model), [1]);
}

#[test]
fn a_child_has_2_mib_too() {
    let mut model = at(window_file(HUGE), ALIGNED, 0, 2 * HUGE_NPAGES);
    load(&mut model, MAPPING.page(1));
    let fork = FIRST.does(Call::Fork { child: CHILD });
    comes_to(&mut model, fork, Came::Child(11));
    assert_eq!(entries(&model, CHILD), entries(&model, FIRST));
    let unmap = CHILD.does(Call::Unmap(MAPPING.pages(1, 1)));
    comes_to(&mut model, unmap, Came::Done);
    let left: Vec<bool> = entries(&model, CHILD)
        .into_iter()
        .flat_map(|it| it.1)
        .collect();
    assert!(!left.contains(&true));
    assert_eq!(there(&model).len() as u64, HUGE_NPAGES);
}

/// The kernel drops and fetches pages of RAM as it likes, which it never does with frames.
#[test]
fn pages_of_a_buffer_are_dropped_and_populated() {
    for (name, comes_back) in [("pages", false), ("pagefault", true)] {
        let mut model = at(buffer_file(name), BASE, 0, 5);
        assert_eq!(there(&model).is_empty(), comes_back, "{name}");
        if comes_back {
            done(
                &mut model,
                advise(MAPPING.pages(1, 2), Advice::PopulateRead),
            );
            assert_eq!(there(&model), [1, 2]);
        }
        let page = load(&mut model, MAPPING.page(1));
        assert_eq!(page, DevicePage::of_buffer(0, 1));
        done(&mut model, advise(MAPPING.pages(0, 3), Advice::DontNeed));
        let call = Call::Load(MAPPING.page(1));
        let populate = advise(MAPPING.pages(0, 2), Advice::PopulateWrite);
        if comes_back {
            load(&mut model, MAPPING.page(1));
            assert_eq!(there(&model), [1]);
        } else {
            assert_eq!(there(&model), [3, 4]);
            let gone = signal(libc::SIGBUS, BUS_ADRERR, 1);
            assert_eq!(predicted(&model, call), gone);
            refused(&mut model, populate, libc::EFAULT);
        }
        refused(
            &mut model,
            advise(MAPPING.pages(0, 5), Advice::DoFork),
            libc::EINVAL,
        );
    }
}

#[test]
fn a_page_of_a_buffer_can_be_had_through_another_process() {
    for (file, is_had) in [(buffer_file("pagefault"), true), (window_file(LAZY), false)] {
        let mut model = at(file, BASE, 0, 5);
        let fork = FIRST.does(Call::Fork { child: CHILD });
        comes_to(&mut model, fork, Came::Child(11));
        let place = MAPPING.page(2);
        let peek = CHILD.does(Call::Peek {
            of: FIRST,
            at: place,
        });
        let wanted = if is_had {
            Wanted::Reaches(DevicePage::of_buffer(0, 2))
        } else {
            Wanted::Errno(libc::EIO)
        };
        assert_eq!(model.predict(&peek), Ok(wanted));
    }
}

/// Frames in an area that may hold counted pages come in for whoever asks, who does not get
/// them.
#[test]
fn frames_of_a_mixed_area_come_in_and_cannot_be_had() {
    let mut file = window_file(LAZY);
    file.vma.set = vec![VmaFlag::MixedMap];
    let mut model = at(file, BASE, 0, 5);
    done(
        &mut model,
        advise(MAPPING.pages(1, 2), Advice::PopulateRead),
    );
    assert_eq!(there(&model), [1, 2]);
    let fork = FIRST.does(Call::Fork { child: CHILD });
    comes_to(&mut model, fork, Came::Child(11));
    let peek = CHILD.does(Call::Peek {
        of: FIRST,
        at: MAPPING.page(4),
    });
    let refused = Came::Refused(Refusal::Errno(libc::EIO));
    comes_to(&mut model, peek, refused);
    assert_eq!(there(&model), [1, 2, 4]);
    done(&mut model, advise(MAPPING.pages(0, 2), Advice::DontNeed));
    assert_eq!(there(&model), [2, 4]);
}

/// A piece shows its pages by where the whole began, whatever offset it has now.
#[test]
fn pieces_of_a_file_without_offsets_keep_their_pages() {
    let mut file = window_file(EAGER);
    file.ranges[0].offset = Offset::Any;
    let Backing::Window { first_page, .. } = &mut file.ranges[0].backing else {
        panic!("a window");
    };
    *first_page = 7;
    file.ranges[0].npages = 20;
    let mut model = at(file, BASE, 1000, 10);
    done(&mut model, Call::Unmap(MAPPING.pages(3, 2)));
    assert_eq!(load(&mut model, MAPPING.page(2)).page, 9);
    assert_eq!(load(&mut model, MAPPING.page(5)).page, 12);
    let call = remap(MAPPING.pages(6, 2), 2, Some(ARENA.page(0)));
    comes_to(&mut model, FIRST.does(call), Came::At(Gva::new(ROOM)));
    assert_eq!(load(&mut model, ARENA.page(1)).page, 14);
    assert_eq!(load(&mut model, MAPPING.page(8)).page, 15);
}

#[test]
fn what_stays_whole_is_not_split_by_anything() {
    for name in ["whole", "prepare-whole"] {
        let mut model = at(window_file(strategy(name)), BASE, 0, 8);
        load(&mut model, MAPPING.page(4));
        let before = entries(&model, FIRST);
        let part = MAPPING.pages(2, 3);
        for call in [
            Call::Unmap(part),
            protect(part, Prot::READ),
            advise(part, Advice::DontFork),
            remap(part, 3, Some(ARENA.page(0))),
            remap(MAPPING.pages(0, 8), 5, None),
            map_call(0, 2, Some(MAPPING.page(6))),
        ] {
            refused(&mut model, call, libc::EINVAL);
            assert_eq!(entries(&model, FIRST), before, "{name}");
        }
        done(&mut model, protect(MAPPING.pages(0, 8), Prot::READ));
        done(&mut model, Call::Unmap(MAPPING.pages(0, 8)));
        assert_eq!(there(&model), [0; 0]);
    }
}
