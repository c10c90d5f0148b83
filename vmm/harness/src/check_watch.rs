//! The timeline within the standard check.

use witness::second_level::chain;
use witness::timeline::{Counts, Timeline, Verdict};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec};
use crate::report::{self, MappingReport, TimelineReport};
use crate::watch::{Watch, blame};

/// What a mismatch that only the timeline saw is listed under.
const PHASE: &str = "timeline";
/// What else is done in a check: requests that are refused, promises that are kept.
const BETWEEN: &str = "between the mappings";

/// A check's timeline, if it has one.
pub(crate) struct Watching {
    watch: Option<Watch>,
    report: TimelineReport,
}

impl Watching {
    /// Nobody watches: for looks that ask for no timeline.
    pub fn off() -> Self {
        Self {
            watch: None,
            report: TimelineReport {
                verdict: Verdict::Pass,
                counts: Counts::default(),
                findings: Vec::new(),
                absent_tracepoints: Vec::new(),
                unwitnessed: Vec::new(),
            },
        }
    }

    /// Begins; a host without KVM's records is no error.
    pub fn start(guest: &mut Guest) -> Self {
        let Self { mut report, .. } = Self::off();
        let watch = match Watch::start(guest) {
            Ok(watch) => {
                report.absent_tracepoints = watch.absent();
                Some(watch)
            }
            Err(error) => {
                report.unwitnessed.push(chain(&error));
                None
            }
        };
        Self { watch, report }
    }

    /// As [`Watch::phase`].
    pub fn phase(&mut self, guest: &Guest, name: &str) {
        if let Some(watch) = &mut self.watch {
            watch.phase(guest, name);
        }
    }

    /// As [`Watch::used`].
    pub fn used(&mut self, guest: &Guest, spec: &MappingSpec) {
        if let Some(watch) = &mut self.watch {
            watch.used(guest, spec);
        }
    }

    /// Begins a mapping's course without any entry of its windows. What happened since
    /// the last course belongs to none.
    pub fn begin(&mut self, guest: &mut Guest, spec: &MappingSpec) -> Result<(), HarnessError> {
        self.withdraw(guest, spec)?;
        self.between(guest);
        self.phase(guest, "mmap");
        Ok(())
    }

    /// As [`Watch::withdraw`], where anything may be left.
    pub fn withdraw(&mut self, guest: &mut Guest, spec: &MappingSpec) -> Result<(), HarnessError> {
        if let Some(watch) = &mut self.watch
            && !watch.is_empty(guest)
        {
            watch.withdraw(guest, spec)?;
        }
        Ok(())
    }

    /// Puts what happened since the last call of this kind into a mapping's report.
    pub fn finish(&mut self, guest: &Guest, mapping: Option<&Mapping>, report: &mut MappingReport) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        let timeline = watch.finish(guest);
        if timeline.verdict == Verdict::Fail {
            report.verdict = report::Verdict::Fail;
            if report.mismatch.is_none() {
                report.mismatch = blame(guest, mapping, &timeline);
                report.failed_phase = Some(PHASE);
            }
        }
        watch.phase(guest, BETWEEN);
        self.note(&report.name, &timeline);
        report.timeline = Some(timeline);
    }

    /// The timeline of the whole check.
    pub fn report(mut self, guest: &Guest) -> TimelineReport {
        self.between(guest);
        if self.report.verdict == Verdict::Pass && !self.report.unwitnessed.is_empty() {
            self.report.verdict = Verdict::Unwitnessed;
        }
        self.report
    }

    fn between(&mut self, guest: &Guest) {
        if let Some(watch) = &mut self.watch {
            let timeline = watch.finish(guest);
            self.note(BETWEEN, &timeline);
        }
    }

    fn note(&mut self, during: &str, timeline: &Timeline) {
        self.report.counts.add(&timeline.counts);
        let reasons = timeline.unwitnessed.iter();
        self.report
            .unwitnessed
            .extend(reasons.map(|reason| format!("{during}: {reason}")));
        if timeline.verdict == Verdict::Fail {
            self.report.verdict = Verdict::Fail;
            self.report.findings.extend(timeline.findings.clone());
        }
    }
}
