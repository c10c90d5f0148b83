//! The scenarios.

mod again;
mod pieces;
mod processes;
mod rights;

use wire::{OpenMode, Sharing};

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
        let scenario = |(name, build): &Builder| Scenario {
            name,
            setup: self.setup(),
            operations: build(self),
            teardown: self.teardown(),
        };
        let of_kind = if self.stays_whole { WHOLE } else { DIVIDED };
        ALWAYS.iter().chain(of_kind).map(scenario).collect()
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

/// What any mapping must go through.
const ALWAYS: &[Builder] = &[
    ("munmap front", |_| pieces::hole(0, 2)),
    ("munmap middle", |subject| pieces::hole(subject.middle(), 1)),
    ("munmap back", |subject| pieces::hole(subject.last() - 1, 2)),
    ("mprotect down and up", rights::protect_down_and_up),
    ("mprotect that is refused", rights::protect_refused),
    ("mprotect over a hole", rights::protect_over_a_hole),
    ("mremap moves", pieces::move_whole),
    ("mremap does not grow", pieces::grow),
    ("madvise", rights::advise_all),
    ("not inherited", processes::dont_fork),
    ("fork", processes::fork),
    ("fork outlives its parent", processes::orphan),
    ("second mapping", again::second_mapping),
    ("private mapping", again::private),
    ("fixed over an old mapping", again::fixed_over),
    ("fixed and refused", again::fixed_refused),
    ("close while mapped", again::close),
    ("several processes", processes::several_processes),
];
/// What one can go through that can be split.
const DIVIDED: &[Builder] = &[
    ("mremap moves a part", pieces::move_part),
    ("mremap shrinks", pieces::shrink),
];
/// What one must go through that cannot.
const WHOLE: &[Builder] = &[("mremap of a part is refused", pieces::part_refused)];

fn first(calls: Vec<Call>) -> Vec<Operation> {
    calls.into_iter().map(|call| FIRST.does(call)).collect()
}
