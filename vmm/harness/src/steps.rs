//! Steps that every part of the standard check takes.

use wire::{Fd, OpenMode};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{MappingSpec, Strategy};
use crate::outcome::Outcome;

/// All of a window, as the check maps it.
pub(crate) fn whole(
    guest: &Guest,
    strategy: Strategy,
    window: usize,
) -> Result<MappingSpec, HarnessError> {
    MappingSpec::whole(guest.plan(), strategy, window)
        .ok_or_else(|| HarnessError::Vm(monitor::VmError::Config(format!("no window {window}"))))
}

/// The file of a mapping, open as far as the mapping needs.
pub(crate) fn open(guest: &mut Guest, spec: &MappingSpec) -> Result<Fd, HarnessError> {
    let path = spec.strategy.device_path(spec.window);
    let mode = if spec.prot.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let answer = guest.open(&path, mode)?;
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
