// SPDX-License-Identifier: GPL-2.0

//! Mapping pages on the first access to them.

use super::{
    vma::VmaPage,
    window::{Access, Span}, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    mm::virt::flags,
    page::PAGE_SHIFT,
    sync::{Arc, ArcBorrow},
    types::ForeignOwnable, //
};

/// What a driver does when user space first touches a page of its mapping.
///
/// Installed by [`WindowVma::map_on_fault`](super::WindowVma::map_on_fault).
pub(crate) trait FaultOperations: Send + Sync + Sized + 'static {
    /// Answers one fault, by [`Fault::install`] or by an error.
    ///
    /// Runs in process context with the mmap lock or the vma lock held for reading, and may sleep. May
    /// run for the same page on several CPUs at once.
    fn fault<'a>(&self, fault: Fault<'a>) -> Result<Installed<'a>, FaultError>;
}

/// Why a fault could not be answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultError {
    /// There is no such page, or it may not be shown: `SIGBUS`.
    NoPage,
    /// A page table could not be allocated.
    OutOfMemory,
}

/// A fault that waits for its answer.
///
/// # Invariants
///
/// - For the duration of `'a`, `vmf` is valid and its vma is locked, at least for reading.
/// - The vma is one that [`WindowVma::map_on_fault`](super::WindowVma::map_on_fault) has set up, or
///   its descendant: `VM_PFNMAP` is set, `VM_MIXEDMAP` is not, and it is not copy-on-write.
pub(crate) struct Fault<'a> {
    vmf: *mut bindings::vm_fault,
    _lock: PhantomData<&'a ()>,
}

impl<'a> Fault<'a> {
    /// The page that was touched.
    pub(crate) fn page(&self) -> VmaPage {
        let vma = self.vma();
        // SAFETY: By the type invariants the vma is valid and locked.
        let start = unsafe { (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start };
        // SAFETY: By the type invariants `vmf` is valid.
        let pgoff = unsafe { (*self.vmf).__bindgen_anon_1.pgoff };

        // The kernel looked the vma up by this address, so it does not lie below the start.
        VmaPage::new((self.address() - start) >> PAGE_SHIFT, pgoff)
    }

    /// Shows `page` where the fault happened.
    ///
    /// # Errors
    ///
    /// [`FaultError::NoPage`] also when `page` is read-only but the vma is not.
    pub(crate) fn install(self, page: Span<'_>) -> Result<Installed<'a>, FaultError> {
        let vma = self.vma();
        // SAFETY: By the type invariants the vma is valid and locked.
        let vma_flags = unsafe { (*vma).__bindgen_anon_2.vm_flags };

        if page.window().access() == Access::ReadOnly && vma_flags & flags::MAYWRITE != 0 {
            return Err(FaultError::NoPage);
        }

        // SAFETY: We are in the vma's fault operation. By the type invariants its flags are such as
        // the function demands. The frame belongs to a window that may be shown to user space, with
        // the access that the vma gives, as just checked.
        let outcome = unsafe { bindings::vmf_insert_pfn(vma, self.address(), page.first_pfn()) };

        if outcome == bindings::vm_fault_reason_VM_FAULT_NOPAGE {
            Ok(Installed {
                _fault: PhantomData,
            })
        } else if outcome & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
            Err(FaultError::OutOfMemory)
        } else {
            Err(FaultError::NoPage)
        }
    }

    fn vma(&self) -> *mut bindings::vm_area_struct {
        // SAFETY: By the type invariants `vmf` is valid.
        unsafe { (*self.vmf).__bindgen_anon_1.vma }
    }

    /// First byte of the page that was touched.
    fn address(&self) -> usize {
        // SAFETY: By the type invariants `vmf` is valid.
        unsafe { (*self.vmf).__bindgen_anon_1.address }
    }
}

/// Proof that a [`Fault`] has its page.
#[must_use]
pub(crate) struct Installed<'a> {
    // Invariant in `'a`, so that no other fault's proof fits.
    _fault: PhantomData<fn(&'a ()) -> &'a ()>,
}

/// The C operations of a vma whose private data owns an `Arc<T>`.
///
/// They must be given only to a vma that [`Fault`]'s invariants hold for.
pub(super) fn vm_operations<T: FaultOperations>() -> &'static bindings::vm_operations_struct {
    &VmOperations::<T>::TABLE
}

struct VmOperations<T>(PhantomData<T>);

impl<T: FaultOperations> VmOperations<T> {
    const TABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `vma` is valid, write-locked, and a copy of a vma whose private data owns an `Arc<T>`.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the caller's promise `vma` is valid.
        let private = unsafe { (*vma).vm_private_data };
        // SAFETY: The pointer came from `Arc::into_foreign`, and the vma that this one was copied
        // from still owns that reference.
        let operations = unsafe { <Arc<T> as ForeignOwnable>::borrow(private) };

        // The copy owns a reference too. It is the same pointer, so the private data stays.
        let _ = Arc::from(operations).into_foreign();
    }

    /// # Safety
    ///
    /// `vma` is valid, its private data owns an `Arc<T>`, and it is never used again.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the caller's promise `vma` is valid.
        let private = unsafe { (*vma).vm_private_data };
        // SAFETY: The pointer came from `Arc::into_foreign`. The vma gives up its reference here, and
        // is not used any more.
        drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(private) });
    }

    /// # Safety
    ///
    /// `vmf` is valid, and its vma is locked and has private data that owns an `Arc<T>`.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the caller's promise `vmf` is valid.
        let vma = unsafe { (*vmf).__bindgen_anon_1.vma };
        // SAFETY: A fault's vma is valid.
        let private = unsafe { (*vma).vm_private_data };
        // SAFETY: The pointer came from `Arc::into_foreign`; the vma owns the reference, and is
        // locked during the fault.
        let operations: ArcBorrow<'_, T> = unsafe { <Arc<T> as ForeignOwnable>::borrow(private) };

        // INVARIANT: `vmf` is valid and its vma locked until this function returns. Only
        // `WindowVma::map_on_fault` gives these operations to a vma, with flags as demanded, which
        // the kernel changes neither in copies nor later.
        let fault = Fault {
            vmf,
            _lock: PhantomData,
        };
        match operations.fault(fault) {
            Ok(Installed { .. }) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Err(FaultError::NoPage) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Err(FaultError::OutOfMemory) => bindings::vm_fault_reason_VM_FAULT_OOM,
        }
    }
}
