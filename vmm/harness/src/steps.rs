//! Steps that every part of the standard check takes.

use wire::{Fd, OpenMode};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::Outcome;

/// A device file, open.
pub(crate) fn open(guest: &mut Guest, path: &str, mode: OpenMode) -> Result<Fd, HarnessError> {
    guest.prepare_to_open(path)?;
    let answer = guest.open(path, mode)?;
    needed(|| format!("open {path}"), answer)
}

/// Closes a file that was opened.
pub(crate) fn close(guest: &mut Guest, fd: Fd) -> Result<(), HarnessError> {
    needed(|| "close".into(), guest.close(fd)?)
}

/// An operation whose refusal leaves nothing to check.
pub(crate) fn needed<T>(
    operation: impl FnOnce() -> String,
    answer: Outcome<T>,
) -> Result<T, HarnessError> {
    answer.map_err(|refusal| HarnessError::Refused {
        operation: operation(),
        refusal,
    })
}
