//! Faults planted in the VMM behind its back: what it believes stays as it was.

use std::fs;
use std::os::fd::{IntoRawFd, OwnedFd};

use addr::{Gpa, Hva, PAGE_SIZE};
use harness::Guest;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use monitor::{MemSlot, Vm};

use crate::common;

/// A memslot as KVM knows it.
#[derive(Clone, Copy)]
pub struct KvmSlot(MemSlot);

impl KvmSlot {
    pub fn of(guest: &Guest, window: &str) -> Self {
        Self(guest.vm().memslots()[common::slot(guest, window)])
    }

    /// Where the VMM believes its memory to be.
    pub fn hva(&self) -> Hva {
        self.0.hva
    }

    pub fn page_hva(&self, page: u64) -> Hva {
        self.hva().checked_add(page * PAGE_SIZE).expect("small")
    }

    /// Takes the slot away from KVM.
    pub fn remove(&self, vm: &Vm) {
        self.set(vm, 0, self.hva(), 0);
    }

    /// Takes it away and gives it back with other memory or other rights.
    pub fn replace(&self, vm: &Vm, hva: Hva, read_only: bool) {
        self.remove(vm);
        let flags = if read_only { KVM_MEM_READONLY } else { 0 };
        self.set(vm, self.0.len_bytes, hva, flags);
    }

    /// Makes KVM note which of its pages are stored to.
    pub fn log_dirty(&self, vm: &Vm) {
        self.set(vm, self.0.len_bytes, self.hva(), KVM_MEM_LOG_DIRTY_PAGES);
    }

    /// Gives KVM one more slot, far above all others.
    pub fn add_another(vm: &Vm, memory: Memory) {
        let slot = MemSlot {
            id: 100,
            base: Gpa::new(1 << 34),
            len_bytes: PAGE_SIZE,
            hva: memory.hva(),
            ..vm.memslots()[0]
        };
        Self(slot).set(vm, slot.len_bytes, slot.hva, 0);
    }

    fn set(&self, vm: &Vm, len_bytes: u64, hva: Hva, flags: u32) {
        let region = kvm_userspace_memory_region {
            slot: self.0.id,
            flags,
            guest_phys_addr: self.0.base.raw(),
            memory_size: len_bytes,
            userspace_addr: hva.raw(),
        };
        // SAFETY: the memory is a window's or that of a test, and both outlive the
        // last run of the guest; a guest that reads the wrong one is the purpose.
        unsafe { vm_fd(vm).set_user_memory_region(region) }.expect("a memslot");
    }
}

/// A second descriptor of the same VM.
fn vm_fd(vm: &Vm) -> VmFd {
    let copy: OwnedFd = vm.descriptor().try_clone_to_owned().expect("a descriptor");
    let kvm = Kvm::new().expect("/dev/kvm");
    // SAFETY: the descriptor is a VM's, new, and owned by nobody else from here on.
    unsafe { kvm.create_vmfd_from_rawfd(copy.into_raw_fd()) }.expect("a VM")
}

/// Puts another page at `hva`, which belongs to a window.
pub fn remap(hva: Hva) {
    let len_bytes = usize::try_from(PAGE_SIZE).expect("small");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_POPULATE;
    // SAFETY: the page belongs to a window's view, to which nobody holds a
    // reference; the window unmaps whatever lies there in the end.
    let mapped = unsafe {
        libc::mmap(
            hva.raw() as *mut libc::c_void,
            len_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    assert_ne!(mapped, libc::MAP_FAILED);
}

/// Anonymous memory of this process, unmapped never: a VM may still know it.
#[derive(Clone, Copy)]
pub struct Memory(*mut libc::c_void);

impl Memory {
    /// Huge pages, which the kernel is told to set aside first.
    pub fn of_2_mib(count: usize) -> Self {
        const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
        fs::write(RESERVED, format!("{}", count * 2)).expect("root");
        Self::map(count << 21, libc::MAP_HUGETLB)
    }

    /// Ordinary pages.
    pub fn ordinary(npages: usize) -> Self {
        Self::map(npages << 12, 0)
    }

    fn map(len_bytes: usize, more: libc::c_int) -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | more;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(
            memory,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self(memory)
    }

    pub fn hva(&self) -> Hva {
        Hva::new(self.0 as u64)
    }

    /// Puts `bytes` at its start.
    pub fn fill(&self, bytes: &[u8]) {
        assert!(
            bytes.len() as u64 <= PAGE_SIZE,
            "more than the least there is"
        );
        // SAFETY: the mapping has a page at least, is never unmapped, and `bytes` is
        // memory of another allocation.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast(), bytes.len()) };
    }
}
