//! What a check found, as data: the JSON document, and what the table is drawn from.

use crate::signals::Signal;
use crate::start::Started;
use serde::Serialize;
use witness::timeline::{self, Counts, Finding, Timeline};
use witness::{Leaves, Link, Links, Mismatch};

/// Outcome of a mapping or of a whole check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was witnessed is as it must be.
    Pass,
    /// Something is not.
    Fail,
    /// It could not be told.
    Error,
}

impl Verdict {
    /// A pass if `good`, else a failure.
    pub const fn of(good: bool) -> Self {
        if good { Self::Pass } else { Self::Fail }
    }
}

/// The host that the guest ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// `kvm` or `soft-npt`.
    pub kind: String,
    /// `uname -r`.
    pub kernel: String,
    /// `ept`, `npt` or `none`.
    pub second_level: String,
    /// Levels of its tables, 4 or 5; `None` where they could not be read.
    pub second_level_levels: Option<u8>,
}

/// The guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestReport {
    /// `uname -r`.
    pub kernel: String,
    /// Levels of its page tables, 4 or 5.
    pub paging_levels: u8,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Whether it booted or was taken up from a snapshot.
    pub started: Started,
}

/// A link that could not be heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unwitnessed {
    /// The link.
    pub link: Link,
    /// Why not.
    pub reason: String,
}

/// One look at a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseReport {
    /// What had been done, such as `before touch`.
    pub name: &'static str,
    /// Pages that had to be present.
    pub present: u64,
    /// Pages that had to be absent.
    pub absent: u64,
    /// Whether all are.
    pub verdict: Verdict,
}

/// One mapping from mmap to munmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingReport {
    /// Name, such as `lazy/odd`, or `lazy/odd: the last page`.
    pub name: String,
    /// Name of the file that was mapped.
    pub file: String,
    /// How the driver maps it.
    pub strategy: String,
    /// Pages of the mapping.
    pub pages: u64,
    /// Pages witnessed by each link while the mapping was in use.
    pub links: Links,
    /// How they were mapped then at both levels, with the memory type in effect.
    pub leaves: Vec<LeavesReport>,
    /// Outcome over all phases.
    pub verdict: Verdict,
    /// Every look at it.
    pub phases: Vec<PhaseReport>,
    /// Phase in which the mismatch was found.
    pub failed_phase: Option<&'static str>,
    /// The first page that is not what it must be.
    pub mismatch: Option<Mismatch>,
    /// When its second-level entries came and went, by KVM's own records. `None` where
    /// nobody asked or these cannot be had.
    pub timeline: Option<Timeline>,
}

/// The timelines of all mappings together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimelineReport {
    /// Outcome over all of them.
    pub verdict: timeline::Verdict,
    /// Sums over all of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// Entries that were not as they must be; the first few of each mapping.
    pub findings: Vec<Finding>,
    /// Tracepoints that this kernel lacks and that could be done without.
    pub absent_tracepoints: Vec<String>,
    /// Why not everything could be told.
    pub unwitnessed: Vec<String>,
}

/// Pages that are mapped alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeavesReport {
    /// How many.
    pub pages: u64,
    /// How.
    #[serde(flatten)]
    pub leaves: Leaves,
}

/// A request that the driver must refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalReport {
    /// What was asked.
    pub name: String,
    /// The answer that the contract wants.
    pub expected: String,
    /// The answer that came.
    pub found: String,
    /// Whether they agree.
    pub verdict: Verdict,
    /// Of a mapping that was granted: the first page that should not be there.
    pub mismatch: Option<Mismatch>,
}

/// Something that the contract says of a mapping's later life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromiseReport {
    /// What was done, such as `lazy/odd: mremap to one page more`.
    pub name: String,
    /// What must come of it.
    pub expected: String,
    /// What came of it.
    pub found: String,
    /// Whether they agree.
    pub verdict: Verdict,
    /// The first page that is not what it must be.
    pub mismatch: Option<Mismatch>,
}

/// Sums over everything that was asked of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Name, such as `lazy/odd`.
    pub name: String,
    /// Its path in the guest.
    pub path: String,
    /// Number of mappings that were followed page by page.
    pub mappings: u64,
    /// Their pages that had to be present and were held against the contract.
    pub pages_checked: u64,
    /// Pages that had to be absent, at any look.
    pub absences_checked: u64,
    /// Pages witnessed by each link.
    pub links: Links,
    /// Number of requests that had to be refused.
    pub refusals: u64,
    /// Number of promises of the contract that were held against what came.
    pub promises: u64,
    /// Outcome over all of this.
    pub verdict: Verdict,
}

/// A whole check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Outcome over everything.
    pub verdict: Verdict,
    /// The host.
    pub host: HostReport,
    /// The guest.
    pub guest: GuestReport,
    /// Variant of the driver, `good` for the real one.
    pub driver_variant: String,
    /// Beginnings of the names of the files that were asked for; empty for all files.
    pub only: Vec<String>,
    /// Device pages that had to be present and were held against their contract.
    pub pages_checked: u64,
    /// Pages that had to be absent and were held against their contract.
    pub absences_checked: u64,
    /// Pages witnessed by each link.
    pub links: Links,
    /// Links that were not heard for every page, with the reason.
    pub unwitnessed: Vec<Unwitnessed>,
    /// When second-level entries came and went. `None` when nobody asked.
    pub timeline: Option<TimelineReport>,
    /// Sums for each file.
    pub files: Vec<FileReport>,
    /// Every mapping.
    pub mappings: Vec<MappingReport>,
    /// Every request that had to be refused.
    pub refusals: Vec<RefusalReport>,
    /// Everything that the contract says of mappings' later life.
    pub promises: Vec<PromiseReport>,
    /// Whether mappings also went through what processes do to them: it is left out when
    /// something simpler is wrong.
    pub operations_tried: bool,
    /// How the guest came to its end, if the driver brought it about before all was
    /// checked.
    pub ended: Option<String>,
    /// Reports of the guest kernel that something is wrong with it.
    pub kernel_complaints: Vec<Signal>,
}

impl Report {
    /// Links out of `required` that were not heard for every page.
    pub fn missing(&self, required: &[Link]) -> Vec<Link> {
        required
            .iter()
            .copied()
            .filter(|link| self.links.get(*link) < self.pages_checked || self.pages_checked == 0)
            .collect()
    }
}
