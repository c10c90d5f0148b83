//! What is wanted of the pages that follow one, and what was seen of them, where it is the
//! same but for the page: nothing of it has to be put into words.

use crate::contract::{Access, DevicePage, Expected};
use crate::stamp::{IDENTITY, LAST, Seen, Stamps};

/// How many of the pages after the first are wanted as the first one is, each the next
/// page of the device, and were seen to be so. Of the first itself nothing is said.
pub fn alike(stamps: &Stamps, expected: &[Expected], seen: Option<&[Seen]>) -> u64 {
    let Some((first, rest)) = expected.split_first() else {
        return 0;
    };
    let is_alike = |(nth, expected): &(u64, &Expected)| {
        let seen_well = |seen: &[Seen]| {
            let seen = usize::try_from(*nth).ok().and_then(|nth| seen.get(nth));
            seen.is_some_and(|seen| is_met(stamps, expected, seen))
        };
        follows(first, expected, *nth) && seen.is_none_or(seen_well)
    };
    (1..).zip(rest).take_while(is_alike).count() as u64
}

/// Whether `later` is what `first` is, `npages` further into the device.
fn follows(first: &Expected, later: &Expected, npages: u64) -> bool {
    match *first {
        Expected::Absent => *later == Expected::Absent,
        Expected::Present {
            page,
            access,
            memory_type,
        } => {
            let next = page.page.checked_add(npages);
            next.is_some_and(|next| {
                let page = DevicePage { page: next, ..page };
                *later
                    == Expected::Present {
                        page,
                        access,
                        memory_type,
                    }
            })
        }
    }
}

fn is_met(stamps: &Stamps, expected: &Expected, seen: &Seen) -> bool {
    match *expected {
        Expected::Absent => seen.loaded.is_err() && !matches!(seen.stored, Some(Ok(_))),
        Expected::Present { page, access, .. } => shows(stamps, page, access, seen),
    }
}

/// Whether the guest saw `page` and nothing else, and could store to it just where it
/// may.
pub(super) fn shows(stamps: &Stamps, page: DevicePage, access: Access, seen: &Seen) -> bool {
    let Ok(loaded) = &seen.loaded else {
        return false;
    };
    let stored_well = match (access.write, &seen.stored) {
        (true, Some(Ok(arrived))) => *arrived == [page],
        (true, _) => false,
        (false, stored) => !matches!(stored, Some(Ok(_))),
    };
    stored_well
        && loaded.identity == stamps.word(page, IDENTITY)
        && loaded.last == stamps.word(page, LAST)
}
