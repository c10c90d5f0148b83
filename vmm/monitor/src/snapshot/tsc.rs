//! The guest's time stamp counter, by what KVM adds to the host's.
//!
//! kvm-ioctls has the calls for a vCPU's attributes on other architectures only.

use std::io;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::error::VmError;

// Documentation/virt/kvm/api.rst, 4.80.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// What the counter shows now. Frequencies are not scaled: the guest's is the host's.
pub(crate) fn read(vcpu: &VcpuFd) -> Result<u64, VmError> {
    let mut offset = 0;
    let request = attribute(&mut offset);
    // SAFETY: the attribute is one word, and `request` points to one that lives until
    // the call returns.
    let answer = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &request) };
    check(answer, "KVM_GET_DEVICE_ATTR (KVM_VCPU_TSC_OFFSET)")?;
    Ok(host_counter().wrapping_add(offset))
}

/// Makes the counter show `value` now.
pub(super) fn write(vcpu: &VcpuFd, value: u64) -> Result<(), VmError> {
    let mut offset = value.wrapping_sub(host_counter());
    let request = attribute(&mut offset);
    // SAFETY: as in `read`; KVM copies the word.
    let answer = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &request) };
    check(answer, "KVM_SET_DEVICE_ATTR (KVM_VCPU_TSC_OFFSET)")
}

/// Documentation/virt/kvm/devices/vcpu.rst, 4.1: Linux 5.16 and later.
fn attribute(offset: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_mut(offset) as u64,
        flags: 0,
    }
}

fn check(answer: libc::c_int, call: &'static str) -> Result<(), VmError> {
    if answer == 0 {
        return Ok(());
    }
    Err(VmError::Kvm {
        call,
        source: io::Error::last_os_error(),
    })
}

fn host_counter() -> u64 {
    // SAFETY: every 64-bit x86 processor has the instruction, and Linux lets user mode
    // execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
