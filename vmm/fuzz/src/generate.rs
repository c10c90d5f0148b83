//! Makes up operations: what there is to do something to is told by a rehearsal of
//! those before.

use harness::model::{Call, Handle, Operation, Process};
use libafl_bolts::rands::Rand;
use wire::OpenMode;

use crate::arguments::{advice, offered, place, prot, sharing, stretch};
use crate::beginnings::is_large;
use crate::case::{Case, MOST_OPERATIONS};
use crate::dice::Dice;
use crate::dictionary;
use crate::world::{Rehearsal, World};

/// Pages that are taken and not used.
const ARENA_NPAGES: u64 = 32;

/// Kinds of calls, each with how often it comes.
const KINDS: [(u64, Kind); 16] = [
    (6, Kind::Open),
    (3, Kind::Close),
    (20, Kind::Map),
    (10, Kind::Ask),
    (2, Kind::Reserve),
    (8, Kind::Unmap),
    (9, Kind::Protect),
    (5, Kind::Advise),
    (8, Kind::Remap),
    (16, Kind::Touch),
    (4, Kind::Fork),
    (3, Kind::Exit),
    (5, Kind::Debug),
    (5, Kind::Revoke),
    (4, Kind::Offer),
    (2, Kind::Bind),
];

#[derive(Clone, Copy)]
enum Kind {
    Open,
    Close,
    Map,
    Ask,
    Reserve,
    Unmap,
    Protect,
    Advise,
    Remap,
    Touch,
    Fork,
    Exit,
    Debug,
    Revoke,
    Offer,
    Bind,
}

/// A case from nothing.
pub fn case<R: Rand>(world: &World, rand: &mut R) -> Case {
    let mut case = Case::default();
    let mut rehearsal = Rehearsal::of(world);
    let len = 3 + Dice(rand).index(MOST_OPERATIONS / 2);
    for _ in 0..4 * len {
        if case.operations.len() >= len {
            break;
        }
        if let Some(operation) = operation(&rehearsal, &mut Dice(rand))
            && rehearsal.take(&operation)
        {
            case.operations.push(operation);
        }
    }
    case
}

/// Something to do next; `None` when the dice fall on what cannot be done here.
pub(crate) fn operation<R: Rand>(
    rehearsal: &Rehearsal<'_>,
    dice: &mut Dice<'_, R>,
) -> Option<Operation> {
    let alive: Vec<Process> = rehearsal.model.processes().collect();
    let by = if dice.one_in(3) {
        dice.one_of(&alive)?
    } else {
        Process::FIRST
    };
    let kind = if rehearsal.open(by).is_empty() && !dice.one_in(6) {
        Kind::Open
    } else {
        dice.weighted(&KINDS)?
    };
    let call = match kind {
        Kind::Open => open(rehearsal, dice),
        Kind::Close => Call::Close {
            handle: dice.one_of(&rehearsal.open(by))?,
        },
        Kind::Map => map(rehearsal, dice, by)?,
        Kind::Ask => ask(rehearsal, dice, by)?,
        Kind::Reserve => Call::Reserve {
            npages: ARENA_NPAGES,
            anchor: rehearsal.new_anchor(),
        },
        Kind::Unmap => Call::Unmap(stretch(rehearsal, dice)?),
        Kind::Protect => Call::Protect {
            pages: stretch(rehearsal, dice)?,
            prot: prot(dice),
        },
        Kind::Advise => Call::Advise {
            pages: stretch(rehearsal, dice)?,
            advice: advice(dice)?,
        },
        Kind::Remap => remap(rehearsal, dice)?,
        Kind::Touch => {
            let at = place(rehearsal, dice)?;
            if dice.one_in(2) {
                Call::Load(at)
            } else {
                Call::Store(at)
            }
        }
        Kind::Fork => Call::Fork {
            child: Process(alive.iter().map(|it| it.0 + 1).max()?),
        },
        Kind::Exit => Call::Exit,
        Kind::Debug => {
            let others: Vec<_> = alive.into_iter().filter(|it| *it != by).collect();
            debug(rehearsal, dice, &others)?
        }
        Kind::Revoke => revoke(rehearsal, dice)?,
        Kind::Offer => Call::Offer {
            window: dice.one_of(&rehearsal.world.shown())?,
            offer: offered(dice)?,
        },
        // One of them means something.
        Kind::Bind if dice.one_in(2) => Call::Unbind,
        Kind::Bind => Call::Bind,
    };
    Some(by.does(call))
}

