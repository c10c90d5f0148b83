//! Cases to begin with: what each file is for, by one and by several, whole and in part.

use harness::model::{Anchor, Call, Handle, Process};
use wire::{OpenMode, Prot, Sharing};

use crate::case::Case;
use crate::habits;
use crate::world::World;

/// Files of no more pages are opened as often as all others.
const FEW_NPAGES: u64 = 64;

/// Cases to begin with: each file opened, mapped and touched, once and then by two open
/// files and two processes.
pub fn beginnings(world: &World) -> Vec<Case> {
    let files = 0..world.files.len();
    let alone = files.clone().map(|file| {
        let mut calls = beginning(world, file, 0);
        calls.extend(parts(world, file));
        calls
    });
    let crowd = files.filter(|file| !is_large(world, *file)).map(|file| {
        let mut calls = beginning(world, file, 0);
        calls.extend(beginning(world, file, 1));
        calls.push(Call::Fork { child: Process(1) });
        calls
    });
    let sense = |calls: Vec<Call>| {
        let operations = calls.into_iter().map(|call| Process::FIRST.does(call));
        world.sense(&Case {
            operations: operations.collect(),
        })
    };
    let all = alone.chain(crowd).map(sense);
    all.chain(habits::cases(world)).collect()
}

/// Whether a file has so many pages that to look at them takes most of a case's time.
pub(crate) fn is_large(world: &World, file: usize) -> bool {
    let ranges = world.files.get(file).map(|file| &file.ranges);
    ranges.is_some_and(|all| all.iter().map(|range| range.npages).sum::<u64>() > FEW_NPAGES)
}

/// The most rights that a file grants, and how it is opened for them.
pub(crate) fn rights(world: &World, file: usize) -> (OpenMode, Prot) {
    let range = world.files.get(file).and_then(|file| file.ranges.first());
    let write = range.is_some_and(|range| range.access.write);
    let mode = if write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let prot = Prot {
        read: true,
        write,
        exec: false,
    };
    (mode, prot)
}

/// A file opened, mapped and touched, by names with this number.
fn beginning(world: &World, file: usize, number: u32) -> Vec<Call> {
    let range = world.files.get(file).and_then(|file| file.ranges.first());
    let Some(range) = range else {
        return Vec::new();
    };
    let (handle, anchor) = (Handle(number), Anchor(number));
    let (mode, prot) = rights(world, file);
    vec![
        Call::Open { file, mode, handle },
        Call::Map {
            handle,
            first_page: range.first_page(),
            npages: range.npages,
            prot,
            sharing: Sharing::Shared,
            fixed: None,
            anchor,
        },
        Call::Load(anchor.page(range.npages / 2)),
    ]
}

/// Parts of a file that is open, each touched at the end that is cut off: what a driver brings
/// in together may reach beyond it. All but the last page, of a large file half of it but for
/// a page, and what follows the first page.
fn parts(world: &World, file: usize) -> Vec<Call> {
    let range = world.files.get(file).and_then(|file| file.ranges.first());
    let Some(range) = range.filter(|range| range.npages > 1) else {
        return Vec::new();
    };
    let part = |first_page, npages, anchor, touched| {
        let map = Call::Map {
            handle: Handle(0),
            first_page,
            npages,
            prot: rights(world, file).1,
            sharing: Sharing::Shared,
            fixed: None,
            anchor,
        };
        [map, Call::Load(anchor.page(touched))]
    };
    let first = range.first_page();
    let front = match is_large(world, file) {
        true => range.npages / 2 - 1,
        false => range.npages - 1,
    };
    let back = (range.npages - 1).min(FEW_NPAGES);
    let without_last = part(first, front, Anchor(1), front.saturating_sub(1));
    let without_first = part(first.saturating_add(1), back, Anchor(2), 0);
    without_last.into_iter().chain(without_first).collect()
}
