//! What a run came to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::edges::{Edges, Seen};
use crate::error::FuzzError;
use crate::finding::Finding;
use crate::progress::Total;
use crate::ran::Times;
use crate::shared::Shared;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// On how many cores.
    pub cores: usize,
    /// Cases that were gone through, without those for minimising.
    pub cases: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// The same of all runs in the folder.
    pub total: Total,
    /// Cases in the corpus.
    pub corpus: usize,
    /// Cases that came from other cores or machines.
    pub imported: usize,
    /// Pairs of operations and outcomes that were seen.
    pub outcome_pairs: usize,
    /// Edges of the guest kernel's code that were gone along; `None` where it does not tell.
    pub edges: Option<Edges>,
    /// Cases of which only the first edges are known.
    pub cut_off: u64,
    /// What was found, with the file that has it.
    pub findings: Vec<(PathBuf, Finding)>,
    /// Where the time went.
    pub shares: Shares,
    /// Links that could not be heard, each with the reason.
    pub unheard: Vec<(String, String)>,
    /// Pages that were looked at.
    pub pages: u64,
}

/// Parts of the time, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// Bringing the guest back.
    pub reset: f64,
    /// The guest's work.
    pub guest: f64,
    /// Looking at pages and at the kernel's notes.
    pub evidence: f64,
    /// Taking everything away, and looking at what is left.
    pub leavings: f64,
    /// What ran: reading it, and setting maps by it.
    pub coverage: f64,
    /// Everything else.
    pub engine: f64,
}

/// What a core came to.
pub(crate) struct Part {
    pub(crate) times: Times,
    pub(crate) seen: Seen,
    pub(crate) is_covered: bool,
    pub(crate) corpus: BTreeSet<String>,
    pub(crate) imported: usize,
    pub(crate) unheard: BTreeMap<String, String>,
    pub(crate) pages: u64,
}

impl Outcome {
    /// Of all cores together.
    pub(crate) fn of(shared: Shared, parts: Vec<Part>) -> Result<Self, FuzzError> {
        let (cases, elapsed) = (shared.cases(), shared.elapsed());
        let total = shared.finish()?;
        let cores = parts.len();
        let (mut seen, mut times) = (Seen::new(), Times::default());
        let (mut corpus, mut unheard) = (BTreeSet::new(), BTreeMap::new());
        let (mut pages, mut imported, mut is_covered) = (0, 0, false);
        for part in parts {
            seen.merge(&part.seen);
            times.add(&part.times);
            corpus.extend(part.corpus);
            unheard.extend(part.unheard);
            pages += part.pages;
            imported += part.imported;
            is_covered |= part.is_covered;
        }
        let of_all = elapsed.saturating_mul(u32::try_from(cores).unwrap_or(1));
        let findings = std::mem::take(&mut shared.found().findings);
        Ok(Self {
            cores,
            cases,
            elapsed,
            total,
            corpus: corpus.len(),
            imported,
            outcome_pairs: seen.outcomes.count(),
            edges: is_covered.then(|| seen.edges()),
            cut_off: seen.cut_off,
            findings,
            shares: Shares::of(&times, of_all),
            unheard: unheard.into_iter().collect(),
            pages,
        })
    }
}

impl Shares {
    fn of(times: &Times, elapsed: Duration) -> Self {
        let whole = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let share = |part: Duration| part.as_secs_f64() / whole;
        let (reset, guest) = (share(times.reset), share(times.guest));
        let (evidence, leavings) = (share(times.evidence), share(times.leavings));
        let coverage = share(times.coverage);
        Self {
            reset,
            guest,
            evidence,
            leavings,
            coverage,
            engine: (1.0 - reset - guest - evidence - leavings - coverage).max(0.0),
        }
    }
}
