//! What an operation in the guest comes to.

use std::fmt;

use wire::Signal;

/// How an operation was refused in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The system call failed with this errno.
    Errno(i32),
    /// The access raised this signal.
    Signal(Signal),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Self::Signal(signal) => {
                let name = match signal.number {
                    libc::SIGBUS => "SIGBUS".to_owned(),
                    libc::SIGSEGV => "SIGSEGV".to_owned(),
                    number => format!("signal {number}"),
                };
                write!(f, "{name} at {:#x} (code {})", signal.address, signal.code)
            }
        }
    }
}

/// What an operation in the guest came to. A refusal is a result like another:
/// many a test wants one.
pub type Outcome<T> = Result<T, Refusal>;
