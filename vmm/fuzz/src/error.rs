//! Runs that could not go on.

use std::io;
use std::path::PathBuf;

use harness::HarnessError;

use crate::case::CaseError;
use crate::finding::FindingError;

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
    /// The file that counts runs and cases cannot be read.
    #[error("the file {path}; remove it to count from nothing")]
    Progress {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// A case of the corpus was not kept.
    #[error("the case {0} was not written")]
    NotKept(PathBuf),
    /// A core's guest did not come up.
    #[error("a guest for core {core}")]
    Load {
        /// The core, from 0.
        core: usize,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The broker between cores and machines.
    #[error("the broker: {0}")]
    Broker(String),
    /// A core's thread panicked.
    #[error("core {core} panicked")]
    Panicked {
        /// The core, from 0.
        core: usize,
    },
    /// LibAFL.
    #[error("LibAFL: {0}")]
    Engine(String),
}
