//! Holds the evidence for a page against its contract. Pure.

use addr::Gpa;
use monitor::SlotUse;
use serde::Serialize;
use walk::{Steps, Translation};

use crate::contract::{Access, DevicePage, Expected, Plan};
use crate::evidence::PageEvidence;
use crate::host_frame::FrameError;
use crate::link::Link;
use crate::stamp::{IDENTITY, LAST, Seen, Stamps};

/// The first link that disagrees, with what it takes to understand it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The link.
    pub link: Link,
    /// Page within the mapping.
    pub page: u64,
    /// Guest virtual address of that page.
    pub gva: String,
    /// What the contract wants.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// Each step of the walk of the guest's tables, from the root down.
    pub guest_walk: Vec<String>,
    /// The page in the host: memslot and frames, as far as the links held.
    pub host: Vec<String>,
}

/// What became of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// These links were witnessed and agree.
    Pass(Vec<Link>),
    /// This one does not.
    Fail(Box<Mismatch>),
}

/// Why a link that could have spoken was not heard; empty when none was.
pub type Unwitnessed = Option<(Link, String)>;

/// Judges one page, numbered `page` in its mapping. Second-level evidence does
/// not exist yet, so that link is never among those that pass.
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
    match expected {
        Expected::Absent => (judge.absent(), None),
        Expected::Present {
            page,
            access,
            memory_type,
        } => judge.present(*page, *access, *memory_type),
    }
}

struct Judge<'a> {
    plan: &'a Plan,
    stamps: &'a Stamps,
    page: u64,
    evidence: &'a PageEvidence,
}

/// What a link wanted and what it found.
type Disagreement = (Link, String, String);

