//! Which of the kernel's code runs for a request: KCOV, as its documentation
//! (dev-tools/kcov.rst) has it.
//!
//! One recording serves all processes, since the kernel lets one task at a time use it:
//! the process that carries a request out takes it for just as long.

use std::ffi::CStr;
use std::io;
use std::ptr;

use wire::{COVERAGE_LEN_BYTES, Value};

use crate::outcome::{Outcome, Refusal};
use crate::own::Own;
use crate::process::Lineage;
use crate::sys::{self, Errno};

const DEBUGFS: &CStr = c"/sys/kernel/debug";
const KCOV: &CStr = c"/sys/kernel/debug/kcov";
/// Commands of include/uapi/linux/kcov.h: `_IOR('c', 1, unsigned long)`, `_IO('c', 100)`
/// and `_IO('c', 101)`.
const INIT_TRACE: u64 = 0x8008_6301;
const ENABLE: u64 = 0x6364;
const DISABLE: u64 = 0x6365;
/// `KCOV_TRACE_PC`.
const TRACE_PC: u64 = 0;
/// Bytes of a word of the area.
const WORD_LEN_BYTES: u64 = 8;
/// How often a process steps back for one that is about to let go.
const MOST_YIELDS: u32 = 1 << 16;

/// The recording of this process and those that it forks.
#[derive(Debug, Default)]
pub struct Coverage {
    session: Option<Session>,
    /// Whether this process is being recorded.
    is_on: bool,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    fd: i32,
    address: u64,
}

impl Coverage {
    /// Begins to record, and tells where.
    pub fn start(&mut self, lineage: &Lineage, own: &mut Own) -> Outcome {
        let session = match self.session {
            Some(session) => session,
            // The area must be in every process, and guarded in each.
            None if lineage.is_forked() => return Err(Errno(libc::EPERM).into()),
            None => Session::open()?,
        };
        if self.session.is_none() {
            own.add(session.address..session.address + COVERAGE_LEN_BYTES);
            self.session = Some(session);
        }
        Ok(Value::Address(session.address))
    }

    /// Records this process from here on, if anything is to be recorded.
    ///
    /// # Errors
    /// When another process does not let go of the recording.
    pub fn resume(&mut self) -> Result<(), Refusal> {
        let Some(session) = self.session else {
            return Ok(());
        };
        for _ in 0..MOST_YIELDS {
            match session.ioctl(ENABLE, TRACE_PC) {
                Ok(()) => {
                    self.is_on = true;
                    return Ok(());
                }
                // A parent whose fork(2) has not yet returned.
                Err(Errno(libc::EBUSY)) => {
                    // SAFETY: sched_yield(2) has no preconditions.
                    unsafe { libc::sched_yield() };
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(Refusal::Rejected(
            "another process keeps the recording of coverage".into(),
        ))
    }

    /// Lets another process be recorded.
    pub fn pause(&mut self) {
        if let (Some(session), true) = (self.session, self.is_on) {
            // The kernel refuses only those that are not being recorded.
            let _ = session.ioctl(DISABLE, 0);
            self.is_on = false;
        }
    }

    /// In a child: the kernel records the parent alone.
    pub fn forget(&mut self) {
        self.is_on = false;
    }
}

impl Session {
    fn open() -> Result<Self, Errno> {
        mount_debugfs()?;
        let fd = sys::open_apart(KCOV, libc::O_RDWR)?;
        let session = Self { fd, address: 0 };
        session.ioctl(INIT_TRACE, COVERAGE_LEN_BYTES / WORD_LEN_BYTES)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let len = usize::try_from(COVERAGE_LEN_BYTES).map_err(|_| Errno(libc::ENOMEM))?;
        // SAFETY: a new mapping at an address of the kernel's choice takes no memory
        // away. No reference points into it, and nothing ever unmaps it.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let address = address as u64;
        Ok(Self { fd, address })
    }

    fn ioctl(self, command: u64, argument: u64) -> Result<(), Errno> {
        let arguments = [sys::fd_argument(self.fd), command, argument, 0, 0, 0];
        // SAFETY: these commands take a number, and write to the recording's area alone.
        unsafe { sys::call(libc::SYS_ioctl, arguments) }?;
        Ok(())
    }
}

/// Mounts debugfs; once is enough. `ENOENT` from a kernel that has none.
fn mount_debugfs() -> Result<(), Errno> {
    let name = c"debugfs".as_ptr();
    // SAFETY: all three strings are NUL-terminated, and there are no options.
    let result = unsafe { libc::mount(name, DEBUGFS.as_ptr(), name, libc::MS_NOSUID, ptr::null()) };
    match result {
        0 => Ok(()),
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY) => Ok(()),
        _ => Err(Errno::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On any machine: what the kernel is asked is what its header says.
    #[test]
    fn commands_are_those_of_the_kernels_header() {
        let of_kind = |number: u64| u64::from(b'c') << 8 | number;
        let reads_a_word = 2 << 30 | WORD_LEN_BYTES << 16;
        assert_eq!(INIT_TRACE, reads_a_word | of_kind(1));
        assert_eq!(ENABLE, of_kind(100));
        assert_eq!(DISABLE, of_kind(101));
    }

    #[test]
    fn nothing_is_recorded_before_it_is_asked_for() {
        let mut coverage = Coverage::default();
        coverage.resume().expect("nothing to do");
        assert!(!coverage.is_on);
        coverage.pause();
    }
}
