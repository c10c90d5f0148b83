//! How a case is gone through, and what it came to.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::Coverage;
use harness::model::{Came, Wanted};

use crate::verdict::{Cause, Verdict};

/// How often the pages are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// After the last operation.
    #[default]
    AtTheEnd,
    /// After each operation.
    EachStep,
    /// Never: only results are looked at.
    Never,
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its place in the case.
    pub index: usize,
    /// What it had to come to.
    pub wanted: Wanted,
    /// What it came to; `None` when the guest did not go on.
    pub came: Option<Came>,
}

/// What was wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Place of the operation at or after which it was.
    pub step: usize,
    /// What.
    pub verdict: Verdict,
    /// Its cause.
    pub cause: Cause,
}

/// What a case came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its operations, without those that meant nothing.
    pub steps: Vec<Step>,
    /// The first thing that was wrong.
    pub found: Option<Found>,
    /// Links that could not be heard, with the reason.
    pub unheard: BTreeMap<String, String>,
    /// Pages that were looked at.
    pub pages: u64,
    /// What ran in the guest's kernel for the operations; nothing where that is not told.
    pub coverage: Coverage,
}

/// Where the time goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Bringing the guest back.
    pub reset: Duration,
    /// The guest's work.
    pub guest: Duration,
    /// Looking at pages and at the kernel's notes.
    pub evidence: Duration,
    /// Taking everything away, and looking at what is left.
    pub leavings: Duration,
    /// Reading what ran.
    pub coverage: Duration,
}

impl Times {
    /// Adds what another core or another stretch of time took.
    pub fn add(&mut self, other: &Self) {
        self.reset += other.reset;
        self.guest += other.guest;
        self.evidence += other.evidence;
        self.leavings += other.leavings;
        self.coverage += other.coverage;
    }
}
