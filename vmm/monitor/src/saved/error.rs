//! Why a saved guest is not taken up, or not made.

use std::io;

use crate::error::VmError;

/// A file that no guest can be started from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// It cannot be read.
    #[error("it cannot be {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something else than a saved guest.
    #[error("it holds no guest")]
    NoGuest,
    /// Written by another version.
    #[error("its format is {found} and this version knows {known}")]
    Format {
        /// Its number.
        found: u32,
        /// The number that this version writes.
        known: u32,
    },
    /// Of a guest that depends on something else.
    #[error("it holds another guest")]
    Foreign,
    /// Shorter or longer than it says.
    #[error("it has {found} bytes instead of {wanted}")]
    Length {
        /// Bytes that there are.
        found: u64,
        /// Bytes that its header tells of.
        wanted: u64,
    },
    /// A sum is wrong, or what it says makes no sense.
    #[error("{0} is damaged")]
    Damaged(&'static str),
    /// It does not fit the VM that is asked for.
    #[error("it does not fit this VM: {0}")]
    Unfit(&'static str),
    /// The VM cannot be built, or KVM does not take the state.
    #[error("its state cannot be put into a VM")]
    Vm(#[from] VmError),
}

impl Unusable {
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// A guest that was not saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// Its device is in use already, and what a device has lent out is not kept.
    #[error("the guest has used its device")]
    DeviceUsed,
    /// It was itself started from a file.
    #[error("the guest was itself started from a file")]
    NotBooted,
    /// It cannot be written.
    #[error("write the guest")]
    Io(#[from] io::Error),
    /// It cannot be put into words.
    #[error("encode the guest's state")]
    Encode(#[from] postcard::Error),
    /// KVM does not tell its state.
    #[error("read the guest's state")]
    Vm(#[from] VmError),
}
