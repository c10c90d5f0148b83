//! Holds the evidence for a page against its contract. Pure.

mod alike;
mod below;
mod data;
mod ram;
mod verdict;
mod words;

#[cfg(test)]
mod tests;

use addr::{Gpa, Pfn};
use monitor::SlotUse;
use walk::{MemoryType, Translation};

pub use alike::alike;
pub use data::{Unmet as UnmetData, judge_data};
pub use ram::{RamContent, RamPage, judge_ram};
pub use verdict::{Mismatch, PageVerdict, Unwitnessed};

use crate::contract::{Access, DevicePage, Expected, Plan};
use crate::evidence::PageEvidence;
use crate::host_frame::{Frame, FrameError};
use crate::link::Link;
use crate::stamp::{IDENTITY, LAST, Seen, Stamps};

/// Whether this is so, for the same reasons, of every page that is mapped alike: the right to
/// store that KVM withholds follows from bits of the entry, which are compared.
pub fn is_unheard_alike(unheard: &[(Link, String)]) -> bool {
    unheard
        .iter()
        .all(|(link, why)| *link == Link::SecondLevel && why == below::NOT_STORED)
}

/// Judges one page, numbered `page` in its mapping.
pub fn judge_page(
    plan: &Plan,
    stamps: &Stamps,
    page: u64,
    expected: &Expected,
    evidence: &PageEvidence,
) -> (PageVerdict, Unwitnessed) {
    let judge = Judge {
        plan,
        stamps,
        page,
        evidence,
    };
    match *expected {
        Expected::Absent => (judge.absent(), Unwitnessed::new()),
        Expected::Present {
            page,
            access,
            memory_type,
        } => judge.present(page, access, memory_type),
    }
}

struct Judge<'a> {
    plan: &'a Plan,
    stamps: &'a Stamps,
    page: u64,
    evidence: &'a PageEvidence,
}

/// A contract for a page that the device has.
struct Wanted {
    page: DevicePage,
    gpa: Gpa,
    access: Access,
    memory_type: MemoryType,
}

/// Whether a link was heard and agrees.
type Held = Result<(), Unmet>;

/// What is asked of a link.
type Question<'a> = fn(&Judge<'a>, &Wanted) -> Held;

/// Why a link does not count as agreed.
enum Unmet {
    /// It says something else.
    Disagrees(Disagreement),
    /// It could not be heard, for this reason.
    Unheard(String),
    /// Nobody asked it: this look at the page does without.
    NotAsked,
}

/// What a link wanted and what it found.
struct Disagreement {
    expected: String,
    found: String,
}

fn disagrees<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Unmet> {
    Err(Unmet::Disagrees(Disagreement {
        expected: expected.into(),
        found: found.into(),
    }))
}

impl<'a> Judge<'a> {
    fn fail(&self, link: Link, Disagreement { expected, found }: Disagreement) -> PageVerdict {
        PageVerdict::Fail(Box::new(Mismatch {
            link,
            page: self.page,
            gva: self.evidence.gva.to_string(),
            expected,
            found,
            guest_walk: self.walk_lines(),
            host: self.host_lines(),
        }))
    }

    fn absent(&self) -> PageVerdict {
        let unmet = |link, expected: &str, found| {
            let expected = expected.into();
            self.fail(link, Disagreement { expected, found })
        };
        match &self.evidence.walked {
            Err(error) if error.is_not_present() => {}
            Err(error) => return unmet(Link::GuestWalk, "nothing mapped", error.to_string()),
            Ok(found) => return unmet(Link::GuestWalk, "nothing mapped", self.describe(found)),
        }
        // An access that gets through where the tables have nothing used a
        // translation that should have been flushed. One that is refused is not
        // counted: what the guest got need not have come from this page.
        match &self.evidence.seen {
            Some(Seen {
                loaded: Ok(got), ..
            }) => {
                let found = self.describe_stamp(got.identity);
                unmet(Link::Stamp, "a load is refused", found)
            }
            Some(Seen {
                stored: Some(Ok(arrived)),
                ..
            }) => {
                let found = self.describe_arrival(arrived);
                unmet(Link::Stamp, "a store is refused", found)
            }
            _ => PageVerdict::Pass(vec![Link::Contract, Link::GuestWalk]),
        }
    }

