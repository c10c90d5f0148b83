//! What an operation should come to, and what it came to.

use std::fmt;

use addr::{Gva, PAGE_SIZE};
use wire::{Fd, Signal};
use witness::DevicePage;

use crate::outcome::Refusal;

/// `SEGV_MAPERR` of siginfo.h: nothing is mapped at the address.
pub const SEGV_MAPERR: i32 = 1;
/// `SEGV_ACCERR`: the mapping does not allow the access.
pub const SEGV_ACCERR: i32 = 2;
/// `BUS_ADRERR`: the mapping has no page there.
pub const BUS_ADRERR: i32 = 2;

/// What an operation must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It succeeds, and there is nothing more to say.
    Done,
    /// A descriptor.
    Fd,
    /// This address.
    At(Gva),
    /// Addresses that were free before, this many pages of them.
    Free {
        /// Pages.
        npages: u64,
    },
    /// A child.
    Child,
    /// The wait status of the process that ended.
    Ended(i32),
    /// The access reaches this page of the device and no other.
    Reaches(DevicePage),
    /// The access gets through, and reaches no page of the device.
    ReachesNothing,
    /// The call fails with this errno.
    Errno(i32),
    /// The access raises this signal, in this page.
    Signal {
        /// Number.
        number: i32,
        /// `si_code`.
        code: i32,
        /// The page that `si_addr` lies in.
        page: Gva,
    },
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// It succeeded.
    Done,
    /// It gave a descriptor.
    Fd(Fd),
    /// It gave an address.
    At(Gva),
    /// It gave a child, with this pid.
    Child(i32),
    /// A process ended with this wait status.
    Ended(i32),
    /// The access got through: to these pages, so far as the host can tell.
    Reached(Vec<DevicePage>),
    /// It was refused.
    Refused(Refusal),
}

impl Wanted {
    /// Whether `came` is what must come. Of a free address only its form is looked
    /// at; the model knows what is free.
    pub fn is(&self, came: &Came) -> bool {
        match (self, came) {
            (Self::Done, Came::Done) | (Self::Fd, Came::Fd(_)) | (Self::Child, Came::Child(_)) => {
                true
            }
            (Self::At(wanted), Came::At(found)) => wanted == found,
            (Self::Free { .. }, Came::At(found)) => found.raw().is_multiple_of(PAGE_SIZE),
            (Self::Ended(wanted), Came::Ended(found)) => wanted == found,
            (Self::Reaches(wanted), Came::Reached(found)) => *found == [*wanted],
            (Self::ReachesNothing, Came::Reached(found)) => found.is_empty(),
            (Self::Errno(wanted), Came::Refused(Refusal::Errno(found))) => wanted == found,
            (Self::Signal { number, code, page }, Came::Refused(Refusal::Signal(found))) => {
                (*number, *code) == (found.number, found.code)
                    && page.raw() == found.address & !(PAGE_SIZE - 1)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("it succeeds"),
            Self::Fd => f.write_str("a descriptor"),
            Self::At(gva) => write!(f, "the address {gva}"),
            Self::Free { npages } => write!(f, "{npages} free pages"),
            Self::Child => f.write_str("a child"),
            Self::Ended(status) => write!(f, "an end with wait status {status:#x}"),
            Self::Reaches(page) => page.fmt(f),
            Self::ReachesNothing => f.write_str("no page of the device"),
            Self::Errno(errno) => Refusal::Errno(*errno).fmt(f),
            Self::Signal { number, code, page } => Refusal::Signal(Signal {
                number: *number,
                code: *code,
                address: page.raw(),
            })
            .fmt(f),
        }
    }
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("it succeeds"),
            Self::Fd(fd) => write!(f, "descriptor {}", fd.0),
            Self::At(gva) => write!(f, "the address {gva}"),
            Self::Child(pid) => write!(f, "a child with pid {pid}"),
            Self::Ended(status) => write!(f, "an end with wait status {status:#x}"),
            Self::Reached(pages) if pages.is_empty() => f.write_str("no page of the device"),
            Self::Reached(pages) => {
                let mut between = "";
                for page in pages {
                    write!(f, "{between}{page}")?;
                    between = ", ";
                }
                Ok(())
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: DevicePage = DevicePage { window: 1, page: 4 };

    #[test]
    fn an_access_must_reach_its_page_alone() {
        let other = DevicePage { window: 1, page: 5 };
        assert!(Wanted::Reaches(PAGE).is(&Came::Reached(vec![PAGE])));
        for found in [vec![], vec![other], vec![PAGE, other]] {
            assert!(!Wanted::Reaches(PAGE).is(&Came::Reached(found)));
        }
    }

    #[test]
    fn a_signal_is_told_by_number_code_and_page() {
        let wanted = Wanted::Signal {
            number: libc::SIGSEGV,
            code: SEGV_ACCERR,
            page: Gva::new(0x7000),
        };
        let came = |number, code, address| {
            Came::Refused(Refusal::Signal(Signal {
                number,
                code,
                address,
            }))
        };
        assert!(wanted.is(&came(libc::SIGSEGV, SEGV_ACCERR, 0x7008)));
        assert!(!wanted.is(&came(libc::SIGBUS, SEGV_ACCERR, 0x7008)));
        assert!(!wanted.is(&came(libc::SIGSEGV, SEGV_MAPERR, 0x7008)));
        assert!(!wanted.is(&came(libc::SIGSEGV, SEGV_ACCERR, 0x8000)));
    }

    #[test]
    fn success_and_refusal_are_never_the_same() {
        let refused = Came::Refused(Refusal::Errno(libc::EACCES));
        assert!(!Wanted::Done.is(&refused));
        assert!(!Wanted::Errno(libc::EACCES).is(&Came::Done));
        assert!(!Wanted::Errno(libc::EINVAL).is(&refused));
        assert!(!Wanted::Free { npages: 1 }.is(&Came::At(Gva::new(8))));
    }
}
