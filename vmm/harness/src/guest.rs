//! A booted guest with its agent at the doorbell.

use guest_images::initramfs;
use guest_kernel::{KernelFacts, KernelView, ViewError};
use monitor::{Buffer, Saved, Vm, VmConfig, Window};
use wire::{Fd, Reply, Request};
use witness::Plan;
use witness::host_frame::{FrameError, Pagemap};
use witness::stamp::Stamps;

use crate::coverage::Recording;
use crate::driver::Preparation;
use crate::error::HarnessError;
use crate::mutants::Eyes;
use crate::start::{Snapshots, Start, Started};

/// How often frames are exchanged to get host pages that are apart.
const SCRAMBLE_ATTEMPTS: u64 = 16;
/// Lines of the kernel's log that an error about a module carries.
const LOG_LINES: usize = 12;

/// A guest that stands still between any two calls.
pub struct Guest {
    vm: Vm,
    plan: Plan,
    stamps: Stamps,
    kernel_release: String,
    mappings: u64,
    /// The process that holds the doorbell.
    current_pid: i32,
    log_has_news: bool,
    /// Bytes of its console that are known.
    console_len: usize,
    /// Files that are held open for others, with what each is told.
    held: Vec<(Fd, Preparation)>,
    eyes: Eyes,
    stops_at_first: bool,
    started: Started,
    recording: Option<Recording>,
    transcript: Option<Vec<Request>>,
}

impl Guest {
    /// Starts a guest the quickest way that the environment allows, up to its agent's
    /// greeting.
    ///
    /// # Errors
    /// [`HarnessError`] when the guest does not get there.
    pub fn boot(config: &VmConfig) -> Result<Self, HarnessError> {
        Self::start(config, Start::from_environment())
    }

    /// Starts a guest, up to its agent's greeting.
    ///
    /// # Errors
    /// [`HarnessError`] when the guest does not get there.
    pub fn start(config: &VmConfig, start: Start) -> Result<Self, HarnessError> {
        let snapshots = match start {
            Start::Quickest => Snapshots::of(config),
            Start::Boot => None,
        };
        match snapshots {
            Some(snapshots) => Self::start_by(config, &snapshots),
            None => Self::booted(config),
        }
    }

    /// Starts a guest from one of these snapshots, or boots it and leaves one.
    ///
    /// # Errors
    /// [`HarnessError`] when the guest does not get there.
    pub fn start_by(config: &VmConfig, snapshots: &Snapshots) -> Result<Self, HarnessError> {
        if let Some(saved) = snapshots.open() {
            match Self::taken_up(config, &saved) {
                Err(HarnessError::Snapshot(why)) => snapshots.discard(&why),
                outcome => return outcome,
            }
        }
        let mut guest = Self::booted(config)?;
        if guest.stamps.are_untouched(guest.vm.windows()) {
            snapshots.leave(&mut guest.vm);
        }
        Ok(guest)
    }

    /// Goes on where a guest was saved, in a VM of its own. Any number of guests can be
    /// taken up from one file; they share the pages that they do not change.
    ///
    /// # Errors
    /// [`HarnessError::Snapshot`] when the file is of no use.
    pub fn taken_up(config: &VmConfig, saved: &Saved) -> Result<Self, HarnessError> {
        let build = |config: &VmConfig| Ok(Vm::start_saved(config, saved)?);
        let (vm, stamps) = stamped(config, build)?;
        Ok(Self {
            started: Started::Snapshot,
            ..Self::greeted(vm, stamps)?
        })
    }

    /// Builds a VM, stamps the pages of its windows and boots it to the agent's
    /// greeting.
    fn booted(config: &VmConfig) -> Result<Self, HarnessError> {
        // The kernel would only say, much later, that it finds no init.
        initramfs::check(&config.initramfs)?;
        let (mut vm, stamps) = stamped(config, |config| Ok(Vm::new(config)?))?;
        vm.run_to_doorbell()?;
        Self::greeted(vm, stamps)
    }

    /// Takes over a VM whose agent has just rung for the first time.
    ///
    /// # Errors
    /// [`HarnessError`] when what it says is no greeting of an agent that this
    /// version understands.
    pub fn greeted(vm: Vm, stamps: Stamps) -> Result<Self, HarnessError> {
        let mut guest = Self {
            plan: Plan::of(&vm),
            vm,
            stamps,
            kernel_release: String::new(),
            mappings: 0,
            current_pid: 0,
            log_has_news: true,
            console_len: 0,
            held: Vec::new(),
            eyes: Eyes::All,
            stops_at_first: false,
            started: Started::Boot,
            recording: None,
            transcript: None,
        };
        let answer = guest.read_answer()?;
        guest.current_pid = answer.pid;
        guest.note_buffers();
        match answer.reply {
            Reply::Ready { kernel_release } => guest.kernel_release = kernel_release,
            other => return Err(HarnessError::NotReady(Box::new(other))),
        }
        Ok(guest)
    }

    /// The VM, standing still.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The VM, to be run.
    pub fn vm_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// The guest's kernel, read in its memory: processes, areas, pages. `facts` come
    /// from the image that was booted.
    ///
    /// # Errors
    /// [`ViewError`] when they are about another kernel.
    pub fn kernel<'g>(&'g self, facts: &'g KernelFacts) -> Result<KernelView<'g>, ViewError> {
        KernelView::of(&self.vm, facts)
    }

    /// Where everything of the device is.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The stamps of its pages.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// `uname -r` of the guest.
    pub fn kernel_release(&self) -> &str {
        &self.kernel_release
    }

