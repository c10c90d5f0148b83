//! Other arguments of an operation.

use harness::model::{Call, Operation, Process, Stretch};
use libafl_bolts::rands::Rand;
use wire::{OpenMode, Sharing};

use crate::dice::Dice;
use crate::world::World;
use crate::{arguments, dictionary};

/// Changes one argument.
pub(crate) fn tweak<R: Rand>(operation: &mut Operation, world: &World, dice: &mut Dice<'_, R>) {
    if dice.one_in(10) {
        operation.by = Process(u32::try_from(dice.below(3)).unwrap_or(0));
        return;
    }
    match &mut operation.call {
        Call::Open { file, mode, .. } => {
            if dice.one_in(3) {
                let modes = [OpenMode::ReadOnly, OpenMode::WriteOnly, OpenMode::ReadWrite];
                *mode = dice.one_of(&modes).unwrap_or(*mode);
            } else {
                *file = dice.index(world.files.len());
            }
        }
        Call::Map {
            first_page,
            npages,
            prot,
            sharing,
            fixed,
            ..
        } => match dice.below(9) {
            0..=2 => *first_page = near(*first_page, dice),
            3..=5 => *npages = near(*npages, dice),
            6 => *prot = arguments::prot(dice),
            7 => flip(sharing),
            _ => *fixed = None,
        },
        Call::Ask {
            offset_bytes,
            len_bytes,
            prot,
            sharing,
            ..
        } => match dice.below(8) {
            0..=2 => *offset_bytes = dictionary::offset_bytes(dice, *offset_bytes >> 12),
            3..=5 => *len_bytes = dictionary::len_bytes(dice, *len_bytes >> 12),
            6 => *prot = arguments::prot(dice),
            _ => flip(sharing),
        },
        Call::Reserve { npages, .. } => *npages = 1 + dice.below(64),
        Call::Unmap(pages) | Call::Advise { pages, .. } => tweak_pages(pages, dice),
        Call::Protect { pages, prot } => {
            if dice.one_in(2) {
                *prot = arguments::prot(dice);
            } else {
                tweak_pages(pages, dice);
            }
        }
        Call::Remap {
            pages,
            new_npages,
            may_move,
            ..
        } => match dice.below(3) {
            0 => *new_npages = near(*new_npages, dice),
            1 => *may_move ^= true,
            _ => tweak_pages(pages, dice),
        },
        Call::Load(at) | Call::Store(at) => at.page = near(at.page, dice),
        Call::Peek { at, .. } | Call::Poke { at, .. } | Call::ReadMem { at, .. } => {
            at.page = near(at.page, dice);
        }
        Call::Revoke { window } | Call::Restore { window } => {
            *window = dice.one_of(&world.revocable).unwrap_or(*window);
        }
        Call::Offer { offer, .. } => *offer = arguments::offered(dice).unwrap_or(*offer),
        Call::Close { .. } | Call::Fork { .. } | Call::Exit | Call::Unbind | Call::Bind => {}
    }
}

fn tweak_pages<R: Rand>(pages: &mut Stretch, dice: &mut Dice<'_, R>) {
    if dice.one_in(2) {
        pages.at.page = near(pages.at.page, dice);
    } else {
        pages.npages = near(pages.npages, dice);
    }
}

/// A number of pages that is not far off.
fn near<R: Rand>(number: u64, dice: &mut Dice<'_, R>) -> u64 {
    match dice.below(7) {
        0 | 1 => number.saturating_add(1),
        2 | 3 => number.saturating_sub(1),
        4 => 0,
        5 => number / 2,
        _ => number.saturating_mul(2).min(1 << 40),
    }
}

fn flip(sharing: &mut Sharing) {
    *sharing = match sharing {
        Sharing::Shared => Sharing::Private,
        Sharing::Private => Sharing::Shared,
    };
}
