//! Link second level: what the processor's own entry must be.

use std::error::Error as _;

use addr::{Gpa, Hpa, PAGE_SIZE, Pfn};
use walk::{MemoryType, Steps, Translation};

use super::{Held, Judge, Unmet, Wanted, disagrees, words};
use crate::contract::WindowPlan;
use crate::second_level::{BroughtIn, Entry};

/// Why the right to store is not missed.
pub(super) const NOT_STORED: &str = "the guest has not stored to the page yet, and KVM grants \
     stores with the first one where the processor does not record them";

/// Why an entry is not missed.
pub(super) fn not_accessed(why: &str) -> String {
    format!("the guest has not accessed the page yet, and {why}")
}

impl Judge<'_> {
    /// The entry names the frame that the host gave to the page, takes stores just
    /// where the window does, is write-back, as all RAM is to the host, and maps
    /// nothing beyond the window.
    pub(super) fn second_level(&self, wanted: &Wanted) -> Held {
        if wanted.page.buffer().is_some() {
            return self.ram_second_level();
        }
        let unheard = |why: &str| Err(Unmet::Unheard(why.to_owned()));
        let entry = match &self.evidence.second_level {
            Some(Ok(entry)) => entry,
            Some(Err(why)) => return unheard(why),
            None => return unheard("no guest physical address to look at"),
        };
        let Some(Ok(pfn)) = self.evidence.device_frame else {
            return unheard("the host frame to compare with is not known");
        };
        let Some(window) = self.plan.windows.get(wanted.page.window) else {
            return unheard("no such window");
        };
        let found = match (&entry.walked, &entry.brought_in) {
            (Ok(found), _) if leads_right(found, pfn, wanted.gpa, window) => {
                if found.access.write != window.read_only {
                    return Ok(());
                }
                if !window.read_only && self.may_be_granted_later(found) {
                    return unheard(NOT_STORED);
                }
                describe(entry)
            }
            (Err(error), BroughtIn::Unsupported(why)) if error.is_not_present() => {
                return unheard(&not_accessed(why));
            }
            _ => describe(entry),
        };
        let mode = words::slot_mode(window.read_only);
        let name = self.plan.name(wanted.page);
        disagrees(
            format!("pfn {pfn}, the frame of {name}, {mode}, WB, within the window"),
            found,
        )
    }

    /// An entry that misses nothing but the right to store, where KVM takes that away to
    /// learn of the next store: on a processor that has no dirty bits
    /// (`mark_spte_for_access_track` of arch/x86/kvm/mmu/spte.c), and in memslots with
    /// `KVM_MEM_LOG_DIRTY_PAGES`. Pre-faulting need not give it; a store does.
    pub(super) fn may_be_granted_later(&self, found: &Translation<Hpa>) -> bool {
        let withholds = found.dirty.is_none() || self.evidence.notes_stores;
        withholds && !found.access.write && !self.has_stored()
    }

    /// Whether a store of the guest got through just before this look.
    fn has_stored(&self) -> bool {
        let seen = self.evidence.seen.as_ref();
        seen.is_some_and(|seen| matches!(seen.stored, Some(Ok(_))))
    }
}

/// Everything but the right to store.
fn leads_right(found: &Translation<Hpa>, pfn: Pfn, gpa: Gpa, window: &WindowPlan) -> bool {
    Pfn::containing(found.address) == pfn
        && found.access.read
        && found.access.user
        && found.memory_type == MemoryType::WriteBack
        && is_within(gpa, found.page_bytes(), window)
}

/// Whether the page of `len_bytes` around `gpa` is all of the window's.
fn is_within(gpa: Gpa, len_bytes: u64, window: &WindowPlan) -> bool {
    let Some(before) = gpa.checked_offset_from(window.base) else {
        return false;
    };
    let into_page = gpa.raw() & (len_bytes - 1);
    before
        .checked_sub(into_page)
        .and_then(|start| start.checked_add(len_bytes))
        .is_some_and(|end| end <= window.npages.saturating_mul(PAGE_SIZE))
}

/// An entry in words.
pub(super) fn describe(entry: &Entry) -> String {
    let error = match &entry.walked {
        Ok(found) => return describe_leaf(found),
        Err(error) => error,
    };
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        text.push_str(&format!(": {cause}"));
    }
    if let Some(means) = entry.means {
        text.push_str(&format!(", {means}"));
    }
    if let BroughtIn::Refused(why) = &entry.brought_in {
        text.push_str(&format!("; {why}"));
    }
    text
}

fn describe_leaf(found: &Translation<Hpa>) -> String {
    let mut text = format!(
        "pfn {}, {}, {}, a page of {} KiB",
        Pfn::containing(found.address),
        words::slot_mode(!found.access.write),
        found.memory_type,
        found.page_bytes() / 1024,
    );
    if !found.access.read || !found.access.user {
        text.push_str(", not readable by a guest");
    }
    text
}

/// The walk, entry by entry.
pub(super) fn lines(entry: &Entry) -> Vec<String> {
    let steps = match &entry.walked {
        Ok(found) => Some(&found.steps),
        Err(error) => error.steps(),
    };
    steps
        .into_iter()
        .flat_map(Steps::iter)
        .map(|step| format!("second {step}"))
        .chain([format!("second level -> {}", describe(entry))])
        .collect()
}
