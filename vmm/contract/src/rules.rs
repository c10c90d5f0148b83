//! What a driver's mmap refuses, and with which error.

use serde::{Deserialize, Serialize};

use crate::errno::Errno;

/// One check of a driver's mmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is refused.
    pub when: Condition,
    /// With which error.
    pub errno: Errno,
}

impl Refusal {
    /// Refuses what `when` says with `errno`.
    pub const fn new(when: Condition, errno: Errno) -> Self {
        Self { when, errno }
    }
}

/// What a request may have about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Anything at all: while the driver is in a state in which it maps nothing.
    Always,
    /// `MAP_PRIVATE` is asked for.
    Private,
    /// `PROT_EXEC` is asked for.
    Exec,
    /// `PROT_WRITE` is asked for.
    Write,
    /// `PROT_WRITE` is not asked for.
    NoWrite,
    /// A right is asked for that some page asked for does not have. Pages that the
    /// file does not have are taken to have those that any of its pages has.
    BeyondAccess,
    /// A page is asked for that the file does not have.
    Outside,
    /// Pages of more than one range are asked for.
    SeveralRanges,
    /// The offset is another than this many pages.
    OffsetIsNot(u64),
    /// The length is another than this many pages.
    LengthIsNot(u64),
    /// The length is more than this many pages.
    LongerThan(u64),
}