    fn present(
        &self,
        page: DevicePage,
        access: Access,
        memory_type: MemoryType,
    ) -> (PageVerdict, Unwitnessed) {
        let mut unwitnessed = Unwitnessed::new();
        let Some(gpa) = self.plan.gpa(page) else {
            let unmet = Disagreement {
                expected: self.plan.name(page),
                found: match page.buffer() {
                    Some(_) => "the driver has told the device of no such page".into(),
                    None => "the device has no such page".into(),
                },
            };
            return (self.fail(Link::Contract, unmet), unwitnessed);
        };
        let wanted = Wanted {
            page,
            gpa,
            access,
            memory_type,
        };
        let chain: [(Link, Question<'a>); 5] = [
            (Link::GuestWalk, Self::guest_walk),
            (Link::Memslot, Self::memslot),
            (Link::HostFrame, Self::host_frame),
            (Link::SecondLevel, Self::second_level),
            (Link::Stamp, Self::stamp),
        ];
        let mut links = vec![Link::Contract];
        for (link, hold) in chain {
            match hold(self, &wanted) {
                Ok(()) => links.push(link),
                Err(Unmet::Disagrees(unmet)) => return (self.fail(link, unmet), unwitnessed),
                Err(Unmet::Unheard(why)) => unwitnessed.push((link, why)),
                Err(Unmet::NotAsked) => {}
            }
        }
        (PageVerdict::Pass(links), unwitnessed)
    }

    fn guest_walk(&self, wanted: &Wanted) -> Held {
        let found = match &self.evidence.walked {
            Ok(found) if leads_there(found, wanted) => return Ok(()),
            Ok(found) => self.describe(found),
            Err(error) => error.to_string(),
        };
        disagrees(self.describe_wanted(wanted), found)
    }

    fn memslot(&self, wanted: &Wanted) -> Held {
        if wanted.page.buffer().is_some() {
            return self.ram_slot();
        }
        let DevicePage { window, page } = wanted.page;
        // What the contract lets the guest store must find a slot that takes it; a
        // window that is to be read-only must be so below the guest's tables too.
        let planned = self.plan.windows.get(window);
        let read_only = !wanted.access.write && planned.is_some_and(|window| window.read_only);
        let found = match self.evidence.slot {
            Some(hit)
                if hit.used_for == SlotUse::Window(window)
                    && hit.page == page
                    && hit.read_only == read_only =>
            {
                return Ok(());
            }
            Some(hit) => words::slot(&hit),
            None => "no memslot".into(),
        };
        let mode = words::slot_mode(read_only);
        let name = self.plan.name(wanted.page);
        disagrees(format!("the memslot of {name}, {mode}"), found)
    }

    fn host_frame(&self, wanted: &Wanted) -> Held {
        let PageEvidence {
            device_frame,
            slot_frame,
            ..
        } = self.evidence;
        match [known(device_frame), known(slot_frame)] {
            // A frame that is gone is a finding, whatever is known of the other.
            [Err(gone @ Unmet::Disagrees(_)), _] | [_, Err(gone @ Unmet::Disagrees(_))] => {
                Err(gone)
            }
            [Err(unheard), _] | [_, Err(unheard)] => Err(unheard),
            [Ok(device), Ok(slot)] if device == slot => Ok(()),
            [Ok(device), Ok(slot)] => disagrees(
                format!("pfn {device}, the frame of {}", self.plan.name(wanted.page)),
                format!("pfn {slot}"),
            ),
        }
    }

    fn stamp(&self, wanted: &Wanted) -> Held {
        let Some(seen) = &self.evidence.seen else {
            return Err(Unmet::NotAsked);
        };
        if alike::shows(self.stamps, wanted.page, wanted.access, seen) {
            return Ok(());
        }
        self.loaded(wanted, seen)?;
        self.stored(wanted, seen)
    }

    fn loaded(&self, wanted: &Wanted, seen: &Seen) -> Held {
        let name = self.plan.name(wanted.page);
        let loaded = match &seen.loaded {
            Ok(loaded) => loaded,
            Err(got) => return disagrees(format!("a load from {name}"), got),
        };
        for (offset, found) in [(IDENTITY, loaded.identity), (LAST, loaded.last)] {
            let word = self.stamps.word(wanted.page, offset);
            if found != word {
                return disagrees(
                    format!("{word:#018x} at byte {offset:#x}, the stamp of {name}"),
                    self.describe_stamp(found),
                );
            }
        }
        Ok(())
    }

    fn stored(&self, wanted: &Wanted, seen: &Seen) -> Held {
        let name = self.plan.name(wanted.page);
        match (wanted.access.write, &seen.stored) {
            (true, Some(Ok(arrived))) if *arrived == [wanted.page] => Ok(()),
            (true, Some(Ok(arrived))) => disagrees(
                format!("the guest's store arrives in {name}"),
                self.describe_arrival(arrived),
            ),
            (true, Some(Err(got))) => {
                disagrees(format!("the guest's store arrives in {name}"), got)
            }
            (true, None) => Err(Unmet::Unheard(
                "the guest stored nothing to a page that it may store to".into(),
            )),
            (false, Some(Ok(arrived))) => disagrees(
                format!("a store to {name} is refused"),
                self.describe_arrival(arrived),
            ),
            (false, Some(Err(_)) | None) => Ok(()),
        }
    }
}

/// Whether the walk ends where and as it must. The accessed and dirty bits are the
/// processor's to set at any time, and the leaf's size is the kernel's choice, so
/// neither counts.
fn leads_there(found: &Translation<Gpa>, wanted: &Wanted) -> bool {
    found.address == wanted.gpa
        && found.access.user
        && words::rights(found) == wanted.access
        && found.memory_type == wanted.memory_type
        // A global translation outlives the switch to another process's tables.
        && !found.global
        // Under any other key the rights are not those of the tables: PKRU takes
        // them away, as Linux sets it up.
        && found.pkey.unwrap_or(0) == 0
}

fn known(frame: &Option<Frame>) -> Result<Pfn, Unmet> {
    match frame {
        Some(Ok(pfn)) => Ok(*pfn),
        Some(Err(error @ FrameError::NotPresent { .. })) => {
            disagrees("a page locked in the host's memory", error.to_string())
        }
        Some(Err(
            error @ (FrameError::Open(_)
            | FrameError::Read { .. }
            | FrameError::Hidden
            | FrameError::Moving),
        )) => Err(Unmet::Unheard(error.to_string())),
        None => Err(Unmet::Unheard("no host address to look at".into())),
    }
}
