//! `KVM_PRE_FAULT_MEMORY`, which kvm-ioctls does not wrap.

use std::io;
use std::os::fd::AsRawFd;

use addr::Gpa;
use kvm_bindings::{KVMIO, kvm_pre_fault_memory};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

// Documentation/virt/kvm/api.rst, 4.143.
ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// Attempts to go on after an interruption.
const ATTEMPTS: usize = 64;

/// Makes KVM map `len_bytes` from `start` in the tables of this vCPU, as an access
/// of the guest would, without one. Both are multiples of the page size.
pub(crate) fn prefault(vcpu: &VcpuFd, start: Gpa, len_bytes: u64) -> io::Result<()> {
    let mut range = kvm_pre_fault_memory {
        gpa: start.raw(),
        size: len_bytes,
        ..Default::default()
    };
    for _ in 0..ATTEMPTS {
        // SAFETY: the descriptor is a vCPU's, and KVM reads and writes exactly one
        // such structure, which lives on this stack.
        let answer = unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut range) };
        let error = (answer != 0).then(io::Error::last_os_error);
        match error.map(|error| (error.raw_os_error(), error)) {
            None if range.size == 0 => return Ok(()),
            // Part of it is done, and `range` is what remains.
            None | Some((Some(libc::EINTR | libc::EAGAIN), _)) => {}
            Some((_, error)) => return Err(error),
        }
    }
    let fd = vcpu.as_raw_fd();
    Err(io::Error::other(format!(
        "vCPU {fd}: interrupted again and again at {:#x}",
        range.gpa
    )))
}
