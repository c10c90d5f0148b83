//! LibAFL with a guest as its executor.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use harness::HarnessError;
use libafl::corpus::{Corpus, InMemoryCorpus, InMemoryOnDiskCorpus};
use libafl::events::{ProgressReporter, SimpleEventManager};
use libafl::feedbacks::{CrashFeedback, MaxMapFeedback};
use libafl::monitors::SimpleMonitor;
use libafl::observers::StdMapObserver;
use libafl::schedulers::QueueScheduler;
use libafl::stages::StdMutationalStage;
use libafl::state::{HasCorpus, StdState};
use libafl::{Error, Evaluator, Fuzzer, StdFuzzer};
use libafl_bolts::rands::StdRand;
use libafl_bolts::tuples::tuple_list;
use serde::Serialize;

use crate::case::{Case, CaseError};
use crate::executor::GuestExecutor;
use crate::finding::{About, Finding, FindingError};
use crate::novelty::MAP_LEN;
use crate::subject::{Pace, Subject, Times};
use crate::{folder, generate, mutate};

/// Mutations of one case before the next one's turn.
const MOST_ITERATIONS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// Cases made up at the start besides those that each file suggests.
const MADE_UP: usize = 16;
/// How often the run tells how far it has come.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of all choices.
    pub seed: u64,
    /// How often pages are looked at.
    pub pace: Pace,
    /// Folder of the corpus and the findings.
    pub dir: PathBuf,
    /// It ends after this time.
    pub time: Option<Duration>,
    /// It ends after so many cases.
    pub cases: Option<u64>,
    /// It ends at the first finding.
    pub until_found: bool,
    /// Whether to tell on standard error how far it has come.
    pub tells: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Cases that were gone through, without those for minimising.
    pub cases: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// Cases in the corpus.
    pub corpus: usize,
    /// Pairs of operations and outcomes that were seen.
    pub outcome_pairs: usize,
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
    /// Everything else.
    pub engine: f64,
}

