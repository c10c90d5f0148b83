//! A guest as LibAFL's executor, and what becomes of what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::HarnessError;
use libafl::Error;
use libafl::executors::{Executor, ExitKind, HasObservers};
use libafl::observers::StdMapObserver;
use libafl::state::HasExecutions;
use libafl_bolts::tuples::RefIndexable;

use crate::case::Case;
use crate::engine::{FuzzError, Options};
use crate::finding::{About, Finding};
use crate::minimise::minimise;
use crate::novelty;
use crate::subject::{Found, Pace, Subject};
use crate::verdict::Cause;

/// How long a case is minimised at most.
const MOST_MINIMISING: Duration = Duration::from_secs(120);

pub(crate) type Observers = (StdMapObserver<'static, u8, false>, ());

pub(crate) struct GuestExecutor<'s> {
    pub(crate) subject: &'s mut Subject,
    pub(crate) observers: Observers,
    pub(crate) options: &'s Options,
    pub(crate) about: &'s About,
    pub(crate) findings_dir: PathBuf,
    pub(crate) start: Instant,
    pub(crate) cases: u64,
    pub(crate) findings: Vec<(PathBuf, Finding)>,
    /// How many of them an earlier run found.
    pub(crate) known: usize,
    /// Causes of cases that were minimised.
    pub(crate) tried: BTreeSet<Cause>,
    pub(crate) unheard: BTreeMap<String, String>,
    pub(crate) pages: u64,
    pub(crate) failure: Option<FuzzError>,
}

impl HasObservers for GuestExecutor<'_> {
    type Observers = Observers;

    fn observers(&self) -> RefIndexable<&Self::Observers, Self::Observers> {
        RefIndexable::from(&self.observers)
    }

    fn observers_mut(&mut self) -> RefIndexable<&mut Self::Observers, Self::Observers> {
        RefIndexable::from(&mut self.observers)
    }
}

impl<EM, S: HasExecutions, Z> Executor<EM, Case, S, Z> for GuestExecutor<'_> {
    fn run_target(
        &mut self,
        _fuzzer: &mut Z,
        state: &mut S,
        _manager: &mut EM,
        case: &Case,
    ) -> Result<ExitKind, Error> {
        if self.is_over() {
            // Nothing was run, and nothing is new.
            return Ok(ExitKind::Ok);
        }
        *state.executions_mut() += 1;
        self.try_case(case).map_err(|error| {
            let told = error.to_string();
            self.failure = Some(error);
            Error::unknown(told)
        })
    }
}

impl GuestExecutor<'_> {
    pub(crate) fn is_over(&self) -> bool {
        let Options {
            time,
            cases,
            until_found,
            ..
        } = *self.options;
        time.is_some_and(|time| self.start.elapsed() >= time)
            || cases.is_some_and(|cases| self.cases >= cases)
            || (until_found && self.findings.len() > self.known)
    }

    fn try_case(&mut self, case: &Case) -> Result<ExitKind, FuzzError> {
        self.cases += 1;
        let ran = self.subject.run(case, self.options.pace)?;
        self.pages += ran.pages;
        self.unheard.extend(ran.unheard.clone());
        let Some(found) = ran.found.clone() else {
            novelty::mark(&mut self.observers.0, case, &ran);
            return Ok(ExitKind::Ok);
        };
        // What fails is kept as a finding and not mutated: it would fail again.
        Ok(if self.keep(case, found)? {
            ExitKind::Crash
        } else {
            ExitKind::Ok
        })
    }

    /// Keeps a finding, whole first and then with the fewest operations. `false` when
    /// its cause is known.
    fn keep(&mut self, case: &Case, found: Found) -> Result<bool, FuzzError> {
        // What was minimised once would only come to the same.
        if self.is_known(&found.cause) || !self.tried.insert(found.cause.clone()) {
            return Ok(false);
        }
        let mut short = case.clone();
        short.operations.truncate(found.step + 1);
        let whole = self.finding(&short, found.clone());
        let raw_path = self.findings_dir.join(whole.cause.file_name());
        whole.write(&raw_path)?;
        let (least, found) = self.subject.minimise(&short, found, self.options.pace)?;
        let is_known = self.is_known(&found.cause) && found.cause != whole.cause;
        let least = self.finding(&least, found);
        let path = self.findings_dir.join(least.cause.file_name());
        if !is_known {
            least.write(&path)?;
        }
        if path != raw_path {
            fs::remove_file(&raw_path).map_err(|source| FuzzError::Dir {
                path: raw_path,
                source,
            })?;
        }
        if is_known {
            return Ok(false);
        }
        if self.options.tells {
            eprintln!("mapwitness: found {}: {}", least.cause, path.display());
        }
        self.findings.push((path, least));
        Ok(true)
    }

    fn is_known(&self, cause: &Cause) -> bool {
        self.findings.iter().any(|(_, known)| known.cause == *cause)
    }

    fn finding(&self, case: &Case, found: Found) -> Finding {
        let about = About {
            seed: self.options.seed,
            cases: self.cases,
            ..self.about.clone()
        };
        Finding::of(self.subject.world(), case, found, about)
    }
}

impl Subject {
    /// The fewest operations of a case that fail by the same link or rule, and how.
    ///
    /// # Errors
    /// As [`Subject::run`].
    pub fn minimise(
        &mut self,
        case: &Case,
        found: Found,
        pace: Pace,
    ) -> Result<(Case, Found), HarnessError> {
        let mut last = found.clone();
        let start = Instant::now();
        let least = minimise(case, |case| {
            // Where each try hangs the guest, what is short enough is left at that.
            if start.elapsed() > MOST_MINIMISING {
                return Ok(false);
            }
            let again = self.run(case, pace)?.found;
            Ok::<_, HarnessError>(match again {
                Some(again) if again.verdict.by == found.verdict.by => {
                    last = again;
                    true
                }
                _ => false,
            })
        })?;
        Ok((least, last))
    }
}
