//! Contracts as files in TOML.
//!
//! What a file says is taken through [`schema`], which knows the keys, and then
//! through [`resolve`] and [`files`], which know what fits together. Either complains with the
//! place in the file; nothing in it makes them panic.

mod files;
mod problem;
mod resolve;
mod schema;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use problem::Problems;

use crate::device::Contract;
use problem::Problem;

/// Longest contract that is read.
const MAX_LEN_BYTES: u64 = 1 << 20;

/// Why a contract cannot be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("read the contract {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no contract.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl Contract {
    /// Reads a contract.
    ///
    /// # Errors
    /// [`ReadError`], with every problem that the file has and its place.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let fail = |source| ReadError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(fail)?;
        file.take(MAX_LEN_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
        if text.len() as u64 > MAX_LEN_BYTES {
            let too_long = format!("it has more than {MAX_LEN_BYTES} bytes");
            return Err(fail(io::Error::other(too_long)));
        }
        Ok(Self::from_toml(&path.display().to_string(), &text)?)
    }

    /// Understands a contract in TOML; `file` is what the text is called in errors.
    ///
    /// # Errors
    /// [`Problems`], with the place of each.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, Problems> {
        let outcome = ::toml::from_str(text)
            .map_err(|error| vec![Problem::of_toml(&error)])
            .and_then(resolve::contract);
        outcome.map_err(|problems| Problems::new(file, text, &problems))
    }
}

#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod tests;
