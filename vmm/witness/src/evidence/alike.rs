//! Pages that are as the one before them, found by ranges.
//!
//! One page is looked at by itself. Those after it are held against it: the same bits in
//! the guest's tables with the next frame, the next page of its memslot, the same frame in
//! both of the host's views, and in the second level that frame by bits that say the same. Where all
//! of this is so, whatever was found right of the first page is right of them. The first
//! page that differs in anything is looked at by itself again.

use addr::{Gva, PAGE_SIZE};
use monitor::MemSlot;

use super::{Evidence, PageEvidence};
use crate::contract::DevicePage;
use crate::guest_walk::{WalkOf, Walked};
use crate::memslot::Hit;

/// Most pages that are looked at together: a table of them.
const MOST: u64 = 512;
/// Fewest that are tried.
const LEAST: u64 = 8;

/// Goes through the pages of a range, in order.
pub struct Alike<'e, 'vm> {
    evidence: &'e Evidence<'vm>,
    walk: WalkOf<'e, 'vm>,
    /// What the guest's tables have from one address to another.
    run: Option<(Gva, Gva, Walked)>,
    reach: u64,
}

impl<'vm> Evidence<'vm> {
    /// For the pages from `start` on, for `len_bytes`.
    pub fn alike(&self, start: Gva, len_bytes: u64) -> Alike<'_, 'vm> {
        Alike {
            evidence: self,
            walk: self.tables.range(start, len_bytes),
            run: None,
            reach: MOST,
        }
    }
}

impl Alike<'_, '_> {
    /// How many pages are worth a try. It follows from how many were alike before, so
    /// that pages that all differ are not looked at again and again.
    pub fn reach(&self) -> u64 {
        self.reach
    }

    /// How many of the pages after `page`, at most `most`, are as it is. `device_page` is
    /// what the contract wants of it; the page after is to be the next one. Of the pages
    /// of one range, a later one must not be asked for before an earlier one.
    pub fn after(
        &mut self,
        page: &PageEvidence,
        device_page: Option<DevicePage>,
        most: u64,
    ) -> u64 {
        let walked = self.walked_alike(page).min(most).min(self.reach);
        let count = match device_page {
            None => walked,
            Some(device_page) => self.led_alike(page, device_page, walked).unwrap_or(0),
        };
        if count < walked {
            self.reach = (count * 2).clamp(LEAST, MOST);
        } else if count == self.reach {
            self.reach = (self.reach * 2).min(MOST);
        }
        count
    }

    /// Pages after `page` of which the guest's tables say the same.
    fn walked_alike(&mut self, page: &PageEvidence) -> u64 {
        while self.run.is_none_or(|(_, last, _)| last < page.gva) {
            self.run = match self.walk.next_run() {
                Some(run) => Some((run.start, run.last, run.found)),
                None => return 0,
            };
        }
        let Some((start, last, found)) = &self.run else {
            return 0;
        };
        let is_the_same = match (found, &page.walked) {
            (Ok(run), Ok(page_found)) => {
                let offset = page.gva.checked_offset_from(*start);
                let address = offset.and_then(|offset| run.address.checked_add(offset));
                address == Some(page_found.address)
            }
            (Err(run), Err(page_found)) => run.is_not_present() && page_found.is_not_present(),
            _ => false,
        };
        let further = last.checked_offset_from(page.gva);
        further.filter(|_| is_the_same).unwrap_or(0) / PAGE_SIZE
    }

    /// Pages after `page`, at most `most`, that lead on as it does: through its memslot to
    /// the frames that the host gave to the pages after `device_page`.
    fn led_alike(&self, page: &PageEvidence, device_page: DevicePage, most: u64) -> Option<u64> {
        let vm = self.evidence.vm;
        let gpa = page.walked.as_ref().ok()?.address;
        let hit = page.slot?;
        let window = vm.windows().get(device_page.window)?;
        let left_of_window = window
            .npages()
            .checked_sub(device_page.page)?
            .checked_sub(1)?;
        let most = most
            .min(left_of_window)
            .min(left_of_slot(vm.memslots(), &hit)?);
        if most == 0 {
            return None;
        }
        let ledger = window.ledger_hva(device_page.page.checked_add(1)?)?;
        let slot = hit.hva.checked_add(PAGE_SIZE)?;
        let pagemap = self.evidence.pagemap.as_ref().ok()?;
        let frames = pagemap.shared(ledger, slot, usize::try_from(most).ok()?);

        let entry = page.second_level.as_ref()?.as_ref().ok()?;
        let tables = self.evidence.live_tables().as_ref().ok()?;
        let below = tables.alike(gpa, entry, most + 1);
        let pairs = frames.iter().zip(below.iter().skip(1));
        Some(pairs.take_while(|(frame, below)| frame == below).count() as u64)
    }
}

/// Pages of a memslot after the one that was hit.
fn left_of_slot(slots: &[MemSlot], hit: &Hit) -> Option<u64> {
    let slot = slots.iter().find(|slot| slot.id == hit.slot)?;
    (slot.len_bytes / PAGE_SIZE)
        .checked_sub(hit.page)?
        .checked_sub(1)
}
