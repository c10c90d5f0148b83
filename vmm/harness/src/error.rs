//! Why something could not be checked. A finding is never an error, and an error
//! is never a finding.

use std::path::PathBuf;

use addr::Gva;
use guest_images::initramfs;
use monitor::{Unusable, VmError};
use wire::{FrameError, Reply};
use witness::guest_walk::TablesError;
use witness::host_frame::FrameError as PagemapError;

use crate::model::Meaningless;
use crate::outcome::Refusal;

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// What follows came in the middle of a check.
    #[error("while checking {doing}")]
    During {
        /// What was being checked.
        doing: String,
        /// What came.
        source: Box<Self>,
    },
    /// The VM could not be built, or came to its end.
    #[error("the guest")]
    Vm(#[from] VmError),
    /// No guest can be taken up from the file in which one was saved.
    #[error("the snapshot")]
    Snapshot(#[from] Unusable),
    /// The initramfs is damaged.
    #[error("the initramfs; `mapwitness images build` makes a new one")]
    Initramfs(#[from] initramfs::Error),
    /// The agent's message cannot be read.
    #[error("the guest's agent")]
    Message(#[from] FrameError),
    /// The agent did not greet first.
    #[error("the agent's first message is {0:?} and not Ready: rebuild the guest image")]
    NotReady(Box<Reply>),
    /// An operation on what is not there.
    #[error(transparent)]
    Meaningless(#[from] Meaningless),
    /// The agent refused a request that it should understand.
    #[error("the agent rejects {request}: {reason}")]
    Rejected {
        /// The request.
        request: String,
        /// Its reason.
        reason: String,
    },
    /// Another process answers than the one that was asked.
    #[error("process {found} of the agent answers and not process {wanted}")]
    OtherProcess {
        /// pid of the one that was asked.
        wanted: i32,
        /// pid of the one that answers.
        found: i32,
    },
    /// The answer does not fit the request.
    #[error("the agent answers {request} with {reply:?}")]
    Mismatched {
        /// The request.
        request: String,
        /// The answer.
        reply: Box<Reply>,
    },
    /// A request that should make the driver ring its device did not.
    #[error("the driver answers {reply:?} without ringing its device: rebuild the guest image")]
    NotRung {
        /// The answer.
        reply: Box<Reply>,
    },
    /// An operation that the harness needs was refused.
    #[error("{operation}: {refusal}")]
    Refused {
        /// The operation.
        operation: String,
        /// How.
        refusal: Refusal,
    },
    /// The driver's module cannot be loaded.
    #[error("the guest kernel refuses {module}: {refusal}; {hint}{}", lines(log))]
    Module {
        /// Path in the guest.
        module: String,
        /// How.
        refusal: Refusal,
        /// What usually is behind it.
        hint: &'static str,
        /// What the kernel said about it.
        log: Vec<String>,
    },
    /// The driver loaded but offers no device file.
    #[error(
        "the driver loaded, but {path} does not exist: its probe failed, or did not run \
         because the device's ACPI id is not in its table{}",
        lines(log)
    )]
    NotProbed {
        /// The missing file.
        path: String,
        /// What the kernel said last.
        log: Vec<String>,
    },
    /// The guest's tables cannot be walked.
    #[error("the guest's page tables")]
    Tables(#[from] TablesError),
    /// The guest's kernel cannot be read.
    #[error("the guest kernel's own structures")]
    Kernel(#[from] guest_kernel::ViewError),
    /// The image does not say which bit of `vm_flags` a flag is.
    #[error("the guest image knows no flag VM_{name}: rebuild it with `mapwitness images build`")]
    NoFlag {
        /// The flag, without `VM_`.
        name: &'static str,
    },
    /// Coverage is asked for, and the guest's kernel does not tell it.
    #[error(
        "the guest's kernel does not tell its coverage ({refusal}): boot an image of flavour kcov"
    )]
    NoCoverage {
        /// What it says.
        refusal: Refusal,
    },
    /// Coverage is asked for before it was started.
    #[error("coverage was not started")]
    CoverageNotStarted,
    /// The page in which coverage is noted is not there, or no longer.
    #[error("the guest's kernel no longer notes coverage at gva {gva}: {reason}")]
    CoverageLost {
        /// Where.
        gva: Gva,
        /// How the walk ended.
        reason: String,
    },
    /// Where the code of a part of the kernel lies is not known.
    #[error("where the guest kernel's code lies, by {}: {reason}", path.display())]
    CodeMap {
        /// The file that should say so.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A module of which coverage is asked for.
    #[error("module {name} is not loaded in the guest")]
    NotLoaded {
        /// Its name.
        name: String,
    },
    /// Host pages that should be apart are neighbours.
    #[error(
        "after {attempts} attempts host pages behind neighbouring device pages are still \
         neighbours: host memory is too tidy; run again"
    )]
    NotScrambled {
        /// How often it was tried.
        attempts: u64,
    },
    /// KVM exchanged the second-level tables at every look.
    #[error(
        "KVM exchanged the VM's second-level tables during each of {looks} looks: something \
         else changes its memslots"
    )]
    Restless {
        /// How often it was tried.
        looks: usize,
    },
    /// The host's frames are needed and cannot be read.
    #[error("host frames of the device's windows")]
    HostFrames(#[from] PagemapError),
}

fn lines(log: &[String]) -> String {
    log.iter()
        .map(|line| format!("\n    {line}"))
        .collect::<String>()
}