    /// How it came to its agent's greeting.
    pub fn started(&self) -> Started {
        self.started
    }

    /// pid of the process that answered last: requests go to it, and walks go through
    /// its tables.
    pub fn current_pid(&self) -> i32 {
        self.current_pid
    }

    /// Whether the guest's kernel has logged anything since this was asked last, or since the
    /// guest went back to a snapshot, by the agent's word. What it logs need not be on its
    /// console yet: a thread of its own writes that.
    pub fn take_log_news(&mut self) -> bool {
        std::mem::take(&mut self.log_has_news)
    }

    /// Whether anything was printed on its console since this was asked last, or since the
    /// guest went back to a snapshot. Nothing in the guest is asked for it.
    pub fn take_console_news(&mut self) -> bool {
        let len = self.vm.console().len_bytes();
        std::mem::replace(&mut self.console_len, len) != len
    }

    /// From here on mappings are looked at with these eyes, and nothing is asked after
    /// the first wrong answer.
    pub(crate) fn put_on_trial(&mut self, eyes: Eyes) {
        self.eyes = eyes;
        self.stops_at_first = true;
    }

    /// Whether the first wrong answer of a file ends the questions.
    pub(crate) fn stops_at_first(&self) -> bool {
        self.stops_at_first
    }

    /// Whether nothing is seen but what a process sees.
    pub(crate) fn sees_data_alone(&self) -> bool {
        self.eyes == Eyes::DataAlone
    }

    /// Where the guest's kernel notes what ran, once it does.
    pub(crate) fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref()
    }

    /// From here on requests are written down.
    pub fn start_transcript(&mut self) {
        self.transcript = Some(Vec::new());
    }

    /// The requests since [`Guest::start_transcript`], which ends with this.
    pub fn take_transcript(&mut self) -> Vec<Request> {
        self.transcript.take().unwrap_or_default()
    }

    pub(crate) fn transcript_mut(&mut self) -> Option<&mut Vec<Request>> {
        self.transcript.as_mut()
    }

    pub(crate) fn set_recording(&mut self, recording: Recording) {
        self.recording = Some(recording);
    }

    pub(crate) fn held_mut(&mut self) -> &mut Vec<(Fd, Preparation)> {
        &mut self.held
    }

    pub(crate) fn set_buffers(&mut self, buffers: Vec<Buffer>) {
        self.plan.buffers = buffers;
    }

    pub(crate) fn set_current_pid(&mut self, pid: i32) {
        self.current_pid = pid;
    }

    pub(crate) fn note_log_news(&mut self) {
        self.log_has_news = true;
    }

    /// Takes all that its kernel has said for known.
    pub(crate) fn forget_news(&mut self) {
        self.take_log_news();
        self.take_console_news();
    }

    /// A number that no mapping of this guest had before.
    pub(crate) fn next_mapping(&mut self) -> u64 {
        self.mappings += 1;
        self.mappings
    }

    /// How many numbers [`Guest::next_mapping`] has given.
    pub(crate) fn mappings_made(&self) -> u64 {
        self.mappings
    }

    pub(crate) fn set_mappings_made(&mut self, mappings: u64) {
        self.mappings = mappings;
    }

    /// The last lines of the kernel's log, for an error.
    pub(crate) fn last_words(&mut self) -> Result<Vec<String>, HarnessError> {
        let log = self.kernel_log()?.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let first = lines.len().saturating_sub(LOG_LINES);
        Ok(lines[first..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect())
    }
}

/// A VM with stamps on the pages of its windows.
fn stamped(
    config: &VmConfig,
    build: impl Fn(&VmConfig) -> Result<Vm, HarnessError>,
) -> Result<(Vm, Stamps), HarnessError> {
    let mut vm = build(config)?;
    keep_apart(&mut vm)?;
    let stamps = Stamps::of(&vm, config.scramble_seed);
    for (index, window) in vm.windows().iter().enumerate() {
        stamps.fill(index, window);
    }
    Ok((vm, stamps))
}

/// Exchanges frames until no two neighbouring device pages have neighbouring ones: else a
/// mapping that is off by a page could look right by luck.
fn keep_apart(vm: &mut Vm) -> Result<(), HarnessError> {
    for _ in 0..SCRAMBLE_ATTEMPTS {
        let close = match next_to_each_other(vm.windows()) {
            Ok(close) => close,
            // Frames that cannot be read cannot mislead anybody either: the link that
            // would use them stays unheard.
            Err(FrameError::Hidden | FrameError::Open(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if close.is_empty() {
            return Ok(());
        }
        for (window, page) in close {
            vm.exchange_frame(window, page)?;
        }
    }
    Err(HarnessError::NotScrambled {
        attempts: SCRAMBLE_ATTEMPTS,
    })
}

/// Pages whose frame is a neighbour of that of the page before, each with its window.
fn next_to_each_other(windows: &[Window]) -> Result<Vec<(usize, u64)>, FrameError> {
    let pagemap = Pagemap::open()?;
    let mut close = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        let frames = (0..window.npages())
            .filter_map(|page| window.ledger_hva(page))
            .map(|hva| pagemap.pfn(hva))
            .collect::<Result<Vec<_>, _>>()?;
        for (pair, page) in frames.windows(2).zip(1..) {
            if pair[0].raw().abs_diff(pair[1].raw()) == 1 {
                close.push((index, page));
            }
        }
    }
    Ok(close)
}
