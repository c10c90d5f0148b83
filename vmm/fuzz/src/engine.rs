//! LibAFL with a guest as its executor.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use libafl::corpus::{Corpus, InMemoryCorpus, InMemoryOnDiskCorpus};
use libafl::events::{
    EventFirer, EventReceiver, ProgressReporter, SendExiting, SimpleEventManager,
};
use libafl::feedbacks::{CrashFeedback, MaxMapFeedback};
use libafl::monitors::SimpleMonitor;
use libafl::observers::{HitcountsMapObserver, StdMapObserver};
use libafl::schedulers::QueueScheduler;
use libafl::stages::StdMutationalStage;
use libafl::state::{HasCorpus, HasImported, StdState};
use libafl::{Error, Evaluator, Fuzzer, StdFuzzer, feedback_or};
use libafl_bolts::rands::StdRand;
use libafl_bolts::tuples::tuple_list;

use crate::case::Case;
use crate::edges::Seen;
use crate::error::FuzzError;
use crate::executor::GuestExecutor;
use crate::finding::About;
use crate::novelty::MAP_LEN;
use crate::outcome::{Outcome, Part};
use crate::ran::Pace;
use crate::shared::Shared;
use crate::subject::Subject;
use crate::world::World;
use crate::{beginnings, folder, generate, mutate};

/// Mutations of one case before the next one's turn.
const MOST_ITERATIONS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// Cases made up at the start besides those that each file suggests.
const MADE_UP: usize = 16;
/// How often the run tells how far it has come.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// By what it is told whether a case brings something new, and so is kept and changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guidance {
    /// Nothing: only the cases to begin with are changed.
    Off,
    /// Pairs of operations one after the other, with what they came to.
    #[default]
    Outcomes,
    /// The same, and edges of the driver's code and of mm/, each with a map of its own.
    /// Where the guest's kernel does not tell them this is as the one before.
    Edges,
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of all choices.
    pub seed: u64,
    /// How often pages are looked at.
    pub pace: Pace,
    /// What is new.
    pub guidance: Guidance,
    /// Folder of the corpus and the findings.
    pub dir: PathBuf,
    /// It ends after this time.
    pub time: Option<Duration>,
    /// It ends after so many cases.
    pub cases: Option<u64>,
    /// It ends at the first finding.
    pub until_found: bool,
    /// It ends once somebody has set this.
    pub ends: Option<Arc<AtomicBool>>,
    /// Whether to tell on standard error how far it has come.
    pub tells: bool,
}

/// What LibAFL keeps of a core.
pub(crate) type State = StdState<InMemoryOnDiskCorpus<Case>, Case, StdRand, InMemoryCorpus<Case>>;

/// What a run on any number of cores needs from its folder.
pub(crate) struct Begun {
    corpus_dir: PathBuf,
    findings_dir: PathBuf,
    /// Cases of earlier runs.
    kept: Vec<Case>,
    pub(crate) shared: Shared,
}

impl Begun {
    pub(crate) fn of(dir: &Path) -> Result<Self, FuzzError> {
        let corpus_dir = folder::made(&dir.join("corpus"))?;
        let findings_dir = folder::made(&dir.join("findings"))?;
        Ok(Self {
            kept: folder::cases(&corpus_dir)?,
            shared: Shared::begin(dir, &findings_dir)?,
            corpus_dir,
            findings_dir,
        })
    }
}

/// A core of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Core {
    /// Its number, from 0.
    pub(crate) index: usize,
    /// How many there are.
    pub(crate) count: usize,
    /// Whether cases come from other cores or machines.
    pub(crate) has_peers: bool,
}

impl Core {
    /// The only one.
    const ALONE: Self = Self {
        index: 0,
        count: 1,
        has_peers: false,
    };

    /// Its part of what is shared out among all.
    fn part<T>(self, all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        let mine = all.into_iter().enumerate();
        mine.filter(move |(at, _)| at % self.count.max(1) == self.index)
            .map(|(_, one)| one)
    }
}

/// Fuzzes a driver on one core. What is in the folder already is gone on with.
///
/// # Errors
/// [`FuzzError`] for what is not the driver's doing.
pub fn fuzz(subject: &mut Subject, about: &About, options: &Options) -> Result<Outcome, FuzzError> {
    let begun = Begun::of(&options.dir)?;
    let mut manager = SimpleEventManager::new(monitor(options.tells));
    let part = work(subject, about, options, &begun, Core::ALONE, &mut manager)?;
    Outcome::of(begun.shared, vec![part])
}

