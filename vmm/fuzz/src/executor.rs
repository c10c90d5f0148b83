//! A guest as LibAFL's executor, and what becomes of what it finds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::HarnessError;
use libafl::Error;
use libafl::executors::{Executor, ExitKind, HasObservers};
use libafl::observers::{HitcountsMapObserver, StdMapObserver};
use libafl::state::HasExecutions;
use libafl_bolts::tuples::RefIndexable;

use crate::case::Case;
use crate::edges::Seen;
use crate::engine::{Guidance, Options};
use crate::error::FuzzError;
use crate::finding::{About, Finding};
use crate::minimise::minimise;
use crate::novelty;
use crate::ran::{Found, Pace, Ran};
use crate::shared::Shared;
use crate::subject::Subject;

/// How long a case is minimised at most.
const MOST_MINIMISING: Duration = Duration::from_secs(120);

pub(crate) type Map = StdMapObserver<'static, u8, false>;
/// Outcomes, edges of the driver, edges of mm/.
pub(crate) type Observers = (Map, (HitcountsMapObserver<Map>, (Map, ())));

pub(crate) struct GuestExecutor<'s> {
    pub(crate) subject: &'s mut Subject,
    pub(crate) observers: Observers,
    pub(crate) options: &'s Options,
    pub(crate) about: &'s About,
    pub(crate) findings_dir: PathBuf,
    pub(crate) shared: &'s Shared,
    /// Whether cases come from elsewhere, too.
    pub(crate) has_peers: bool,
    /// Edges that any case has had.
    pub(crate) seen: Seen,
    pub(crate) unheard: BTreeMap<String, String>,
    pub(crate) pages: u64,
    /// Time that went into the maps.
    pub(crate) marking: Duration,
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
        // Whoever sent it may be about another driver, or want too much.
        let sensible = self.has_peers.then(|| self.subject.world().sense(case));
        self.try_case(sensible.as_ref().unwrap_or(case))
            .map_err(|error| {
                let told = error.to_string();
                self.failure = Some(error);
                Error::unknown(told)
            })
    }
}

impl GuestExecutor<'_> {
    pub(crate) fn is_over(&self) -> bool {
        self.shared.is_over(self.options)
    }

    fn try_case(&mut self, case: &Case) -> Result<ExitKind, FuzzError> {
        let number = self.shared.count()?;
        let mut run = || self.subject.run(case, self.options.pace);
        let ran = run()?.unless_it_hung(number, run)?;
        self.pages += ran.pages;
        self.unheard.extend(ran.unheard.clone());
        let Some(found) = ran.found.clone() else {
            self.mark(case, &ran);
            return Ok(ExitKind::Ok);
        };
        // What fails is kept as a finding and not mutated: it would fail again.
        Ok(if self.keep(case, found, number)? {
            ExitKind::Crash
        } else {
            ExitKind::Ok
        })
    }

    /// Sets the entries of the maps by which LibAFL tells what is new.
    fn mark(&mut self, case: &Case, ran: &Ran) {
        let (outcomes, (driver, (mm, ()))) = &mut self.observers;
        let start = Instant::now();
        self.seen.outcomes.last.fill(0);
        novelty::mark(&mut self.seen.outcomes.last, case, ran);
        self.seen.outcomes.note();
        if let Some(code) = self.subject.code() {
            self.seen.take(code, &ran.coverage);
        }
        let guidance = self.options.guidance;
        if guidance != Guidance::Off {
            outcomes.copy_from_slice(&self.seen.outcomes.last);
        }
        if guidance == Guidance::Edges {
            driver.copy_from_slice(&self.seen.driver.last);
            // How often a loop of mm/ goes round says how many pages there are, not what
            // the driver does.
            for (entry, count) in mm.iter_mut().zip(&self.seen.mm.last) {
                *entry = (*count).min(1);
            }
        }
        self.marking += start.elapsed();
    }

    /// Keeps a finding, whole first and then with the fewest operations. `false` when
    /// its cause is known.
    fn keep(&mut self, case: &Case, found: Found, number: u64) -> Result<bool, FuzzError> {
        if !self.shared.found().is_news(&found.cause) {
            return Ok(false);
        }
        let mut short = case.clone();
        short.operations.truncate(found.step + 1);
        let whole = self.finding(&short, found.clone(), number);
        let raw_path = self.findings_dir.join(whole.cause.file_name());
        whole.write(&raw_path)?;
        let (least, found) = self.subject.minimise(&short, found, self.options.pace)?;
        let mut all = self.shared.found();
        let is_known = all.is_known(&found.cause) && found.cause != whole.cause;
        let least = self.finding(&least, found, number);
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
        all.findings.push((path, least));
        Ok(true)
    }

    fn finding(&self, case: &Case, found: Found, number: u64) -> Finding {
        let about = About {
            seed: self.options.seed,
            cases: number,
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
