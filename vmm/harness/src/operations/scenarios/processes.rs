//! Mappings in several processes.

use wire::{Advice, Prot};

use super::rights::{advise, protect};
use super::{CHILD, FILE, FIRST, GRANDCHILD, MAPPING, MOVED, OTHER_FILE, SECOND};
use crate::model::{Call, Operation, Process};
use crate::operations::Subject;

pub(super) fn dont_fork(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn fork(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn orphan(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn several_processes(subject: &Subject) -> Vec<Operation> {
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
