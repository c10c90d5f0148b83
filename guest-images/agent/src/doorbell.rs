//! Whose turn it is to ring: one word that all processes of the agent share.
//!
//! It names the process that holds the doorbell. All others wait until it names
//! them, or until the process that it names is a child of theirs and has died.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sys::{self, Errno};

/// A process that dies without a word passes nothing on; whoever waits looks for
/// that this often.
static RELOOK: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// The word, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    word: NonNull<AtomicI32>,
}

/// What the word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process rings next.
    Process(i32),
    /// This process held the doorbell and is about to end.
    Ending(i32),
    /// The process that this one is just making; only that process takes it.
    NewbornOf(i32),
}

/// Beyond the largest pid (`PID_MAX_LIMIT`, 4 Mi).
const NEWBORN: i32 = 1 << 30;

impl Doorbell {
    /// A word for this process and all that it forks from here on; this process
    /// holds the doorbell.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn of_this_process() -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice takes no memory
        // away. It is never unmapped.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<AtomicI32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let word = NonNull::new(page.cast::<AtomicI32>());
        let doorbell = match word {
            Some(word) if page != libc::MAP_FAILED => Self { word },
            _ => return Err(io::Error::last_os_error()),
        };
        doorbell.word().store(sys::pid(), Ordering::SeqCst);
        Ok(doorbell)
    }

    /// Who holds the doorbell.
    pub fn holder(self) -> Holder {
        match self.word().load(Ordering::SeqCst) {
            word @ ..0 => Holder::Ending(word.wrapping_neg()),
            word if word & NEWBORN != 0 => Holder::NewbornOf(word & !NEWBORN),
            word => Holder::Process(word),
        }
    }

    /// Passes the doorbell on, unless somebody has done so already.
    pub fn pass(self, from: Holder, to: Holder) {
        let _ = self.word().compare_exchange(
            from.word(),
            to.word(),
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        let everybody = i32::MAX.cast_unsigned();
        let arguments = [
            self.word.as_ptr() as u64,
            futex_argument(libc::FUTEX_WAKE),
            everybody.into(),
            0,
            0,
            0,
        ];
        // SAFETY: FUTEX_WAKE touches no memory. It cannot fail on a live word.
        let _ = unsafe { sys::call(libc::SYS_futex, arguments) };
    }

    /// Sleeps until the word says something else than `seen`, or it is time to look
    /// at `seen` again.
    pub fn wait(self, seen: Holder) {
        let arguments = [
            self.word.as_ptr() as u64,
            futex_argument(libc::FUTEX_WAIT),
            seen.word().cast_unsigned().into(),
            &raw const RELOOK as u64,
            0,
            0,
        ];
        // SAFETY: FUTEX_WAIT reads the word and the timeout, both live. Why it
        // returned does not matter: the caller looks at the word again.
        let _: Result<u64, Errno> = unsafe { sys::call(libc::SYS_futex, arguments) };
    }

    fn word(&self) -> &AtomicI32 {
        // SAFETY: the mapping made by `of_this_process` is aligned, holds zeroes at
        // first, which is a value of an AtomicI32, and is never unmapped: `own` guards
        // it against requests. Processes reach it by atomic operations alone.
        unsafe { self.word.as_ref() }
    }
}

impl Holder {
    /// pids are positive and small, so that each value of the word means one thing.
    const fn word(self) -> i32 {
        match self {
            Self::Process(pid) => pid,
            Self::Ending(pid) => pid.wrapping_neg(),
            Self::NewbornOf(parent) => parent | NEWBORN,
        }
    }
}

fn futex_argument(operation: libc::c_int) -> u64 {
    u64::from(operation.cast_unsigned())
}
