//! Pages of the guest's RAM that a driver chooses as it likes: which frame each is
//! nobody can say beforehand. What can be said: it is RAM, it is none of the others,
//! both ends of the chain agree on its frame, and what is stored to it through the
//! mapping is found at its gpa.

use std::collections::BTreeSet;

use addr::{Gpa, Pfn};
use monitor::SlotUse;
use walk::{MemoryType, Translation};

use super::{
    Disagreement, Held, Judge, PageVerdict, Unmet, Unwitnessed, below, disagrees, known, words,
};
use crate::contract::{Access, Plan};
use crate::evidence::PageEvidence;
use crate::link::Link;
use crate::second_level::BroughtIn;
use crate::stamp::Stamps;

/// What such a page must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamPage {
    /// What user space may do with it.
    pub access: Access,
    /// Memory type that the guest's tables ask for.
    pub memory_type: MemoryType,
    /// Pages of RAM that it must not be.
    pub others: BTreeSet<Gpa>,
}

/// What was done through the mapping, and what stands in the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamContent {
    /// The first load, before anything was stored, or what the guest got instead.
    pub first: Result<u64, String>,
    /// The word that was stored then, or what the guest got instead.
    pub stored: Result<u64, String>,
    /// The word that the host found at the gpa of the page.
    pub found: Option<u64>,
}

/// Judges one page, numbered `page` in its mapping. A page that is somebody's for the
/// first time holds zeroes.
pub fn judge_ram(
    plan: &Plan,
    stamps: &Stamps,
    page: u64,
    wanted: &RamPage,
    evidence: &PageEvidence,
    content: &RamContent,
) -> (PageVerdict, Unwitnessed) {
    let judge = Judge {
        plan,
        stamps,
        page,
        evidence,
    };
    let chain = [
        (Link::GuestWalk, judge.leads_to_ram(wanted)),
        (Link::Memslot, judge.ram_slot()),
        (Link::HostFrame, known(&evidence.slot_frame).map(drop)),
        (Link::SecondLevel, judge.ram_second_level()),
        (Link::Stamp, ram_content(content)),
    ];
    let mut links = vec![Link::Contract];
    let mut unwitnessed = Unwitnessed::new();
    for (link, held) in chain {
        match held {
            Ok(()) => links.push(link),
            Err(Unmet::Disagrees(unmet)) => return (judge.fail(link, unmet), unwitnessed),
            Err(Unmet::Unheard(why)) => unwitnessed.push((link, why)),
            Err(Unmet::NotAsked) => {}
        }
    }
    (PageVerdict::Pass(links), unwitnessed)
}

impl Judge<'_> {
    fn leads_to_ram(&self, wanted: &RamPage) -> Held {
        let expected = || {
            let RamPage {
                access,
                memory_type,
                ..
            } = wanted;
            format!("a page of RAM of its own, user {access}, {memory_type}")
        };
        let found = match &self.evidence.walked {
            Ok(found) => found,
            Err(error) => return disagrees(expected(), error.to_string()),
        };
        let right = found.access.user
            && words::rights(found) == wanted.access
            && found.memory_type == wanted.memory_type
            && !found.global
            && found.pkey.unwrap_or(0) == 0;
        let is_other = wanted.others.contains(&found.address.page_base());
        match (right, is_other) {
            (true, false) => Ok(()),
            (true, true) => {
                let text = format!("{}, which is another page's too", self.describe(found));
                disagrees(expected(), text)
            }
            (false, _) => disagrees(expected(), self.describe(found)),
        }
    }

    pub(super) fn ram_slot(&self) -> Held {
        let found = match &self.evidence.slot {
            Some(hit) if hit.used_for == SlotUse::Ram && !hit.read_only => return Ok(()),
            Some(hit) => words::slot(hit),
            None => "no memslot".into(),
        };
        disagrees("the memslot of RAM, writable", found)
    }

    pub(super) fn ram_second_level(&self) -> Held {
        let unheard = |why: &str| Err(Unmet::Unheard(why.to_owned()));
        let entry = match &self.evidence.second_level {
            Some(Ok(entry)) => entry,
            Some(Err(why)) => return unheard(why),
            None => return unheard("no guest physical address to look at"),
        };
        let Some(Ok(pfn)) = self.evidence.slot_frame else {
            return unheard("the host frame to compare with is not known");
        };
        // Everything but the right to store.
        let leads_there = |found: &Translation<_>| {
            Pfn::containing(found.address) == pfn
                && found.access.read
                && found.access.user
                && found.memory_type == MemoryType::WriteBack
        };
        match (&entry.walked, &entry.brought_in) {
            (Ok(found), _) if leads_there(found) && found.access.write => return Ok(()),
            (Ok(found), _) if leads_there(found) && self.may_be_granted_later(found) => {
                return unheard(below::NOT_STORED);
            }
            (Err(error), BroughtIn::Unsupported(why)) if error.is_not_present() => {
                return unheard(&below::not_accessed(why));
            }
            _ => {}
        }
        let expected = format!("pfn {pfn}, the frame behind its memslot, writable, WB");
        disagrees(expected, below::describe(entry))
    }
}

fn ram_content(content: &RamContent) -> Held {
    match &content.first {
        Ok(0) => {}
        Ok(word) => return disagrees("zeroes", format!("{word:#018x} of somebody else's")),
        Err(got) => return disagrees("a load from it", got.as_str()),
    }
    let stored = match &content.stored {
        Ok(stored) => *stored,
        Err(got) => return disagrees("a store to it", got.as_str()),
    };
    match content.found {
        Some(found) if found == stored => Ok(()),
        Some(found) => Err(Unmet::Disagrees(Disagreement {
            expected: format!("{stored:#018x} at its gpa, where the guest stored it"),
            found: format!("{found:#018x}"),
        })),
        None => Err(Unmet::Unheard("the guest's memory there".into())),
    }
}
