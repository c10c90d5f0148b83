//! Mappings to try requests on, and the outcomes to expect.

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
