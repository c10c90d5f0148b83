//! Mappings of which a part is taken away or moved.

use super::{ARENA, MAPPING, MOVED, first};
use crate::model::{Call, Operation};
use crate::operations::Subject;

pub(super) fn hole(page: u64, npages: u64) -> Vec<Operation> {
    first(vec![
        Call::Unmap(MAPPING.pages(page, npages)),
        Call::Load(MAPPING.page(page)),
        Call::Store(MAPPING.page(page + npages - 1)),
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

pub(super) fn move_whole(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn move_part(subject: &Subject) -> Vec<Operation> {
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

pub(super) fn shrink(subject: &Subject) -> Vec<Operation> {
    let all = subject.npages;
    first(vec![
        remap(0, all, all - 2, None),
        Call::Load(MAPPING.page(all - 1)),
        remap(1, all - 3, 2, Some(1)),
        Call::Load(MOVED.page(1)),
        Call::Load(MAPPING.page(1)),
    ])
}

pub(super) fn grow(subject: &Subject) -> Vec<Operation> {
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

/// Each would leave a rest, and leaves all as it was.
pub(super) fn part_refused(subject: &Subject) -> Vec<Operation> {
    let middle = subject.middle();
    let all = subject.npages;
    first(vec![
        remap(middle, 2, 2, Some(0)),
        remap(0, middle, middle, Some(0)),
        remap(0, all, all - 2, None),
        remap(0, all, all - 2, Some(1)),
        Call::Load(MAPPING.page(middle)),
        Call::Load(MAPPING.page(all - 1)),
    ])
}
