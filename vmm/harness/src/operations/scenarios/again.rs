//! A file that is mapped once more, and one that is closed.

use wire::{Prot, Sharing};

use super::{FILE, MAPPING, SECOND, first};
use crate::model::{Call, Operation};
use crate::operations::Subject;

pub(super) fn second_mapping(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn private(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn fixed_over(subject: &Subject) -> Vec<Operation> {
    first(vec![
        // The pages turn about.
        fixed(subject, subject.first_page, 2, 2),
        Call::Load(MAPPING.page(2)),
        Call::Store(MAPPING.page(3)),
        Call::Load(MAPPING.page(4)),
    ])
}

pub(super) fn fixed_refused(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn close(subject: &Subject) -> Vec<Operation> {
    first(vec![
        Call::Close { handle: FILE },
        Call::Load(MAPPING.page(1)),
        Call::Store(MAPPING.page(2)),
        // For what follows.
        subject.open(FILE),
    ])
}
