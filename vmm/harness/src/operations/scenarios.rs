//! The scenarios.

use wire::{Advice, OpenMode, Prot, Sharing};

use super::{Scenario, Subject};
use crate::model::{Anchor, Call, Handle, Operation, Process};

const FIRST: Process = Process::FIRST;
const CHILD: Process = Process(1);
const GRANDCHILD: Process = Process(2);
const FILE: Handle = Handle(0);
const OTHER_FILE: Handle = Handle(1);
/// The mapping under test.
const MAPPING: Anchor = Anchor(0);
const SECOND: Anchor = Anchor(1);
/// Addresses to move to, with room to spare.
const ARENA: Anchor = Anchor(2);
const MOVED: Anchor = Anchor(3);

impl Subject {
    /// All scenarios. A file whose pages come when they are touched is touched in some
    /// of them first, so that both kinds of pages are there.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let scenario = |(name, build): Builder| Scenario {
            name,
            setup: self.setup(),
            operations: build(self),
            teardown: self.teardown(),
        };
        BUILDERS.into_iter().map(scenario).collect()
    }

    /// One scenario by its name.
    pub fn scenario(&self, name: &str) -> Option<Scenario> {
        let mut all = self.scenarios().into_iter();
        all.find(|scenario| scenario.name == name)
    }

    pub(super) fn mode(&self) -> OpenMode {
        if self.prot.write {
            OpenMode::ReadWrite
        } else {
            OpenMode::ReadOnly
        }
    }

    fn open(&self, handle: Handle) -> Call {
        Call::Open {
            file: self.file,
            mode: self.mode(),
            handle,
        }
    }

    fn map(&self, handle: Handle, anchor: Anchor) -> Call {
        Call::Map {
            handle,
            first_page: self.first_page,
            npages: self.npages,
            prot: self.prot,
            sharing: Sharing::Shared,
            fixed: None,
            anchor,
        }
    }

    /// Maps, and touches every second page.
    fn setup(&self) -> Vec<Operation> {
        let mut calls = vec![
            self.open(FILE),
            Call::Reserve {
                npages: 4 * self.npages,
                anchor: ARENA,
            },
            self.map(FILE, MAPPING),
        ];
        let touched = (0..self.npages).step_by(2);
        calls.extend(touched.map(|page| Call::Load(MAPPING.page(page))));
        first(calls)
    }

    /// Touches what is left, and unmaps it.
    fn teardown(&self) -> Vec<Operation> {
        let mut calls: Vec<_> = (0..self.npages)
            .map(|page| Call::Load(MAPPING.page(page)))
            .collect();
        calls.extend([
            Call::Unmap(MAPPING.pages(0, self.npages)),
            Call::Unmap(ARENA.pages(0, 4 * self.npages)),
            Call::Load(MAPPING.page(0)),
            Call::Close { handle: FILE },
        ]);
        first(calls)
    }

    fn last(&self) -> u64 {
        self.npages - 1
    }

    fn middle(&self) -> u64 {
        self.npages / 2
    }
}

type Builder = (&'static str, fn(&Subject) -> Vec<Operation>);

const BUILDERS: [Builder; 20] = [
    ("munmap front", |_| hole(0, 2)),
    ("munmap middle", |subject| hole(subject.middle(), 1)),
    ("munmap back", |subject| hole(subject.last() - 1, 2)),
    ("mprotect down and up", protect_down_and_up),
    ("mprotect that is refused", protect_refused),
    ("mprotect over a hole", protect_over_a_hole),
    ("mremap moves", move_whole),
    ("mremap moves a part", move_part),
    ("mremap shrinks", shrink),
    ("mremap does not grow", grow),
    ("madvise that raw frames refuse", advise_refused),
    ("not inherited", dont_fork),
    ("fork", fork),
    ("fork outlives its parent", orphan),
    ("second mapping", second_mapping),
    ("private mapping", private),
    ("fixed over an old mapping", fixed_over),
    ("fixed and refused", fixed_refused),
    ("close while mapped", close),
    ("several processes", several_processes),
];

fn first(calls: Vec<Call>) -> Vec<Operation> {
    calls.into_iter().map(|call| FIRST.does(call)).collect()
}

fn hole(page: u64, npages: u64) -> Vec<Operation> {
    first(vec![
        Call::Unmap(MAPPING.pages(page, npages)),
        Call::Load(MAPPING.page(page)),
        Call::Store(MAPPING.page(page + npages - 1)),
    ])
}

fn protect(page: u64, npages: u64, prot: Prot) -> Call {
    Call::Protect {
        pages: MAPPING.pages(page, npages),
        prot,
    }
}

fn protect_down_and_up(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        protect(1, 2, Prot::READ),
        Call::Store(MAPPING.page(1)),
        Call::Load(MAPPING.page(1)),
        protect(2, 2, Prot::NONE),
        Call::Load(MAPPING.page(2)),
        Call::Load(MAPPING.page(3)),
        protect(2, 2, Prot::READ),
        protect(0, all, Prot::NONE),
        protect(0, all, subject.prot),
    ])
}

