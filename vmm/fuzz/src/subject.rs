//! A driver in a guest that goes back to the same state before each case.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::FileContract;
use guest_kernel::KernelFacts;
use harness::model::{Call, Came, Model, Operation, Process, Wanted, Wrong};
use harness::observe::Judged;
use harness::own_driver;
use harness::signals::{Signal, signals};
use harness::{CodeMap, Coverage, Driver, Guest, GuestSnapshot, HarnessError};
use monitor::Offer;
use wire::Request;

use crate::areas::{self, Inside};
use crate::case::Case;
use crate::counts;
use crate::leavings::{self, Leavings};
use crate::verdict::{Cause, Verdict, kind};
use crate::world::World;

/// Files of more pages take too long to be looked at as a whole.
const MOST_NPAGES: u64 = 2048;

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

/// A driver that is fuzzed.
pub struct Subject {
    guest: Guest,
    snapshot: GuestSnapshot,
    facts: KernelFacts,
    world: Arc<World>,
    inside: Inside,
    /// Bytes of the console before a case.
    console_len_bytes: usize,
    /// What must be left after a case.
    before: Leavings,
    times: Times,
    /// Name of the driver's module, as lsmod(8) shows it.
    module: String,
    /// Where its code lies, if the guest's kernel tells what of it ran.
    code: Option<CodeMap>,
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
        let before = Leavings::of(&mut guest, &facts)?;
        let snapshot = guest.snapshot()?;
        let mut subject = Self {
            console_len_bytes: guest.vm().console().text().len(),
            guest,
            snapshot,
            facts,
            world: Arc::new(world),
            inside: Inside::default(),
            before,
            times: Times::default(),
            module: module_name(driver),
            code: None,
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
        self.before = Leavings::of(&mut self.guest, &self.facts)?;
        self.guest.coverage()?;
        self.snapshot = self.guest.snapshot()?;
        self.console_len_bytes = self.guest.vm().console().text().len();
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
                let surprise = applied.err().map(Wrong::Outcome);
                let verdict = surprise.map(Verdict::of).or_else(|| self.complaint());
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

    /// How files count those who hold them: known of a driver that has kept its device.
    fn inside_of(&self, model: &Model) -> &Inside {
        const UNKNOWN: &Inside = &Inside {
            counts: BTreeMap::new(),
        };
        if model.was_unbound() {
            UNKNOWN
        } else {
            &self.inside
        }
    }

    /// The first report of the guest's kernel, since the snapshot, that something is wrong
    /// with it.
    fn complaint(&self) -> Option<Verdict> {
        self.reports().first().map(Verdict::complaint)
    }

    fn reports(&self) -> Vec<Signal> {
        let text = self.guest.vm().console().text();
        text.get(self.console_len_bytes..).map_or(vec![], signals)
    }

    /// What the driver did to a guest that could not go on, in its kernel's own words where
    /// it had any.
    fn blame(&self, error: HarnessError) -> Result<Verdict, HarnessError> {
        let verdict = Verdict::blame(error)?;
        Ok(self.complaint().unwrap_or(verdict))
    }

    /// Looks at every page of every process, and at what the kernel notes of them.
    fn look(&mut self, model: &Model, ran: &mut Ran) -> Result<Option<Verdict>, HarnessError> {
        let start = Instant::now();
        let mut judged = Judged::default();
        // What the device has less of for the time being is no fault of the driver's: for
        // the look it has all, and the guest is told nothing of either.
        for (window, _) in model.offered() {
            self.guest
                .vm_mut()
                .offer_window(window, Offer::AsConfigured)?;
        }
        let looked = self.look_at_all(model, &mut judged);
        ran.pages += judged.present + judged.absent;
        let unheard = judged.unwitnessed.into_iter();
        ran.unheard
            .extend(unheard.map(|(link, why)| (link.name().to_owned(), why)));
        let verdict = match looked {
            Ok(Some(wrong)) => Some(Verdict::of(wrong)),
            Ok(None) => {
                match areas::look(&self.guest, &self.facts, model, self.inside_of(model))? {
                    None => self.complaint(),
                    verdict => verdict,
                }
            }
            Err(error) => Some(self.blame(error)?),
        };
        self.times.evidence += start.elapsed();
        Ok(verdict)
    }

    /// Looks at every page of every process.
    fn look_at_all(
        &mut self,
        model: &Model,
        judged: &mut Judged,
    ) -> Result<Option<Wrong>, HarnessError> {
        if model.was_offered() {
            // Of pages that were touched while nothing was there KVM has noted so in its
            // tables, and finds that to be out of date at the next access.
            let mut used = self.guest.witness_all_in_use(model)?;
            let mismatch = used.mismatch.take();
            judged.merge(used);
            if let Some(mismatch) = mismatch {
                return Ok(Some(Wrong::Page(Box::new(mismatch))));
            }
        }
        self.guest.look_at_all(model, judged)
    }

    /// Looks at what is left when everything is closed.
    fn leave(&mut self, case: &Case, model: &mut Model) -> Result<Option<Verdict>, HarnessError> {
        let start = Instant::now();
        for (window, _) in model.offered() {
            self.guest
                .vm_mut()
                .offer_window(window, Offer::AsConfigured)?;
        }
        let inside = if model.was_unbound() {
            &Inside::default()
        } else {
            &self.inside
        };
        let looked = leavings::look(
            &mut self.guest,
            (&self.facts, &self.world),
            (case, model),
            (&self.before, inside),
        );
        let verdict = match looked {
            Ok(verdict) => verdict.or_else(|| self.complaint()),
            Err(error) => Some(self.blame(error)?),
        };
        self.times.leavings += start.elapsed();
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
