//! Why a file is no finding, or one that cannot be tried here.

use std::io;
use std::path::PathBuf;

use super::MOST_LEN_BYTES;
use crate::case::CaseError;

/// A file that is no finding, or one that cannot be tried here.
#[derive(Debug, thiserror::Error)]
pub enum FindingError {
    /// It cannot be read or written.
    #[error("the finding {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("the finding {path} has {len_bytes} bytes, and none has more than {MOST_LEN_BYTES}")]
    Large {
        /// The file.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
    },
    /// It is not written as findings are.
    #[error("the finding {path}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// Its case cannot be done.
    #[error("the case of the finding")]
    Case(#[from] CaseError),
    /// It cannot be written as text.
    #[error("the finding as text")]
    Text(#[from] toml::ser::Error),
    /// It names what the driver does not have.
    #[error("the finding is about {name}, which this driver does not have: it has {}", known.join(", "))]
    Unknown {
        /// A file or window.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// An operation has a number without a name.
    #[error(
        "operation {index} of the finding names file or window {number}, which it does not list"
    )]
    Unlisted {
        /// The operation.
        index: usize,
        /// The number.
        number: usize,
    },
}
