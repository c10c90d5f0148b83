//! The part of the standard check that does to mappings whatever a process can.

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::FileContract;
use witness::Mismatch;

use super::Subject;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::model::{Model, Wrong};
use crate::observe::Judged;
use crate::report::{PromiseReport, Verdict};

/// More pages would only take longer.
const MOST_NPAGES: u64 = 64;

/// What every scenario must come to.
const AS_PREDICTED: &str = "each result, and each page of each process, as the model has it";

/// Goes through every scenario on the smallest file of each strategy that is large
/// enough. A file that fails is left at that: what it has left behind would spoil what
/// follows, also for other files.
///
/// # Errors
/// [`HarnessError`] when that cannot be done.
pub(crate) fn check_operations(
    guest: &mut Guest,
    files: &[Arc<FileContract>],
) -> Result<Vec<PromiseReport>, HarnessError> {
    let mut reports = Vec::new();
    let mut tally = Judged::default();
    for subject in subjects(files) {
        let plan = guest.plan().clone();
        let mut model = Model::new(files.to_vec(), plan, guest.current_pid());
        for scenario in subject.scenarios() {
            let found = guest.run_scenario(&mut model, &scenario, &mut tally)?;
            let name = match files.get(subject.file) {
                Some(file) => format!("{}: {}", file.name, scenario.name),
                None => scenario.name.to_owned(),
            };
            let report = match found {
                None => passed(name),
                Some(finding) => {
                    let after = format!("{name}, after {:?}", finding.operation.call);
                    reports.push(failed(after, finding.wrong));
                    return Ok(reports);
                }
            };
            reports.push(report);
        }
    }
    Ok(reports)
}

fn passed(name: String) -> PromiseReport {
    PromiseReport {
        name,
        expected: AS_PREDICTED.into(),
        found: AS_PREDICTED.into(),
        verdict: Verdict::Pass,
        mismatch: None,
    }
}

fn failed(name: String, wrong: Wrong) -> PromiseReport {
    let (expected, found, mismatch): (_, _, Option<Mismatch>) = match wrong {
        Wrong::Outcome(surprise) => {
            let found = surprise.came.to_string();
            (surprise.wanted.to_string(), found, None)
        }
        Wrong::Page(mismatch) => {
            let found = mismatch.found.clone();
            (mismatch.expected.clone(), found, Some(*mismatch))
        }
    };
    PromiseReport {
        name,
        expected,
        found,
        verdict: Verdict::Fail,
        mismatch,
    }
}

/// One subject for each strategy, in the order of the files.
fn subjects(files: &[Arc<FileContract>]) -> Vec<Subject> {
    let mut smallest: BTreeMap<&str, (u64, Subject)> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let npages: u64 = file.ranges.iter().map(|range| range.npages).sum();
        if npages > MOST_NPAGES {
            continue;
        }
        let Some(subject) = Subject::of(files, index) else {
            continue;
        };
        // A file that may be written to has more to show.
        let rank = if subject.prot.write {
            npages
        } else {
            MOST_NPAGES + npages
        };
        let known = smallest.get(file.strategy.as_str());
        if known.is_none_or(|(least, _)| rank < *least) {
            smallest.insert(&file.strategy, (rank, subject));
        }
    }
    let mut subjects: Vec<Subject> = smallest.into_values().map(|(_, subject)| subject).collect();
    subjects.sort_by_key(|subject| subject.file);
    subjects
}
