//! Cases in which something is done over and over, or by one who is gone afterwards, or to
//! what was taken away: what a driver then has not taken back, or brings back, is seen by what
//! it grants next.

use std::collections::BTreeMap;

use contract::{Backing, FileContract, RangeContract};
use harness::model::{Anchor, Call, Handle, Operation, Process};
use wire::{OpenMode, Prot, Sharing};

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
    // The files of one strategy each have another turn, and so have those of one window.
    let mut turns: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, file) in world.files.iter().enumerate() {
        let known = turns.len();
        let next = turns.entry(&file.strategy).or_insert(known);
        let turn = *next;
        *next += 1;
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
    let of = Of::file(world, file)?;
    let mut calls = vec![(Process::FIRST, of.open(file, 0))];
    calls.extend(match habit {
        Habit::ComesAndGoes => of.comes_and_goes(),
        Habit::MapsAndUnmaps => by_first(of.maps_and_unmaps()),
        Habit::IsRefused => by_first(of.is_refused()?),
        Habit::IsTakenAway => by_first(of.is_taken_away(world, file)?),
        Habit::IsUnbound => by_first(of.is_unbound(file)),
    });
    let all = calls.into_iter();
    Some(all.map(|(by, call)| by.does(call)).collect())
}

fn by_first(calls: Vec<Call>) -> Vec<(Process, Call)> {
    let all = calls.into_iter();
    all.map(|call| (Process::FIRST, call)).collect()
}

/// A file that something is done to, once it is open as handle 0.
struct Of<'w> {
    contract: &'w FileContract,
    range: &'w RangeContract,
    mode: OpenMode,
    prot: Prot,
}

impl<'w> Of<'w> {
    fn file(world: &'w World, file: usize) -> Option<Self> {
        let contract = world.files.get(file)?;
        let (mode, prot) = rights(world, file);
        Some(Self {
            contract,
            range: contract.ranges.first()?,
            mode,
            prot,
        })
    }

    fn open(&self, file: usize, handle: u32) -> Call {
        Call::Open {
            file,
            mode: self.mode,
            handle: Handle(handle),
        }
    }

    fn map(&self, handle: u32, first_page: u64, npages: u64, anchor: u32) -> Call {
        Call::Map {
            handle: Handle(handle),
            first_page,
            npages,
            prot: self.prot,
            sharing: Sharing::Shared,
            fixed: None,
            anchor: Anchor(anchor),
        }
    }

    /// All of its first range.
    fn granted(&self, handle: u32, anchor: u32) -> Call {
        self.map(handle, self.range.first_page(), self.range.npages, anchor)
    }

    /// A page in the middle.
    fn touch(&self, anchor: u32) -> Call {
        Call::Load(Anchor(anchor).page(self.range.npages / 2))
    }

    fn comes_and_goes(&self) -> Vec<(Process, Call)> {
        let child = Process(1);
        let load = Call::Load(Anchor(0).page(0));
        vec![
            (Process::FIRST, self.granted(0, 0)),
            (Process::FIRST, load.clone()),
            (Process::FIRST, Call::Fork { child }),
            (child, Call::Exit),
            (Process::FIRST, load),
        ]
    }

    fn maps_and_unmaps(&self) -> Vec<Call> {
        let unmap = |time| Call::Unmap(Anchor(time).pages(0, self.range.npages));
        let both = (0..TIMES).flat_map(|time| [self.granted(0, time), unmap(time)]);
        both.chain([self.granted(0, TIMES)]).collect()
    }

    fn is_refused(&self) -> Option<Vec<Call>> {
        let ranges = self.contract.ranges.iter();
        let end = ranges
            .map(|it| it.first_page().saturating_add(it.npages))
            .max()?;
        let refused = (0..TIMES).map(|time| self.map(0, end, 1, time));
        Some(refused.chain([self.granted(0, TIMES)]).collect())
    }

    fn is_taken_away(&self, world: &World, file: usize) -> Option<Vec<Call>> {
        let window = window(world, self.contract)?;
        Some(vec![
            self.granted(0, 0),
            self.touch(0),
            self.open(other_of(world, file, window), 1),
            self.granted(1, 1),
            Call::Load(Anchor(1).page(0)),
            Call::Revoke { window },
            self.touch(0),
            Call::Restore { window },
            self.touch(0),
            self.granted(0, 2),
        ])
    }

    fn is_unbound(&self, file: usize) -> Vec<Call> {
        vec![
            self.granted(0, 0),
            self.touch(0),
            Call::Unbind,
            self.touch(0),
            Call::Bind,
            self.open(file, 1),
            self.granted(1, 1),
            self.touch(1),
        ]
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use addr::Gpa;
    use harness::own_driver;
    use witness::{Plan, WindowPlan};

    use super::*;

    /// No habit is left to a file of some window or strategy alone.
    #[test]
    fn each_habit_comes_to_several_windows_and_strategies() {
        let window = |number: u64| WindowPlan {
            name: format!("window {number}"),
            base: Gpa::new(0xd100_0000 + (number << 24)),
            npages: 8,
            read_only: false,
        };
        let plan = Plan {
            windows: (0..4).map(window).collect(),
            buffers: Vec::new(),
        };
        let world = World {
            files: own_driver::files(&plan),
            plan,
            revocable: (0..4).collect(),
        };
        let had = |does: fn(&Call) -> bool| {
            let cases = cases(&world).into_iter();
            let with = cases.filter(|case| case.operations.iter().any(|it| does(&it.call)));
            let opened = with.filter_map(|case| match case.operations.first()?.call {
                Call::Open { file, .. } => world.files.get(file),
                _ => None,
            });
            let (mut windows, mut strategies) = (BTreeSet::new(), BTreeSet::new());
            for file in opened {
                windows.insert(super::window(&world, file));
                strategies.insert(file.strategy.clone());
            }
            (windows.len(), strategies.len())
        };
        let each: [fn(&Call) -> bool; 5] = [
            |call| matches!(call, Call::Fork { .. }),
            |call| matches!(call, Call::Unmap(_)),
            |call| matches!(call, Call::Map { first_page: 8, .. }),
            |call| matches!(call, Call::Revoke { .. }),
            |call| matches!(call, Call::Unbind),
        ];
        for does in each {
            let (windows, strategies) = had(does);
            assert!(windows >= 4 && strategies >= 6, "{windows} {strategies}");
        }
    }
}