impl Judge<'_> {
    fn fail(&self, (link, expected, found): Disagreement) -> PageVerdict {
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
        match &self.evidence.walked {
            Err(error) if error.is_not_present() => {
                PageVerdict::Pass(vec![Link::Contract, Link::GuestWalk])
            }
            Err(error) => self.fail((Link::GuestWalk, "nothing mapped".into(), error.to_string())),
            Ok(found) => self.fail((
                Link::GuestWalk,
                "nothing mapped".into(),
                self.describe(found),
            )),
        }
    }

    fn present(
        &self,
        page: DevicePage,
        access: Access,
        memory_type: walk::MemoryType,
    ) -> (PageVerdict, Unwitnessed) {
        let Some(gpa) = self.plan.gpa(page) else {
            let name = self.plan.name(page);
            let unmet = (Link::Contract, name, "the device has no such page".into());
            return (self.fail(unmet), None);
        };
        let mut links = vec![Link::Contract];
        if let Err(unmet) = self.guest_walk(gpa, access, memory_type) {
            return (self.fail(unmet), None);
        }
        links.push(Link::GuestWalk);
        if let Err(unmet) = self.memslot(page) {
            return (self.fail(unmet), None);
        }
        links.push(Link::Memslot);
        let mut unwitnessed = None;
        match self.host_frame(page) {
            Ok(()) => links.push(Link::HostFrame),
            Err(FrameVerdict::Disagrees(unmet)) => return (self.fail(unmet), None),
            Err(FrameVerdict::Unknown(why)) => unwitnessed = Some((Link::HostFrame, why)),
        }
        if let Some(seen) = &self.evidence.seen {
            if let Err(unmet) = self.stamp(page, seen) {
                return (self.fail(unmet), unwitnessed);
            }
            links.push(Link::Stamp);
        }
        (PageVerdict::Pass(links), unwitnessed)
    }

    fn guest_walk(
        &self,
        gpa: Gpa,
        access: Access,
        memory_type: walk::MemoryType,
    ) -> Result<(), Disagreement> {
        let wanted = format!(
            "gpa {}, user {access}, {memory_type}",
            self.plan.describe(gpa)
        );
        let unmet = |found| Err((Link::GuestWalk, wanted.clone(), found));
        let found = match &self.evidence.walked {
            Ok(found) => found,
            Err(error) => return unmet(error.to_string()),
        };
        let rights = Access {
            read: found.access.read,
            write: found.access.write,
            exec: found.access.exec,
        };
        let right = found.address == gpa
            && found.access.user
            && rights == access
            && found.memory_type == memory_type;
        if right {
            Ok(())
        } else {
            unmet(self.describe(found))
        }
    }

    fn memslot(&self, page: DevicePage) -> Result<(), Disagreement> {
        let wanted = || format!("the memslot of {}", self.plan.name(page));
        match self.evidence.slot {
            Some(hit) if hit.used_for == SlotUse::Window(page.window) && hit.page == page.page => {
                Ok(())
            }
            Some(hit) => Err((
                Link::Memslot,
                wanted(),
                format!(
                    "page {} of memslot {} ({:?})",
                    hit.page, hit.slot, hit.used_for
                ),
            )),
            None => Err((Link::Memslot, wanted(), "no memslot".into())),
        }
    }

    fn host_frame(&self, page: DevicePage) -> Result<(), FrameVerdict> {
        let frame = |found: &Option<Result<addr::Pfn, FrameError>>| match found {
            Some(Ok(pfn)) => Ok(*pfn),
            Some(Err(error)) => Err(FrameVerdict::of(error)),
            None => Err(FrameVerdict::Unknown("no host address to look at".into())),
        };
        let device = frame(&self.evidence.device_frame)?;
        let slot = frame(&self.evidence.slot_frame)?;
        if slot == device {
            return Ok(());
        }
        Err(FrameVerdict::Disagrees((
            Link::HostFrame,
            format!("pfn {device}, the frame of {}", self.plan.name(page)),
            format!("pfn {slot}"),
        )))
    }

    fn stamp(&self, page: DevicePage, seen: &Seen) -> Result<(), Disagreement> {
        let name = self.plan.name(page);
        let loaded = seen
            .loaded
            .as_ref()
            .map_err(|got| (Link::Stamp, format!("a load from {name}"), got.clone()))?;
        for (offset, found) in [(IDENTITY, loaded.identity), (LAST, loaded.last)] {
            let wanted = self.stamps.word(page, offset);
            if found != wanted {
                return Err((
                    Link::Stamp,
                    format!("{wanted:#018x} at byte {offset:#x}, the stamp of {name}"),
                    self.describe_stamp(found),
                ));
            }
        }
        let wanted = format!("the guest's store arrives in {name}");
        match &seen.stored {
            Some(Ok(arrived)) if *arrived != [page] => {
                Err((Link::Stamp, wanted, self.describe_arrival(arrived)))
            }
            Some(Err(got)) => Err((Link::Stamp, wanted, got.clone())),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn describe(&self, found: &Translation<Gpa>) -> String {
        let rights = Access {
            read: found.access.read,
            write: found.access.write,
            exec: found.access.exec,
        };
        let mode = if found.access.user { "user" } else { "kernel" };
        format!(
            "gpa {}, {mode} {rights}, {}",
            self.plan.describe(found.address),
            found.memory_type
        )
    }

    fn describe_stamp(&self, found: u64) -> String {
        match self.stamps.page_of(found) {
            Some(page) => format!("{found:#018x}, the stamp of {}", self.plan.name(page)),
            None => format!("{found:#018x}"),
        }
    }

    fn describe_arrival(&self, arrived: &[DevicePage]) -> String {
        if arrived.is_empty() {
            return "it arrives nowhere in the device".into();
        }
        let names: Vec<String> = arrived.iter().map(|page| self.plan.name(*page)).collect();
        format!("it arrives in {}", names.join(", "))
    }

    fn walk_lines(&self) -> Vec<String> {
        let (steps, end) = match &self.evidence.walked {
            Ok(found) => (Some(&found.steps), self.describe(found)),
            Err(error) => (error.steps(), error.to_string()),
        };
        steps
            .into_iter()
            .flat_map(Steps::iter)
            .map(|step| step.to_string())
            .chain([format!("-> {end}")])
            .collect()
    }

    fn host_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(hit) = self.evidence.slot {
            lines.push(format!(
                "memslot {} ({:?}), page {}: hva {}",
                hit.slot, hit.used_for, hit.page, hit.hva
            ));
        }
        if let Some(Ok(pfn)) = &self.evidence.slot_frame {
            lines.push(format!("host frame behind it: pfn {pfn}"));
        }
        if let Some(Ok(pfn)) = &self.evidence.device_frame {
            lines.push(format!("host frame of the expected page: pfn {pfn}"));
        }
        lines
    }
}

/// Why the host-frame link does not pass.
enum FrameVerdict {
    Disagrees(Disagreement),
    Unknown(String),
}

impl FrameVerdict {
    /// A frame that is gone is a finding; one that cannot be read is not.
    fn of(error: &FrameError) -> Self {
        match error {
            FrameError::NotPresent { .. } => Self::Disagrees((
                Link::HostFrame,
                "a page locked in the host's memory".into(),
                error.to_string(),
            )),
            FrameError::Open(_) | FrameError::Read { .. } | FrameError::Hidden => {
                Self::Unknown(error.to_string())
            }
        }
    }
}
