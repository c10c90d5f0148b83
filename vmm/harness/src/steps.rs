//! Steps that every part of the standard check takes.

use wire::{Fd, OpenMode};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::MappingSpec;
use crate::outcome::Outcome;

/// The file of a mapping, open as far as the mapping needs.
pub(crate) fn open(guest: &mut Guest, spec: &MappingSpec) -> Result<Fd, HarnessError> {
    let path = &spec.file.path;
    let mode = if spec.prot.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let answer = guest.open(path, mode)?;
    needed(|| format!("open {path}"), answer)
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
