//! Cases in which something is done over and over, or by one who is gone afterwards, or to
//! what was taken away: what a driver then has not taken back, or brings back, is seen by what
//! it grants next.

use std::collections::BTreeMap;

use contract::{Backing, FileContract};
use harness::model::{Anchor, Call, Handle, Operation, Process};
use wire::Sharing;

use crate::beginnings::rights;
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
    /// Its window is taken away from mappings by two files that show it, and given back.
    IsTakenAway,
    /// Its driver loses the device and gets it back.
    IsUnbound,
}

const HABITS: [Habit; 5] = [
    Habit::ComesAndGoes,
    Habit::MapsAndUnmaps,
    Habit::IsRefused,
    Habit::IsTakenAway,
    Habit::IsUnbound,
];

/// Such cases for all files.
pub(crate) fn cases(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    // Files of one strategy, one after the other, each have another turn; and so have the
    // files of one window.
    let mut strategies: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, file) in world.files.iter().enumerate() {
        let known = strategies.len();
        let turn = number + *strategies.entry(&file.strategy).or_insert(known);
        for (habit_turn, habit) in HABITS.into_iter().enumerate() {
            if world.files.len() <= FEW_FILES || habit_turn == turn % HABITS.len() {
                let operations = operations(world, number, habit).unwrap_or_default();
                cases.push(world.sense(&Case { operations }));
            }
        }
    }
    cases
}

fn operations(world: &World, file: usize, habit: Habit) -> Option<Vec<Operation>> {
    let contract = world.files.get(file)?;
    let range = contract.ranges.first()?;
    let child = Process(1);
    let (mode, prot) = rights(world, file);
    let open = |file, handle| Call::Open {
        file,
        mode,
        handle: Handle(handle),
    };
    let map = |handle, first_page, npages, anchor| Call::Map {
        handle: Handle(handle),
        first_page,
        npages,
        prot,
        sharing: Sharing::Shared,
        fixed: None,
        anchor: Anchor(anchor),
    };
    let granted = |handle, anchor| map(handle, range.first_page(), range.npages, anchor);
    let mut operations = vec![Process::FIRST.does(open(file, 0))];
    let mut then = |by: Process, call| operations.push(by.does(call));
    match habit {
        Habit::ComesAndGoes => {
            then(Process::FIRST, granted(0, 0));
            then(Process::FIRST, Call::Load(Anchor(0).page(0)));
            then(Process::FIRST, Call::Fork { child });
            then(child, Call::Exit);
            then(Process::FIRST, Call::Load(Anchor(0).page(0)));
        }
        Habit::MapsAndUnmaps => {
            for time in 0..TIMES {
                then(Process::FIRST, granted(0, time));
                let pages = Anchor(time).pages(0, range.npages);
                then(Process::FIRST, Call::Unmap(pages));
            }
            then(Process::FIRST, granted(0, TIMES));
        }
        Habit::IsRefused => {
            let end = contract.ranges.iter();
            let end = end
                .map(|it| it.first_page().saturating_add(it.npages))
                .max()?;
            for time in 0..TIMES {
                then(Process::FIRST, map(0, end, 1, time));
            }
            then(Process::FIRST, granted(0, TIMES));
        }
        Habit::IsTakenAway => {
            let window = window(world, contract)?;
            let other = other_of(world, file, window);
            let page = range.npages / 2;
            let touch = || Call::Load(Anchor(0).page(page));
            for call in [
                granted(0, 0),
                touch(),
                open(other, 1),
                granted(1, 1),
                Call::Load(Anchor(1).page(0)),
                Call::Revoke { window },
                touch(),
                Call::Restore { window },
                touch(),
                granted(0, 2),
            ] {
                then(Process::FIRST, call);
            }
        }
        Habit::IsUnbound => {
            let page = range.npages / 2;
            let touch = |anchor| Call::Load(Anchor(anchor).page(page));
            for call in [
                granted(0, 0),
                touch(0),
                Call::Unbind,
                touch(0),
                Call::Bind,
                open(file, 1),
                granted(1, 1),
                touch(1),
            ] {
                then(Process::FIRST, call);
            }
        }
    }
    Some(operations)
}

/// The file after this one, in a circle, that shows the same window; itself where it alone does.
fn other_of(world: &World, file: usize, shown: usize) -> usize {
    let count = world.files.len();
    let mut others = (1..count).map(|step| (file + step) % count);
    let shows = |other: &usize| {
        let contract = world.files.get(*other);
        contract.is_some_and(|contract| window(world, contract) == Some(shown))
    };
    others.find(shows).unwrap_or(file)
}

/// The window that a file shows, by its number.
fn window(world: &World, file: &FileContract) -> Option<usize> {
    let mut named = file.ranges.iter().filter_map(|range| match &range.backing {
        Backing::Window { name, .. } => Some(name),
        Backing::Buffer { .. } => None,
    });
    let name = named.next()?;
    let mut windows = world.plan.windows.iter();
    windows.position(|window| window.name == *name)
}
