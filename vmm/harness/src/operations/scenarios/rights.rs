//! Rights that change, and advice.

use wire::{Advice, OpenMode, Prot, Sharing};

use super::{MAPPING, OTHER_FILE, SECOND, first};
use crate::model::{Call, Operation};
use crate::operations::Subject;

pub(super) fn protect(page: u64, npages: u64, prot: Prot) -> Call {
    Call::Protect {
        pages: MAPPING.pages(page, npages),
        prot,
    }
}

pub(super) fn protect_down_and_up(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn protect_refused(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn protect_over_a_hole(subject: &Subject) -> Vec<Operation> {
    first(vec![
        Call::Unmap(MAPPING.pages(2, 1)),
        // As far as the hole, and no further.
        protect(0, subject.npages, Prot::READ),
        Call::Store(MAPPING.page(1)),
        protect(2, 2, Prot::READ),
    ])
}

pub(super) fn advise(page: u64, npages: u64, advice: Advice) -> Call {
    Call::Advise {
        pages: MAPPING.pages(page, npages),
        advice,
    }
}

pub(super) fn advise_all(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        advise(0, all, Advice::DontNeed),
        advise(1, 1, Advice::PopulateRead),
        advise(1, 1, Advice::PopulateWrite),
        advise(0, all, Advice::DoFork),
    ])
}
