//! What evidence costs: the same cases with it and without it, by turns.

use std::time::{Duration, Instant};

use harness::HarnessError;

use crate::case::Case;
use crate::ran::{Pace, Times};
use crate::subject::Subject;

/// The time that the same cases took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Cases that were gone through each way.
    pub cases: usize,
    /// Their operations.
    pub operations: usize,
    /// With all evidence.
    pub with: Duration,
    /// The parts of that.
    pub parts: Times,
    /// The reset and the guest's own work alone.
    pub without: Duration,
    /// The same operations with one stop of the guest for many, and no reset.
    pub bare: Duration,
}

impl Costs {
    /// Cases per second with evidence, of those without.
    pub fn ratio(&self) -> f64 {
        self.without.as_secs_f64() / self.with.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Goes through each case with evidence and without, in an order that changes from case to
/// case: what slows the machine down meanwhile slows both.
///
/// # Errors
/// As [`Subject::run`]; a case that fails is no error, and is left out.
pub fn costs(subject: &mut Subject, cases: &[Case]) -> Result<Costs, HarnessError> {
    let mut costs = Costs::default();
    // What is opened once for a process is not what a case costs. Where the second level's
    // tables cannot be read, each look says so.
    let _ = witness::second_level::host();
    if let Some(case) = cases.last() {
        subject.run(case, Pace::AtTheEnd)?;
    }
    for (index, case) in cases.iter().enumerate() {
        subject.take_times();
        let (with, without, parts);
        if index % 2 == 0 {
            with = timed(subject, case, Pace::AtTheEnd)?;
            parts = subject.take_times();
            without = timed(subject, case, Pace::Never)?;
        } else {
            without = timed(subject, case, Pace::Never)?;
            subject.take_times();
            with = timed(subject, case, Pace::AtTheEnd)?;
            parts = subject.take_times();
        }
        let (Some(with), Some(without)) = (with, without) else {
            continue;
        };
        costs.cases += 1;
        costs.operations += case.operations.len();
        costs.with += with;
        costs.without += without;
        costs.parts.add(&parts);
        costs.bare += subject.bare(case)?;
    }
    Ok(costs)
}

/// How long a case takes; `None` for one that fails, which ends early.
fn timed(subject: &mut Subject, case: &Case, pace: Pace) -> Result<Option<Duration>, HarnessError> {
    let start = Instant::now();
    let ran = subject.run(case, pace)?;
    let elapsed = start.elapsed();
    Ok(ran.found.is_none().then_some(elapsed))
}
