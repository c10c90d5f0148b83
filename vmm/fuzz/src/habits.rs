//! Cases in which something is done over and over, or by one who is gone afterwards: what a
//! driver then has not taken back is seen by what it grants next.

use harness::model::{Anchor, Call, Handle, Operation, Process};
use wire::{OpenMode, Prot, Sharing};

use crate::case::Case;
use crate::world::World;

/// Worlds of no more files get each habit for each file; in others a file gets one, in turn.
const FEW_FILES: usize = 4;
/// How often something is done.
const TIMES: u32 = 10;

#[derive(Clone, Copy)]
enum Habit {
    /// A child inherits a mapping and ends.
    ComesAndGoes,
    /// Mapped and unmapped, over and over, and mapped once more.
    MapsAndUnmaps,
    /// Refused over and over, since there is nothing behind the file's end, and then granted.
    IsRefused,
}

const HABITS: [Habit; 3] = [Habit::ComesAndGoes, Habit::MapsAndUnmaps, Habit::IsRefused];

/// Such cases for all files.
pub(crate) fn cases(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for file in 0..world.files.len() {
        for (number, habit) in HABITS.into_iter().enumerate() {
            if world.files.len() <= FEW_FILES || number == file % HABITS.len() {
                let operations = operations(world, file, habit).unwrap_or_default();
                cases.push(world.sense(&Case { operations }));
            }
        }
    }
    cases
}

fn operations(world: &World, file: usize, habit: Habit) -> Option<Vec<Operation>> {
    let range = world.files.get(file)?.ranges.first()?;
    let (handle, child) = (Handle(0), Process(1));
    let prot = Prot {
        read: true,
        write: range.access.write,
        exec: false,
    };
    let mode = match prot.write {
        true => OpenMode::ReadWrite,
        false => OpenMode::ReadOnly,
    };
    let map = |first_page, npages, anchor| Call::Map {
        handle,
        first_page,
        npages,
        prot,
        sharing: Sharing::Shared,
        fixed: None,
        anchor: Anchor(anchor),
    };
    let granted = |anchor| map(range.first_page(), range.npages, anchor);
    let mut operations = vec![Process::FIRST.does(Call::Open { file, mode, handle })];
    let mut then = |by: Process, call| operations.push(by.does(call));
    match habit {
        Habit::ComesAndGoes => {
            then(Process::FIRST, granted(0));
            then(Process::FIRST, Call::Load(Anchor(0).page(0)));
            then(Process::FIRST, Call::Fork { child });
            then(child, Call::Exit);
            then(Process::FIRST, Call::Load(Anchor(0).page(0)));
        }
        Habit::MapsAndUnmaps => {
            for time in 0..TIMES {
                then(Process::FIRST, granted(time));
                let pages = Anchor(time).pages(0, range.npages);
                then(Process::FIRST, Call::Unmap(pages));
            }
            then(Process::FIRST, granted(TIMES));
        }
        Habit::IsRefused => {
            let end = world.files.get(file)?.ranges.iter();
            let end = end
                .map(|it| it.first_page().saturating_add(it.npages))
                .max()?;
            for time in 0..TIMES {
                then(Process::FIRST, map(end, 1, time));
            }
            then(Process::FIRST, granted(TIMES));
        }
    }
    Some(operations)
}
