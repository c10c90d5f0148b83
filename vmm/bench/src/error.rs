//! Why something could not be measured.

use std::io;
use std::path::PathBuf;

use harness::HarnessError;
use monitor::VmError;
use witness::guest_walk::TablesError;

/// A measurement that failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The guest.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// The VM.
    #[error("the VM")]
    Vm(#[from] VmError),
    /// The guest refused what every guest grants.
    #[error("the guest was asked for {asked} and answers {answer}")]
    Guest {
        /// What was asked.
        asked: &'static str,
        /// What it said.
        answer: String,
    },
    /// What was to be found by all witnesses was not.
    #[error("not all was witnessed: {0}")]
    Unwitnessed(String),
    /// The guest's tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// A call of the operating system.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A picture.
    #[error("cannot draw {path}: {what}")]
    Picture {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another process did not do what it was started for.
    #[error("{program}: {what}")]
    Process {
        /// Which.
        program: &'static str,
        /// What is wrong, with what it said.
        what: String,
    },
}

impl BenchError {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// The error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let causes = causes.map(|cause| format!(": {cause}"));
    error.to_string() + &causes.collect::<String>()
}
