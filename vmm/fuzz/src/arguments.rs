//! Makes up arguments of operations.

use harness::model::{Offered, Place, Stretch};
use libafl_bolts::rands::Rand;
use wire::{Advice, Prot, Sharing};

use crate::dice::Dice;
use crate::dictionary;
use crate::world::Rehearsal;

pub(crate) fn offered<R: Rand>(dice: &mut Dice<'_, R>) -> Option<Offered> {
    dice.one_of(&[Offered::AsConfigured, Offered::ReadOnly, Offered::Nothing])
}

/// A page at which something is or was.
pub(crate) fn place<R: Rand>(rehearsal: &Rehearsal<'_>, dice: &mut Dice<'_, R>) -> Option<Place> {
    let anchors: Vec<_> = rehearsal.anchors.iter().collect();
    let (anchor, npages) = dice.one_of(&anchors)?;
    let page = dictionary::page(dice, *npages);
    Some(anchor.page(page.min(npages.saturating_sub(1))))
}

/// Pages at which something is or was.
pub(crate) fn stretch<R: Rand>(
    rehearsal: &Rehearsal<'_>,
    dice: &mut Dice<'_, R>,
) -> Option<Stretch> {
    let at = place(rehearsal, dice)?;
    let had = rehearsal.anchors.get(&at.anchor)?;
    let npages = dictionary::npages(dice, had.saturating_sub(at.page));
    Some(Stretch { at, npages })
}

pub(crate) fn prot<R: Rand>(dice: &mut Dice<'_, R>) -> Prot {
    match dice.below(12) {
        0..=5 => Prot::READ_WRITE,
        6..=8 => Prot::READ,
        9 => Prot::NONE,
        _ => {
            let bits = dice.below(8);
            Prot {
                read: bits & 1 != 0,
                write: bits & 2 != 0,
                exec: bits & 4 != 0,
            }
        }
    }
}

pub(crate) fn sharing<R: Rand>(dice: &mut Dice<'_, R>) -> Sharing {
    if dice.one_in(7) {
        Sharing::Private
    } else {
        Sharing::Shared
    }
}

pub(crate) fn advice<R: Rand>(dice: &mut Dice<'_, R>) -> Option<Advice> {
    dice.one_of(&[
        Advice::DontNeed,
        Advice::DontFork,
        Advice::DoFork,
        Advice::PopulateRead,
        Advice::PopulateWrite,
    ])
}