fn protect_refused(subject: &Subject) -> Vec<Operation> {
    const EXEC: Prot = Prot {
        exec: true,
        ..Prot::READ
    };
    let all = subject.npages;
    let mut calls = vec![protect(0, all, EXEC), protect(1, 1, Prot::READ_WRITE)];
    // A file that is open for reading only grants no more, whatever its contract.
    calls.extend([
        Call::Open {
            file: subject.file,
            mode: OpenMode::ReadOnly,
            handle: OTHER_FILE,
        },
        Call::Map {
            handle: OTHER_FILE,
            first_page: subject.first_page,
            npages: all,
            prot: Prot::READ,
            sharing: Sharing::Shared,
            fixed: None,
            anchor: SECOND,
        },
        Call::Protect {
            pages: SECOND.pages(1, 2),
            prot: Prot::READ_WRITE,
        },
        Call::Load(SECOND.page(1)),
        Call::Store(SECOND.page(1)),
        Call::Unmap(SECOND.pages(0, all)),
        Call::Close { handle: OTHER_FILE },
    ]);
    first(calls)
}

fn protect_over_a_hole(subject: &Subject) -> Vec<Operation> {
    first(vec![
        Call::Unmap(MAPPING.pages(2, 1)),
        // As far as the hole, and no further.
        protect(0, subject.npages, Prot::READ),
        Call::Store(MAPPING.page(1)),
        protect(2, 2, Prot::READ),
    ])
}

fn remap(page: u64, npages: u64, new_npages: u64, to: Option<u64>) -> Call {
    Call::Remap {
        pages: MAPPING.pages(page, npages),
        new_npages,
        may_move: true,
        fixed: to.map(|page| ARENA.page(page)),
        anchor: MOVED,
    }
}

fn move_whole(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        remap(0, all, all, Some(3)),
        Call::Load(MOVED.page(1)),
        Call::Store(MOVED.page(2)),
        Call::Load(MAPPING.page(0)),
        // And back.
        Call::Remap {
            pages: MOVED.pages(0, all),
            new_npages: all,
            may_move: true,
            fixed: Some(MAPPING.page(0)),
            anchor: MAPPING,
        },
    ])
}

fn move_part(subject: &Subject) -> Vec<Operation> {
    let middle = subject.middle();
    let all = subject.npages;
    first(vec![
        remap(middle, 2, 2, Some(0)),
        Call::Load(MOVED.page(1)),
        Call::Load(MAPPING.page(middle)),
        // The rest, which is two areas with a hole between.
        remap(0, all, all, Some(all)),
        Call::Load(MOVED.page(0)),
        // Onto itself is refused.
        Call::Remap {
            pages: MOVED.pages(0, 2),
            new_npages: 2,
            may_move: true,
            fixed: Some(MOVED.page(1)),
            anchor: MOVED,
        },
    ])
}

fn shrink(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        remap(0, all, all - 2, None),
        Call::Load(MAPPING.page(all - 1)),
        remap(1, all - 3, 2, Some(1)),
        Call::Load(MOVED.page(1)),
        Call::Load(MAPPING.page(1)),
    ])
}

fn grow(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    let in_place = Call::Remap {
        pages: MAPPING.pages(0, all - 1),
        new_npages: all,
        may_move: false,
        fixed: None,
        anchor: MOVED,
    };
    first(vec![
        remap(0, all, all + 1, None),
        remap(0, all, all + 1, Some(0)),
        // A copy, by an old length of nothing.
        remap(0, 0, 2, None),
        Call::Unmap(MAPPING.pages(all - 1, 1)),
        in_place,
    ])
}

fn advise(page: u64, npages: u64, advice: Advice) -> Call {
    Call::Advise {
        pages: MAPPING.pages(page, npages),
        advice,
    }
}

fn advise_refused(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        advise(0, all, Advice::DontNeed),
        advise(1, 1, Advice::PopulateRead),
        advise(1, 1, Advice::PopulateWrite),
        advise(0, all, Advice::DoFork),
    ])
}

fn dont_fork(subject: &Subject) -> Vec<Operation> {
    let middle = subject.middle();
    vec![
        FIRST.does(advise(middle, 2, Advice::DontFork)),
        FIRST.does(advise(middle, 2, Advice::DoFork)),
        FIRST.does(Call::Fork { child: CHILD }),
        CHILD.does(Call::Load(MAPPING.page(middle))),
        CHILD.does(Call::Load(MAPPING.page(middle - 1))),
        CHILD.does(Call::Exit),
    ]
}

