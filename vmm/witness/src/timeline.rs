//! When second-level entries came and went: KVM's own records, followed entry by
//! entry and held against the frames that the host gave to the device.
//!
//! What this can prove, and what not:
//! - An entry is made when a page is reached: by an access of the guest, which leaves
//!   a fault record of a vCPU's thread, or by the host's own pre-fault, which runs on a
//!   thread of its own. mmap in the guest makes none. So the records show when the guest
//!   first reached a page since its entry was last dropped; whether its own tables were
//!   filled at mmap or at a touch is the guest walk's to say.
//! - Accesses after the first leave no record. To see the next one, the window is
//!   withdrawn, upon which KVM drops all entries that lead there.
//! - munmap in the guest drops no entry: KVM knows memslots, not mappings. What must be
//!   gone after a memslot's end, or after memory was withdrawn, is.
//! - A wrong entry that is gone again before anybody looks at the tables is seen here and
//!   nowhere else.
//!
//! Records name no VM. Those of the threads that run this VM's vCPUs or pre-fault for it
//! are its own. Those of other threads (memslot changes by any thread of the process,
//! page migration by the kernel's) only take entries away; they are this VM's where they
//! end an entry that is known, or lead to a frame of its windows. A fault of another VM
//! of the same process is told apart by its thread.
//!
//! The witness trusts itself only as far as it can account for everything: no record
//! lost, each entry's end preceded by its beginning, and the tables, where they can be
//! read, in agreement with what the records add up to. Else nothing is witnessed.

mod ledger;
mod lines;
mod replay;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::contract::DevicePage;

pub use ledger::{Frames, Ledger};
pub use replay::{InTables, Replay};

/// Outcome of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All that happened is accounted for and as it must be.
    Pass,
    /// An entry was not as it must be.
    Fail,
    /// It could not be told.
    Unwitnessed,
}

/// An entry that was not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was being done.
    pub phase: String,
    /// Place in the order of records.
    pub order: u64,
    /// The page, in words.
    pub name: String,
    /// The page.
    #[serde(skip)]
    pub page: DevicePage,
    /// What had to be.
    pub expected: String,
    /// What was.
    pub found: String,
}

/// Pages that the guest reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// What was being done.
    pub phase: String,
    /// How many pages it reached, each counted at its first fault.
    pub pages: u64,
}

/// Counts over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records about this VM.
    pub events: u64,
    /// Records about somebody else, which were left out.
    pub foreign: u64,
    /// Records lost, as far as their number is known.
    pub lost: u64,
    /// Entries that came to map a page.
    pub set: u64,
    /// Those of them that were made for an access of the guest.
    pub set_by_guest: u64,
    /// Those of them that were made for the host's own pre-fault.
    pub set_by_host: u64,
    /// Entries that went on to map a page, with other bits.
    pub changed: u64,
    /// Entries that ceased to map a page.
    pub zapped: u64,
    /// Accesses that left the guest over a missing or narrower entry.
    pub faults: u64,
}

impl Counts {
    /// Adds those of `other`.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.foreign += other.foreign;
        self.lost += other.lost;
        self.set += other.set;
        self.set_by_guest += other.set_by_guest;
        self.set_by_host += other.set_by_host;
        self.changed += other.changed;
        self.zapped += other.zapped;
        self.faults += other.faults;
    }
}

/// What the records tell of one stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Outcome.
    pub verdict: Verdict,
    /// Counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// When the guest reached pages.
    pub reached: Vec<Reached>,
    /// Entries that were left when their memory had been withdrawn.
    pub left: u64,
    /// Whether the tables were read again and agree with the records.
    pub tables_agree: bool,
    /// Entries that were not as they must be; the first few of them.
    pub findings: Vec<Finding>,
    /// Why it could not be told.
    pub unwitnessed: Vec<String>,
    /// What happened, in order, for people.
    pub course: Vec<String>,
}
