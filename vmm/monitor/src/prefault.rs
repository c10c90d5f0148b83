//! `KVM_PRE_FAULT_MEMORY`, which kvm-ioctls does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use addr::Gpa;
use kvm_bindings::{KVMIO, kvm_pre_fault_memory};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use crate::threads::{self, Noted};

// Documentation/virt/kvm/api.rst, 4.143.
ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// Attempts to go on after a call that did part of the work.
const ATTEMPTS: usize = 64;
/// How long KVM may take. A window's few thousand pages take milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is interrupted after that, until it is.
const KICK_AGAIN: Duration = Duration::from_millis(10);

/// Makes KVM map `len_bytes` from `start` in the tables of this vCPU, as an access
/// of the guest would, without one. Both are multiples of the page size.
///
/// With a root that was retired, Linux 6.12 tries for ever and only a signal ends
/// that, so the call is made on a thread that can be given one. Its number is noted.
pub(crate) fn prefault(
    vcpu: &VcpuFd,
    threads: &Noted,
    start: Gpa,
    len_bytes: u64,
) -> io::Result<()> {
    let fd = vcpu.as_raw_fd();
    let range = kvm_pre_fault_memory {
        gpa: start.raw(),
        size: len_bytes,
        ..Default::default()
    };
    let (done, outcome) = channel();
    let (started, tid) = channel();
    let worker = thread::Builder::new()
        .name("prefault".into())
        .spawn(move || {
            // The other ends wait for this thread in any case.
            let _ = started.send(threads::current());
            let _ = done.send(prefault_range(fd, range));
        })?;
    if let Ok(tid) = tid.recv() {
        threads.note(tid);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut wait = PATIENCE;
    let result = loop {
        match outcome.recv_timeout(wait) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Timeout) => {
                // A thread that has ended meanwhile needs no signal.
                let _ = worker.kill(SIGRTMIN());
                wait = KICK_AGAIN;
            }
            Err(RecvTimeoutError::Disconnected) => {
                break Err(io::Error::other("the pre-faulting thread is gone"));
            }
        }
    };
    // `vcpu` is borrowed until here, so that its descriptor outlives the thread.
    let _ = worker.join();
    match result {
        Err(error) if Instant::now() >= deadline => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("KVM did not come to an end within {PATIENCE:?}: {error}"),
        )),
        other => other,
    }
}

fn prefault_range(fd: RawFd, mut range: kvm_pre_fault_memory) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        // SAFETY: the caller keeps the vCPU's descriptor open until this returns.
        let vcpu = unsafe { BorrowedFd::borrow_raw(fd) };
        // SAFETY: KVM reads and writes exactly one such structure, which lives on
        // this stack.
        let answer = unsafe { ioctl_with_mut_ref(&vcpu, KVM_PRE_FAULT_MEMORY(), &mut range) };
        if answer != 0 {
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EAGAIN) => {}
                error => return Err(error),
            }
        }
        // What remains, after part of it was done.
        if range.size == 0 {
            return Ok(());
        }
    }
    Err(io::Error::other(format!(
        "interrupted again and again at {:#x}",
        range.gpa
    )))
}