fn fork(subject: &Subject) -> Vec<Operation> {
    let last = subject.last();
    vec![
        FIRST.does(Call::Fork { child: CHILD }),
        // What one touches is not there for the other.
        CHILD.does(Call::Load(MAPPING.page(1))),
        FIRST.does(Call::Load(MAPPING.page(3))),
        CHILD.does(Call::Unmap(MAPPING.pages(last, 1))),
        FIRST.does(Call::Store(MAPPING.page(last))),
        FIRST.does(protect(0, 1, Prot::READ)),
        CHILD.does(Call::Store(MAPPING.page(0))),
        CHILD.does(Call::Exit),
    ]
}

fn orphan(subject: &Subject) -> Vec<Operation> {
    vec![
        FIRST.does(Call::Fork { child: CHILD }),
        CHILD.does(Call::Fork { child: GRANDCHILD }),
        CHILD.does(Call::Exit),
        GRANDCHILD.does(Call::Load(MAPPING.page(1))),
        FIRST.does(Call::Unmap(MAPPING.pages(0, subject.npages))),
        GRANDCHILD.does(Call::Store(MAPPING.page(0))),
        GRANDCHILD.does(Call::Exit),
    ]
}

fn second_mapping(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        subject.map(FILE, SECOND),
        Call::Store(SECOND.page(1)),
        Call::Load(MAPPING.page(1)),
        Call::Unmap(SECOND.pages(0, 3)),
        Call::Load(MAPPING.page(0)),
        Call::Unmap(SECOND.pages(0, all)),
    ])
}

fn private(subject: &Subject) -> Vec<Operation> {
    let ask = |prot| Call::Map {
        handle: FILE,
        first_page: subject.first_page,
        npages: subject.npages,
        prot,
        sharing: Sharing::Private,
        fixed: None,
        anchor: SECOND,
    };
    let mut calls = vec![ask(Prot::READ)];
    if subject.copy_on_write {
        calls.extend([
            Call::Load(SECOND.page(1)),
            Call::Unmap(SECOND.pages(0, subject.npages)),
        ]);
    } else {
        calls.push(ask(Prot::READ_WRITE));
    }
    first(calls)
}

fn fixed(subject: &Subject, first_page: u64, npages: u64, page: u64) -> Call {
    Call::Map {
        handle: FILE,
        first_page,
        npages,
        prot: subject.prot,
        sharing: Sharing::Shared,
        fixed: Some(MAPPING.page(page)),
        anchor: SECOND,
    }
}

fn fixed_over(subject: &Subject) -> Vec<Operation> {
    first(vec![
        // The pages turn about.
        fixed(subject, subject.first_page, 2, 2),
        Call::Load(MAPPING.page(2)),
        Call::Store(MAPPING.page(3)),
        Call::Load(MAPPING.page(4)),
    ])
}

fn fixed_refused(subject: &Subject) -> Vec<Operation> {
    let private = Call::Map {
        handle: FILE,
        first_page: subject.first_page,
        npages: 1,
        prot: Prot::READ,
        sharing: Sharing::Private,
        fixed: Some(MAPPING.page(subject.last())),
        anchor: SECOND,
    };
    first(vec![
        // The driver refuses, when what was there is gone already.
        fixed(subject, 1 << 30, 1, 1),
        Call::Load(MAPPING.page(1)),
        private,
        // The kernel refuses, and nothing is gone.
        fixed(subject, subject.first_page, 0, 3),
        Call::Load(MAPPING.page(3)),
    ])
}

fn close(subject: &Subject) -> Vec<Operation> {
    first(vec![
        Call::Close { handle: FILE },
        Call::Load(MAPPING.page(1)),
        Call::Store(MAPPING.page(2)),
        // For what follows.
        subject.open(FILE),
    ])
}

fn several_processes(subject: &Subject) -> Vec<Operation> {
    let debug = |by: Process, of: Process, page: u64| {
        let at = MAPPING.page(page);
        [
            by.does(Call::Peek { of, at }),
            by.does(Call::Poke { of, at }),
            by.does(Call::ReadMem { of, at }),
        ]
    };
    let mut operations = vec![
        FIRST.does(Call::Fork { child: CHILD }),
        CHILD.does(Call::Unmap(MAPPING.pages(0, subject.npages))),
        CHILD.does(subject.open(OTHER_FILE)),
        CHILD.does(subject.map(OTHER_FILE, SECOND)),
        CHILD.does(Call::Store(SECOND.page(1))),
        FIRST.does(Call::Load(MAPPING.page(1))),
        FIRST.does(subject.map(FILE, MOVED)),
    ];
    // Through a page that is mapped, one that may not be, and one that is none.
    operations.extend(debug(CHILD, FIRST, 0));
    operations.extend(debug(CHILD, FIRST, 3));
    operations.extend(debug(FIRST, CHILD, 0));
    operations.extend([
        // With all that it has mapped.
        CHILD.does(Call::Exit),
        FIRST.does(Call::Unmap(MOVED.pages(0, subject.npages))),
    ]);
    operations
}
