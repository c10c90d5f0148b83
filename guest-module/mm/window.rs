// SPDX-License-Identifier: GPL-2.0

//! Memory of a device.

use super::{
    fault::FaultError,
    memory::{inserted, Access, Frames, Memory, Span}, //
};
use kernel::{
    bindings,
    io::{PhysAddr, Resource},
    mm::virt::{flags, vm_flags_t},
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// A stretch of device memory that a driver offers to user space, in whole pages.
///
/// # Invariants
///
/// - `npages` is not zero, and the byte address of the last of the `npages` frames from `first_pfn`
///   on fits in a [`PhysAddr`].
/// - None of these frames belonged to System RAM when the window was made.
/// - The frames are memory of a device whose driver offers them to user space with `access`.
pub(crate) struct Window {
    pub(super) first_pfn: usize,
    pub(super) npages: usize,
    pub(super) access: Access,
}

impl Window {
    /// The window that consists of the whole of `resource`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the resource is empty or not made of whole pages; `EBUSY` when any of it
    /// is System RAM: showing that would give away the kernel's memory, and its memory type
    /// could not be chosen.
    pub(crate) fn from_resource(resource: &Resource, access: Access) -> Result<Self> {
        let start: PhysAddr = resource.start();
        let len_bytes = usize::try_from(resource.size())?;
        let page_mask = PAGE_SIZE as PhysAddr - 1;

        if len_bytes == 0 || (start | len_bytes as PhysAddr) & page_mask != 0 {
            return Err(EINVAL);
        }
        start.checked_add(len_bytes as PhysAddr - 1).ok_or(EINVAL)?;

        // SAFETY: The function only looks the range up in the kernel's resource tree, under its
        // own lock; it has no requirements on the range.
        let ram = unsafe {
            bindings::region_intersects(
                start,
                len_bytes,
                bindings::IORESOURCE_SYSTEM_RAM as usize,
                bindings::IORES_DESC_NONE as usize,
            )
        };
        if ram != bindings::REGION_DISJOINT as c_int {
            return Err(EBUSY);
        }

        // INVARIANT: The size is neither zero nor too large, and the range touches no System RAM,
        // as just checked. It is memory of the resource's device.
        Ok(Self {
            first_pfn: usize::try_from(start >> PAGE_SHIFT)?,
            npages: len_bytes >> PAGE_SHIFT,
            access,
        })
    }

    /// Physical address of the first byte.
    pub(super) fn start(&self) -> PhysAddr {
        // By the type invariants this fits.
        (self.first_pfn as PhysAddr) << PAGE_SHIFT
    }

    /// Size in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        self.npages << PAGE_SHIFT
    }
}

impl Memory for Window {
    fn npages(&self) -> usize {
        self.npages
    }

    fn access(&self) -> Access {
        self.access
    }
}

impl Frames for Window {
    const VMA_FLAGS: vm_flags_t = flags::IO | flags::PFNMAP;

    unsafe fn answer(
        &self,
        vmf: *mut bindings::vm_fault,
        index: usize,
    ) -> Result<bindings::vm_fault_t, FaultError> {
        let page = self.span(index, 1).map_err(|_| FaultError::NoPage)?;
        // SAFETY: By the caller's promise `vmf` is valid.
        let at = unsafe { (*vmf).__bindgen_anon_1 };

        // SAFETY: By the caller's promises this is the fault operation of a locked vma with the flags
        // that the function demands. The frame belongs to a window that may be shown to user space,
        // with no more access than the vma gives.
        inserted(unsafe { bindings::vmf_insert_pfn(at.vma, at.address, page.first_pfn()) })
    }
}

impl Span<'_, Window> {
    /// Frame of the first page; the others follow it.
    pub(super) fn first_pfn(&self) -> usize {
        // By the type invariants of both types this frame's address fits in a `PhysAddr`.
        self.memory().first_pfn + self.first()
    }
}