/// A run that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// The guest.
    #[error("the guest")]
    Harness(#[from] HarnessError),
    /// A finding cannot be kept.
    #[error("the findings")]
    Finding(#[from] FindingError),
    /// The folder cannot be used.
    #[error("the folder {path}")]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A case in the folder cannot be read.
    #[error("the case {path}; remove it to go on without it")]
    Case {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CaseError,
    },
    /// A case of the corpus was not kept.
    #[error("the case {0} was not written")]
    NotKept(PathBuf),
    /// LibAFL.
    #[error("LibAFL: {0}")]
    Engine(String),
}

/// Fuzzes a driver. What is in the folder already is gone on with.
///
/// # Errors
/// [`FuzzError`] for what is not the driver's doing.
pub fn fuzz(subject: &mut Subject, about: &About, options: &Options) -> Result<Outcome, FuzzError> {
    let corpus_dir = folder::made(&options.dir.join("corpus"))?;
    let findings_dir = folder::made(&options.dir.join("findings"))?;
    let kept = folder::cases(&corpus_dir)?;
    let world = Rc::new(subject.world().as_ref().clone());
    let engine = |error: Error| FuzzError::Engine(error.to_string());

    let observer = StdMapObserver::owned("outcomes", vec![0; MAP_LEN]);
    let mut feedback = MaxMapFeedback::new(&observer);
    let mut objective = CrashFeedback::new();
    // A run that goes on makes other choices than the one before.
    let seed = options.seed ^ (kept.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let corpus = InMemoryOnDiskCorpus::with_meta_format_and_prefix(&corpus_dir, None, None, false);
    let mut state = StdState::new(
        StdRand::with_seed(seed),
        corpus.map_err(engine)?,
        InMemoryCorpus::<Case>::new(),
        &mut feedback,
        &mut objective,
    )
    .map_err(engine)?;
    let tells = options.tells;
    // Each new case would be a line.
    let mut told: Option<Instant> = None;
    let mut manager = SimpleEventManager::new(SimpleMonitor::new(move |line| {
        let is_early = told.is_some_and(|told| told.elapsed() < REPORT_EVERY);
        if tells && !is_early {
            told = Some(Instant::now());
            eprintln!("{line}");
        }
    }));
    let mut fuzzer = StdFuzzer::new(QueueScheduler::new(), feedback, objective);
    subject.take_times();
    let findings = folder::findings(&findings_dir)?;
    let mut executor = GuestExecutor {
        known: findings.len(),
        findings,
        subject,
        observers: tuple_list!(observer),
        options,
        about,
        findings_dir,
        start: Instant::now(),
        cases: 0,
        tried: BTreeSet::new(),
        unheard: BTreeMap::new(),
        pages: 0,
        failure: None,
    };
    let mut stages = tuple_list!(StdMutationalStage::with_max_iterations(
        mutate::all(&world),
        MOST_ITERATIONS
    ));
    let go = || -> Result<(), Error> {
        // There is something to begin with even where everything fails.
        let mut first = vec![Case::default()];
        let is_new = kept.is_empty();
        first.extend(kept);
        for case in first {
            let case = world.sense(&case);
            fuzzer.add_input(&mut state, &mut executor, &mut manager, case)?;
        }
        if is_new {
            for case in beginnings(&world, options.seed) {
                fuzzer.evaluate_input(&mut state, &mut executor, &mut manager, &case)?;
            }
        }
        while !executor.is_over() {
            fuzzer.fuzz_one(&mut stages, &mut executor, &mut state, &mut manager)?;
            manager.maybe_report_progress(&mut state, REPORT_EVERY)?;
        }
        Ok(())
    };
    let went = go();
    if let Some(failure) = executor.failure.take() {
        return Err(failure);
    }
    went.map_err(engine)?;
    all_are_kept(state.corpus())?;
    let elapsed = executor.start.elapsed();
    let times = executor.subject.take_times();
    Ok(Outcome {
        cases: executor.cases,
        elapsed,
        corpus: state.corpus().count(),
        outcome_pairs: entries(&state),
        findings: executor.findings,
        shares: Shares::of(&times, elapsed),
        unheard: executor.unheard.into_iter().collect(),
        pages: executor.pages,
    })
}

fn beginnings(world: &crate::World, seed: u64) -> Vec<Case> {
    let mut rand = StdRand::with_seed(seed);
    let mut all = generate::beginnings(world);
    all.extend((0..MADE_UP).map(|_| generate::case(world, &mut rand)));
    all
}

/// Entries of the map that any case has set.
fn entries<C, R, SC>(state: &StdState<C, Case, R, SC>) -> usize {
    use libafl::HasNamedMetadata;
    use libafl::feedbacks::MapFeedbackMetadata;
    let maps = state.named_metadata_map();
    let map = maps.get::<MapFeedbackMetadata<u8>>("outcomes");
    map.map_or(0, |map| map.num_covered_map_indexes)
}

/// LibAFL only logs what it cannot write.
fn all_are_kept(corpus: &InMemoryOnDiskCorpus<Case>) -> Result<(), FuzzError> {
    for id in corpus.ids() {
        let Ok(entry) = corpus.get(id) else {
            continue;
        };
        if let Some(path) = entry.borrow().file_path()
            && !path.exists()
        {
            return Err(FuzzError::NotKept(path.clone()));
        }
    }
    Ok(())
}

impl Shares {
    fn of(times: &Times, elapsed: Duration) -> Self {
        let whole = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let share = |part: Duration| part.as_secs_f64() / whole;
        let (reset, guest) = (share(times.reset), share(times.guest));
        let (evidence, leavings) = (share(times.evidence), share(times.leavings));
        Self {
            reset,
            guest,
            evidence,
            leavings,
            engine: (1.0 - reset - guest - evidence - leavings).max(0.0),
        }
    }
}
