// SPDX-License-Identifier: GPL-2.0

//! Memory that may be shown to user space, whatever it is made of.

use kernel::{
    bindings,
    mm::virt::vm_flags_t,
    page::PAGE_SHIFT,
    prelude::*, //
};

use super::fault::FaultError;

/// What user space may do with memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may be read.
    ReadOnly,
    /// It may be read and written.
    ReadWrite,
}

/// Pages that a driver offers to user space: a [`Window`] of a device, or a [`Buffer`] of RAM.
///
/// The trait is sealed. Whoever holds memory can ask for its size; frames and `struct page` stay inside
/// this module.
///
/// [`Window`]: super::Window
/// [`Buffer`]: super::Buffer
pub(crate) trait Memory: Frames + Send + Sync + 'static {
    /// Number of pages.
    fn npages(&self) -> usize;

    /// What user space may do with them.
    fn access(&self) -> Access;

    /// The `npages` pages from page `first` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there are none, or when they are not all inside the memory.
    fn span(&self, first: usize, npages: usize) -> Result<Span<'_, Self>>
    where
        Self: Sized,
    {
        let end = first.checked_add(npages).ok_or(EINVAL)?;

        if npages == 0 || end > self.npages() {
            return Err(EINVAL);
        }
        // INVARIANT: `first < end <= npages()`, as just checked.
        Ok(Span {
            memory: self,
            first,
            npages,
        })
    }
}

/// The part of [`Memory`] that only this module may use: how its pages reach a page table.
pub(crate) trait Frames {
    /// The flags that a vma showing such memory has, besides those that every mapping of a driver has.
    const VMA_FLAGS: vm_flags_t;

    /// Shows page `index` where `vmf` happened, and gives what the fault operation is to return.
    ///
    /// # Errors
    ///
    /// [`FaultError::NoPage`] when there is no such page.
    ///
    /// # Safety
    ///
    /// `vmf` is valid and its vma locked, at least for reading; the vma has [`Self::VMA_FLAGS`], is not
    /// copy-on-write, and does not say `VM_MAYWRITE` if the memory is read-only. The caller is the vma's
    /// fault operation and returns the result.
    unsafe fn answer(
        &self,
        vmf: *mut bindings::vm_fault,
        index: usize,
    ) -> Result<bindings::vm_fault_t, FaultError>;
}

/// Pages of a [`Memory`] that follow one another.
///
/// # Invariants
///
/// There is at least one page, and all pages from `first` to `first + npages - 1` lie inside `memory`.
pub(crate) struct Span<'m, M> {
    pub(super) memory: &'m M,
    pub(super) first: usize,
    pub(super) npages: usize,
}

impl<'m, M> Span<'m, M> {
    /// What the pages belong to.
    pub(super) fn memory(&self) -> &'m M {
        self.memory
    }

    /// Index of the first page within the memory.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Number of pages.
    pub(super) fn npages(&self) -> usize {
        self.npages
    }

    /// Size in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        // By the type invariants this is no larger than the memory, whose size in bytes fits.
        self.npages << PAGE_SHIFT
    }
}

/// Sorts out what one of the `vmf_insert_*` functions says.
pub(super) fn inserted(outcome: bindings::vm_fault_t) -> Result<bindings::vm_fault_t, FaultError> {
    if outcome == bindings::vm_fault_reason_VM_FAULT_NOPAGE {
        Ok(outcome)
    } else if outcome & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
        Err(FaultError::OutOfMemory)
    } else {
        Err(FaultError::NoPage)
    }
}
