//! What a request comes to.

use wire::{Signal, Value};

use crate::sys::Errno;

/// Why there is no [`Value`].
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kernel refused.
    Errno(Errno),
    /// The access raised a signal.
    Signal(Signal),
    /// The agent refused.
    Rejected(String),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Signal> for Refusal {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

/// Result of one request.
pub type Outcome = Result<Value, Refusal>;