/// Tells on standard error how far a run has come, if it `tells`.
pub(crate) fn monitor(tells: bool) -> SimpleMonitor<impl FnMut(&str) + Clone> {
    // Each new case would be a line.
    let mut told: Option<Instant> = None;
    SimpleMonitor::new(move |line: &str| {
        let is_early = told.is_some_and(|told| told.elapsed() < REPORT_EVERY);
        if tells && !is_early {
            told = Some(Instant::now());
            eprintln!("{line}");
        }
    })
}

/// Fuzzes on one of several cores.
pub(crate) fn work<EM>(
    subject: &mut Subject,
    about: &About,
    options: &Options,
    begun: &Begun,
    core: Core,
    manager: &mut EM,
) -> Result<Part, FuzzError>
where
    EM: EventFirer<Case, State>
        + EventReceiver<Case, State>
        + ProgressReporter<State>
        + SendExiting,
{
    let world = Rc::new(subject.world().as_ref().clone());
    let engine = |error: Error| FuzzError::Engine(error.to_string());
    let observer = StdMapObserver::owned("outcomes", vec![0; MAP_LEN]);
    let driver = HitcountsMapObserver::new(StdMapObserver::owned("driver", vec![0; MAP_LEN]));
    let mm = StdMapObserver::owned("mm", vec![0; MAP_LEN]);
    let mut feedback = feedback_or!(
        MaxMapFeedback::new(&observer),
        MaxMapFeedback::new(&driver),
        MaxMapFeedback::new(&mm)
    );
    let mut objective = CrashFeedback::new();
    let corpus =
        InMemoryOnDiskCorpus::with_meta_format_and_prefix(&begun.corpus_dir, None, None, false);
    let mut state: State = StdState::new(
        StdRand::with_seed(seed(options, begun, core)),
        corpus.map_err(engine)?,
        InMemoryCorpus::<Case>::new(),
        &mut feedback,
        &mut objective,
    )
    .map_err(engine)?;
    let mut fuzzer = StdFuzzer::new(QueueScheduler::new(), feedback, objective);
    subject.take_times();
    let mut executor = GuestExecutor {
        subject,
        observers: tuple_list!(observer, driver, mm),
        options,
        about,
        findings_dir: begun.findings_dir.clone(),
        shared: &begun.shared,
        has_peers: core.has_peers,
        seen: Seen::new(),
        unheard: BTreeMap::new(),
        pages: 0,
        marking: Duration::ZERO,
        failure: None,
    };
    let mut stages = tuple_list!(StdMutationalStage::with_max_iterations(
        mutate::all(&world),
        MOST_ITERATIONS
    ));
    let mut go = || -> Result<(), Error> {
        let (kept, tried) = first_cases(&world, options, begun, core);
        for case in kept {
            fuzzer.add_input(&mut state, &mut executor, manager, case)?;
        }
        for case in tried {
            fuzzer.evaluate_input(&mut state, &mut executor, manager, &case)?;
        }
        while !executor.is_over() {
            fuzzer.fuzz_one(&mut stages, &mut executor, &mut state, manager)?;
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
    let mut times = executor.subject.take_times();
    times.coverage += executor.marking;
    Ok(Part {
        times,
        is_covered: executor.subject.code().is_some(),
        seen: executor.seen,
        corpus: names(state.corpus()),
        imported: *state.imported(),
        unheard: executor.unheard,
        pages: executor.pages,
    })
}

/// A core's part of the cases to begin with: those that stay in any case, and those that do
/// if they bring something new.
fn first_cases(
    world: &World,
    options: &Options,
    begun: &Begun,
    core: Core,
) -> (Vec<Case>, Vec<Case>) {
    // There is something to begin with even where everything fails.
    let mut kept = vec![Case::default()];
    kept.extend(core.part(begun.kept.iter().map(|case| world.sense(case))));
    let mut tried = Vec::new();
    if begun.kept.is_empty() {
        tried.extend(core.part(first_of_all(world, options.seed)));
    }
    if options.guidance == Guidance::Off {
        // Where nothing counts as new they would all be dropped.
        kept.append(&mut tried);
    }
    (kept, tried)
}

/// A run that goes on makes other choices than the one before, and each core its own.
fn seed(options: &Options, begun: &Begun, core: Core) -> u64 {
    let runs = begun.shared.earlier_runs();
    let core = (core.index as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
    options.seed ^ runs.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ core
}

/// Names of cases: equal ones have equal names on every core.
fn names(corpus: &InMemoryOnDiskCorpus<Case>) -> BTreeSet<String> {
    let entries = corpus.ids().filter_map(|id| corpus.get(id).ok());
    let named = entries.filter_map(|entry| entry.borrow().filename().clone());
    named.collect()
}

fn first_of_all(world: &World, seed: u64) -> Vec<Case> {
    let mut rand = StdRand::with_seed(seed);
    let mut all = beginnings::beginnings(world);
    all.extend((0..MADE_UP).map(|_| generate::case(world, &mut rand)));
    all
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
