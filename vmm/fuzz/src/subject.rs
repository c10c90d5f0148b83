//! A driver in a guest that goes back to the same state before each case.

mod looking;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::FileContract;
use guest_kernel::KernelFacts;
use harness::model::{Call, Model, Operation, Process, Wanted, Wrong};
use harness::own_driver;
use harness::{CodeMap, Driver, Guest, GuestSnapshot, HarnessError};
use wire::Request;

use crate::areas::Inside;
use crate::case::Case;
use crate::counts;
use crate::leavings::Leavings;
use crate::ran::{Found, Pace, Ran, Step, Times};
use crate::verdict::{Cause, Verdict, kind};
use crate::world::World;

/// Files of more pages take too long to be looked at as a whole.
const MOST_NPAGES: u64 = 2048;

/// A driver that is fuzzed.
pub struct Subject {
    guest: Guest,
    snapshot: GuestSnapshot,
    facts: KernelFacts,
    world: Arc<World>,
    inside: Inside,
    /// What its kernel complained of before any case.
    known_reports: usize,
    /// What must be left after a case.
    before: Leavings,
    times: Times,
    /// Name of the driver's module, as lsmod(8) shows it.
    module: String,
    /// Where its code lies, if the guest's kernel tells what of it ran.
    code: Option<CodeMap>,
    /// Whether the device had less of a window in any case so far. What KVM notes of pages that
    /// were touched meanwhile outlives a reset, and is out of date then.
    had_less: bool,
    /// Cases that were gone through, while they are written down.
    noted: Option<Vec<Case>>,
}

impl Subject {
    /// A driver in a guest that has just greeted. It is loaded here.
    ///
    /// # Errors
    /// [`HarnessError`] when it cannot be loaded, or the guest's state not be taken.
    pub fn load(
        mut guest: Guest,
        facts: KernelFacts,
        driver: &Driver,
        is_own: bool,
    ) -> Result<Self, HarnessError> {
        guest.load_modules(driver)?;
        let plan = guest.plan().clone();
        // Buffers are there once the driver has told the device of them.
        let files = match is_own {
            true => own_driver::files(&plan),
            false => driver.files.clone(),
        };
        let files: Vec<_> = files.into_iter().filter(|it| is_small(it)).collect();
        let shown = |window: &&str| {
            let mut backings = files.iter().flat_map(|file| &file.ranges);
            backings.any(|range| match &range.backing {
                contract::Backing::Window { name, .. } => name == window,
                contract::Backing::Buffer { .. } => false,
            })
        };
        let windows = plan.windows.iter().enumerate();
        let revocable = windows
            .filter(|(_, window)| is_own && shown(&window.name.as_str()))
            .map(|(index, _)| index)
            .collect();
        let world = World {
            files,
            plan,
            revocable,
        };
        let before = Leavings::of(&guest, &facts)?;
        let snapshot = guest.snapshot()?;
        let mut subject = Self {
            known_reports: guest.kernel_signals()?.len(),
            guest,
            snapshot,
            facts,
            world: Arc::new(world),
            inside: Inside::default(),
            before,
            times: Times::default(),
            module: module_name(driver),
            code: None,
            had_less: false,
            noted: None,
        };
        if is_own {
            let world = &subject.world;
            subject.inside.counts =
                counts::of(&mut subject.guest, &subject.snapshot, &subject.facts, world)?;
        }
        Ok(subject)
    }

    /// The project's own driver in a guest that has just greeted, its variant `variant`
    /// where the build has several.
    ///
    /// # Errors
    /// As [`Subject::load`].
    pub fn own(
        guest: Guest,
        facts: KernelFacts,
        variant: Option<&str>,
    ) -> Result<Self, HarnessError> {
        let mut driver = Driver::own(guest.plan());
        driver.files.clear();
        driver.regions.clear();
        driver.preparations.clear();
        if let (Some(variant), Some(module)) = (variant, driver.modules.last_mut()) {
            module.parameters = format!("variant={variant}");
        }
        Self::load(guest, facts, &driver, true)
    }

    /// Has the guest's kernel tell from here on what of its code runs. `mm_text` is that of
    /// the image that was booted; only one of flavour kcov has it.
    ///
    /// # Errors
    /// [`HarnessError`] when it cannot be told, or the guest's state not be taken again.
    pub fn cover(&mut self, mm_text: &Path) -> Result<(), HarnessError> {
        self.guest.reset(&self.snapshot)?;
        let code = CodeMap::of(&self.guest, &self.facts, &self.module, mm_text)?;
        self.guest.start_coverage()?;
        self.before = Leavings::of(&self.guest, &self.facts)?;
        self.guest.coverage()?;
        self.snapshot = self.guest.snapshot()?;
        self.known_reports = self.guest.kernel_signals()?.len();
        self.code = Some(code);
        Ok(())
    }

    /// Where the code lies of which [`Ran::coverage`] tells; `None` where nothing is told.
    pub fn code(&self) -> Option<&CodeMap> {
        self.code.as_ref()
    }

    /// What there is to do something to.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Where the time went since this was called last.
    pub fn take_times(&mut self) -> Times {
        std::mem::take(&mut self.times)
    }

    /// From here on cases are written down.
    pub fn note_cases(&mut self) {
        self.noted = Some(Vec::new());
    }

    /// The cases since [`Subject::note_cases`], which ends with this.
    pub fn take_noted(&mut self) -> Vec<Case> {
        self.noted.take().unwrap_or_default()
    }

