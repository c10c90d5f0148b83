//! Pages of RAM that the driver shares with the device: stamped when the device is told of
//! them, and searched, with those of the windows, for what the guest stores.

use std::collections::BTreeSet;

use addr::Gpa;
use monitor::SlotUse;
use witness::stamp::SLOT;
use witness::{DevicePage, memslot};

use crate::guest::Guest;

impl Guest {
    /// Takes note of what the device has been told of its buffers since the guest last
    /// stood still, and stamps the pages that are new to it, as a device would fill them.
    pub(crate) fn note_buffers(&mut self) {
        let told = self.vm().buffers();
        if told == self.plan().buffers {
            return;
        }
        let known: BTreeSet<_> = self.plan().buffer_pages().collect();
        self.set_buffers(told);
        let new: Vec<_> = self.plan().buffer_pages().collect();
        for (page, gpa) in new.into_iter().filter(|one| !known.contains(one)) {
            let content = self.stamps().content(page, 0);
            if self.is_ram(gpa) {
                // It is RAM of the guest, which takes every write.
                let _ = self.vm_mut().write(gpa, &content);
            }
        }
    }

    /// Whether the guest may have a buffer there: what it tells the device need not be so.
    fn is_ram(&self, gpa: Gpa) -> bool {
        let slot = memslot::find(self.vm().memslots(), gpa);
        slot.is_some_and(|slot| slot.used_for == SlotUse::Ram)
    }

    /// The device pages in which something else stands at [`SLOT`] than at the start, with
    /// what does. Windows are put back to what they held; so are buffers where one of
    /// `words` stands, which the guest was made to store: anything else there may be of
    /// somebody who has the page by now.
    pub(crate) fn take_slots(&mut self, words: &[u64]) -> Vec<(DevicePage, u64)> {
        let windows = self.vm().windows();
        let mut changed = self.stamps().changed_slots(windows);
        let pages = changed.iter().map(|(page, _)| *page);
        self.stamps().restore_slots(windows, pages);
        let told: Vec<_> = self.plan().buffer_pages().collect();
        for (page, gpa) in told {
            let Some(at) = gpa.checked_add(SLOT).filter(|_| self.is_ram(gpa)) else {
                continue;
            };
            let stamp = self.stamps().word(page, SLOT);
            let Ok(found) = self.vm().read_u64(at) else {
                continue;
            };
            if found != stamp {
                changed.push((page, found));
            }
            if words.contains(&found) {
                // As above.
                let _ = self.vm_mut().write(at, &stamp.to_le_bytes());
            }
        }
        changed
    }
}
