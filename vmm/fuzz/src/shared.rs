//! What all cores of a run have in common.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::Options;
use crate::error::FuzzError;
use crate::finding::Finding;
use crate::folder;
use crate::progress::{Progress, Total};
use crate::verdict::Cause;

/// What was found, and how far the run has come.
pub(crate) struct Shared {
    start: Instant,
    cases: AtomicU64,
    ends: AtomicBool,
    found: Mutex<Found>,
    progress: Mutex<Progress>,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) findings: Vec<(PathBuf, Finding)>,
    /// How many of them an earlier run found.
    known: usize,
    /// Causes of cases that were minimised, or are just now.
    tried: BTreeSet<Cause>,
}

impl Found {
    pub(crate) fn is_known(&self, cause: &Cause) -> bool {
        self.findings.iter().any(|(_, known)| known.cause == *cause)
    }

    /// Whether a case of this cause is worth being minimised. It is once: all others would
    /// come to the same.
    pub(crate) fn is_news(&mut self, cause: &Cause) -> bool {
        !self.is_known(cause) && self.tried.insert(cause.clone())
    }
}

impl Shared {
    /// Begins a run with the findings of this folder.
    pub(crate) fn begin(dir: &Path, findings_dir: &Path) -> Result<Self, FuzzError> {
        let findings = folder::findings(findings_dir)?;
        let found = Found {
            known: findings.len(),
            findings,
            tried: BTreeSet::new(),
        };
        Ok(Self {
            start: Instant::now(),
            cases: AtomicU64::new(0),
            ends: AtomicBool::new(false),
            found: Mutex::new(found),
            progress: Mutex::new(Progress::begin(dir)?),
        })
    }

    pub(crate) fn found(&self) -> MutexGuard<'_, Found> {
        held(&self.found)
    }

    pub(crate) fn earlier_runs(&self) -> u64 {
        held(&self.progress).earlier_runs()
    }

    /// Cases of all cores so far.
    pub(crate) fn cases(&self) -> u64 {
        self.cases.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Counts a case that is about to be gone through. Gives its number, from 1.
    pub(crate) fn count(&self) -> Result<u64, FuzzError> {
        let cases = self.cases.fetch_add(1, Ordering::Relaxed) + 1;
        held(&self.progress).tell(cases, self.start.elapsed())?;
        Ok(cases)
    }

    /// Ends the run on all cores.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self, options: &Options) -> bool {
        let Options {
            time,
            cases,
            until_found,
            ref ends,
            ..
        } = *options;
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let found_one = || {
            let found = self.found();
            found.findings.len() > found.known
        };
        is_set(&self.ends)
            || ends.as_deref().is_some_and(is_set)
            || time.is_some_and(|time| self.start.elapsed() >= time)
            || cases.is_some_and(|cases| self.cases() >= cases)
            || (until_found && found_one())
    }

    /// Writes down how far it has come in the end.
    pub(crate) fn finish(&self) -> Result<Total, FuzzError> {
        held(&self.progress).end(self.cases(), self.start.elapsed())
    }
}

/// Data behind these locks is whole between any two statements that change it.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
