//! Mappings to try requests on, and the outcomes to expect.

use std::any::Any;

use wire::{Fd, Prot, Sharing, Signal, Value};

use crate::access;
use crate::memory::{Mapping, map};
use crate::outcome::{Outcome, Refusal};
use crate::own::Own;
use crate::sys::Errno;
use crate::words::store;

pub const PAGE: u64 = 4096;
/// `BUS_ADRERR`, `SEGV_MAPERR`, `SEGV_ACCERR`, `SI_KERNEL` of siginfo.h.
pub const BUS_ADRERR: i32 = 2;
pub const SEGV_MAPERR: i32 = 1;
pub const SEGV_ACCERR: i32 = 2;
pub const SI_KERNEL: i32 = 0x80;

pub fn file_of(len_bytes: u64) -> Fd {
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(c"agent-test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: ftruncate(2) of a file of our own.
    let result = unsafe { libc::ftruncate(fd, len_bytes.cast_signed()) };
    assert_eq!(result, 0);
    Fd(fd)
}

pub fn request(fd: Option<Fd>, npages: u64, prot: Prot) -> Mapping {
    Mapping {
        fd,
        fixed_at: None,
        len_bytes: npages * PAGE,
        prot,
        sharing: Sharing::Shared,
        offset_bytes: 0,
    }
}

pub fn address(outcome: Outcome) -> u64 {
    match outcome {
        Ok(Value::Address(address)) => address,
        other => panic!("no address: {other:?}"),
    }
}

pub fn mapped(fd: Option<Fd>, npages: u64, prot: Prot) -> u64 {
    access::survive_faults().expect("handler");
    address(map(&Own::nothing(), &request(fd, npages, prot)))
}

pub fn put(at: u64, stride_bytes: u64, words: &[u64]) -> Outcome {
    store(&Own::nothing(), at, stride_bytes, words)
}

pub fn errno(number: i32) -> Outcome {
    Err(Errno(number).into())
}

pub fn signal(number: i32, code: i32, address: u64) -> Outcome {
    Err(Refusal::Signal(Signal {
        number,
        code,
        address,
    }))
}

/// Runs `test` in a process without other threads. Those of the harness may map what the
/// test has just unmapped, open the descriptor that it has just closed, and map more after
/// it has read what is mapped.
pub fn alone(test: impl FnOnce()) {
    // SAFETY: glibc unlocks its own state in the child, which ends without returning
    // to the test harness.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        // SAFETY: _exit(2) has no preconditions.
        unsafe { libc::_exit(outcome.map_or_else(|panic| tell(panic.as_ref()), |()| 0)) }
    }
    let mut status = 0;
    // SAFETY: `status` is live.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((ended, status), (child, 0), "the lone process failed");
}

/// Says why a lone process fails, and gives its exit status: what the harness has captured
/// there ends with it. Takes no lock, which a thread that is not there might hold.
fn tell(panic: &(dyn Any + Send)) -> i32 {
    let of_format = panic.downcast_ref::<String>().map(String::as_str);
    let text = of_format.or_else(|| panic.downcast_ref::<&str>().copied());
    let line = format!("alone: {}\n", text.unwrap_or("a panic without a text"));
    // SAFETY: `line` is live, and as long as is said.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    1
}