fn open<R: Rand>(rehearsal: &Rehearsal<'_>, dice: &mut Dice<'_, R>) -> Call {
    let mode = match dice.below(6) {
        0 => OpenMode::ReadOnly,
        1 => OpenMode::WriteOnly,
        _ => OpenMode::ReadWrite,
    };
    let mut file = dice.index(rehearsal.world.files.len());
    // Others are gone through in a tenth of the time.
    if is_large(rehearsal.world, file) && !dice.one_in(4) {
        file = dice.index(rehearsal.world.files.len());
    }
    Call::Open {
        file,
        mode,
        handle: rehearsal.new_handle(),
    }
}

fn map<R: Rand>(rehearsal: &Rehearsal<'_>, dice: &mut Dice<'_, R>, by: Process) -> Option<Call> {
    let (handle, first, had) = file(rehearsal, dice, by)?;
    let page = dictionary::page(dice, had);
    let npages = dictionary::npages(dice, had.saturating_sub(page));
    let fixed = if dice.one_in(4) {
        place(rehearsal, dice)
    } else {
        None
    };
    Some(Call::Map {
        handle,
        first_page: first.saturating_add(page),
        npages,
        prot: prot(dice),
        sharing: sharing(dice),
        fixed,
        anchor: rehearsal.new_anchor(),
    })
}

fn ask<R: Rand>(rehearsal: &Rehearsal<'_>, dice: &mut Dice<'_, R>, by: Process) -> Option<Call> {
    let (handle, first, had) = file(rehearsal, dice, by)?;
    let offset_bytes = dictionary::offset_bytes(dice, first.saturating_add(had));
    let page = offset_bytes / addr::PAGE_SIZE;
    let rest = first.saturating_add(had).saturating_sub(page);
    Some(Call::Ask {
        handle,
        offset_bytes,
        len_bytes: dictionary::len_bytes(dice, rest),
        prot: prot(dice),
        sharing: sharing(dice),
        anchor: rehearsal.new_anchor(),
    })
}

/// An open file, with the first page that it has and how many.
fn file<R: Rand>(
    rehearsal: &Rehearsal<'_>,
    dice: &mut Dice<'_, R>,
    by: Process,
) -> Option<(Handle, u64, u64)> {
    let handle = dice.one_of(&rehearsal.open(by))?;
    let file = rehearsal.model.file(by, handle)?;
    let range = dice.one_of(&file.ranges)?;
    Some((handle, range.first_page(), range.npages))
}

fn remap<R: Rand>(rehearsal: &Rehearsal<'_>, dice: &mut Dice<'_, R>) -> Option<Call> {
    let pages = stretch(rehearsal, dice)?;
    let new_npages = match dice.below(6) {
        0..=2 => pages.npages,
        3 => dice.below(pages.npages),
        4 => pages.npages.saturating_add(1 + dice.below(4)),
        _ => dictionary::npages(dice, pages.npages),
    };
    let fixed = if dice.one_in(2) {
        place(rehearsal, dice)
    } else {
        None
    };
    Some(Call::Remap {
        pages,
        new_npages,
        may_move: fixed.is_some() || dice.one_in(2),
        fixed,
        anchor: rehearsal.new_anchor(),
    })
}

fn debug<R: Rand>(
    rehearsal: &Rehearsal<'_>,
    dice: &mut Dice<'_, R>,
    others: &[Process],
) -> Option<Call> {
    let of = dice.one_of(others)?;
    let at = place(rehearsal, dice)?;
    Some(match dice.below(3) {
        0 => Call::Peek { of, at },
        1 => Call::Poke { of, at },
        _ => Call::ReadMem { of, at },
    })
}

/// Takes away a window, mostly one that is in use, or gives one back, mostly one that was
/// taken away.
fn revoke<R: Rand>(rehearsal: &Rehearsal<'_>, dice: &mut Dice<'_, R>) -> Option<Call> {
    let is_return = dice.one_in(2);
    let likely: Vec<usize> = match is_return {
        true => rehearsal.model.revoked().collect(),
        false => rehearsal.in_use(),
    };
    let any = &rehearsal.world.revocable;
    let window = match dice.one_in(4) || likely.is_empty() {
        true => dice.one_of(any)?,
        false => dice.one_of(&likely)?,
    };
    Some(match is_return {
        true => Call::Restore { window },
        false => Call::Revoke { window },
    })
}