    /// How long the operations of a case take with no stop of the guest but where they go
    /// from one process to another, and without a reset.
    pub(crate) fn bare(&mut self, case: &Case) -> Result<Duration, HarnessError> {
        self.guest.start_transcript();
        let ran = self.run(case, Pace::Never);
        let transcript = self.guest.take_transcript();
        ran?;
        self.guest.reset(&self.snapshot)?;
        let start = Instant::now();
        // The same requests from the same state: they come to the same.
        for together in transcript.chunk_by(|a, b| !stands_alone(a) && !stands_alone(b)) {
            match together {
                [one] => drop(self.guest.request(one)?),
                all => drop(self.guest.several(all)?),
            }
        }
        Ok(start.elapsed())
    }

    /// Goes through a case from the start, up to the first thing that is wrong.
    ///
    /// # Errors
    /// [`HarnessError`] for what is not the driver's doing.
    pub fn run(&mut self, case: &Case, pace: Pace) -> Result<Ran, HarnessError> {
        if let Some(noted) = &mut self.noted {
            noted.push(case.clone());
        }
        let start = Instant::now();
        self.guest.reset(&self.snapshot)?;
        self.times.reset += start.elapsed();
        let mut model = self.world.model(self.guest.current_pid());
        let mut ran = Ran::default();
        ran.coverage.is_whole = true;
        for (index, operation) in case.operations.iter().enumerate() {
            // Where the kernel puts things differently than in a rehearsal.
            let Ok(wanted) = model.predict(operation) else {
                continue;
            };
            self.had_less |= matches!(operation.call, Call::Offer { .. });
            let verdict = self.step(&mut model, (index, operation), wanted, &mut ran)?;
            let verdict = match verdict {
                None if pace == Pace::EachStep => {
                    self.note_coverage(&mut ran)?;
                    let verdict = self.look(&model, &mut ran)?;
                    for (window, offer) in model.offered() {
                        let call = Call::Offer { window, offer };
                        self.guest.perform(&model, &Process::FIRST.does(call))?;
                    }
                    // What a look makes the guest do is no part of the case.
                    self.note_coverage(&mut Ran::default())?;
                    verdict
                }
                verdict => verdict,
            };
            if let Some(verdict) = verdict {
                ran.found = Some(self.found(case, index, verdict));
                return Ok(ran);
            }
        }
        self.note_coverage(&mut ran)?;
        let verdict = match pace {
            Pace::AtTheEnd => self.look(&model, &mut ran)?,
            Pace::EachStep | Pace::Never => None,
        };
        let verdict = match verdict {
            None if pace != Pace::Never => self.leave(case, &mut model)?,
            verdict => verdict,
        };
        if let Some(verdict) = verdict {
            let last = ran.steps.last().map_or(0, |step| step.index);
            ran.found = Some(self.found(case, last, verdict));
        }
        Ok(ran)
    }

    /// Takes what ran since this was called last.
    fn note_coverage(&mut self, ran: &mut Ran) -> Result<(), HarnessError> {
        if self.code.is_some() {
            let start = Instant::now();
            let coverage = self.guest.coverage()?;
            ran.coverage.is_whole &= coverage.is_whole;
            ran.coverage.pcs.extend(coverage.pcs);
            self.times.coverage += start.elapsed();
        }
        Ok(())
    }

    fn step(
        &mut self,
        model: &mut Model,
        (index, operation): (usize, &Operation),
        wanted: Wanted,
        ran: &mut Ran,
    ) -> Result<Option<Verdict>, HarnessError> {
        let start = Instant::now();
        let came = self.guest.perform(model, operation);
        self.times.guest += start.elapsed();
        let (came, verdict) = match came {
            Ok(came) => {
                let applied = model.apply(operation, &came)?;
                let verdict = match applied.err().map(Wrong::Outcome) {
                    Some(surprise) => Some(Verdict::of(surprise)),
                    None => self.complaint()?,
                };
                (Some(came), verdict)
            }
            // The agent keeps its own memory: this was not done, and nothing follows of it.
            Err(HarnessError::Rejected { .. }) => return Ok(None),
            Err(error) => (None, Some(self.blame(error)?)),
        };
        ran.steps.push(Step {
            index,
            wanted,
            came,
        });
        Ok(verdict)
    }

    fn found(&self, case: &Case, step: usize, verdict: Verdict) -> Found {
        let operation = case.operations.get(step);
        let cause = Cause {
            by: verdict.by.clone(),
            operation: operation.map_or("start", kind).to_owned(),
            file: self.file_of(case, step),
        };
        Found {
            step,
            verdict,
            cause,
        }
    }

    /// The file that was opened last before a step, or as the step.
    fn file_of(&self, case: &Case, step: usize) -> String {
        let before = case.operations.iter().take(step + 1).rev();
        let opened = before.filter_map(|operation| match operation.call {
            Call::Open { file, .. } => self.world.files.get(file),
            _ => None,
        });
        let name = opened.map(|file| file.name.clone()).next();
        name.unwrap_or_default()
    }
}

/// `/lib/my-driver.ko` is `my_driver` to the kernel.
fn module_name(driver: &Driver) -> String {
    let path = driver.modules.last().map_or("", |module| &module.path);
    let name = Path::new(path).file_stem().unwrap_or_default();
    name.to_string_lossy().replace('-', "_")
}

/// Whether another process, or none, may answer after it.
const fn stands_alone(request: &Request) -> bool {
    matches!(
        request,
        Request::Fork | Request::Exit { .. } | Request::SwitchTo { .. }
    )
}

fn is_small(file: &FileContract) -> bool {
    let npages: u64 = file.ranges.iter().map(|range| range.npages).sum();
    npages <= MOST_NPAGES
}
