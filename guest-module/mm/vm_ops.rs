// SPDX-License-Identifier: GPL-2.0

//! The C operations of a vma.

use super::{
    fault::{Around, Fault, FaultError, FaultOperations, HugeFault},
    setup::VmaPage, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::from_result,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::ForeignOwnable, //
};

/// The operations of a vma whose private data owns an `Arc<T>`, or is NULL while it is new.
///
/// Every vma with these operations owns one reference: [`open`](Self::open) takes one for each copy,
/// [`close`](Self::close) gives one back, and nothing else touches them. So they are balanced whatever
/// splits, moves, forks and unmaps happen to the mapping.
///
/// They must be given only to a vma that [`Fault`]'s invariants hold for.
pub(super) struct VmOperations<T>(PhantomData<T>);

impl<T: FaultOperations> VmOperations<T> {
    /// For a vma whose private data owns an `Arc<T>` already.
    pub(super) fn of_mmap() -> &'static bindings::vm_operations_struct {
        &Self::OF_MMAP
    }

    /// For the description of a vma whose private data is NULL; its file's own private data must own an
    /// `Arc<T::File>`.
    pub(super) fn of_mmap_prepare() -> &'static bindings::vm_operations_struct {
        &Self::OF_MMAP_PREPARE
    }

    const OF_MMAP: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        may_split: if T::HAS_MAY_SPLIT {
            Some(Self::may_split)
        } else {
            None
        },
        fault: Some(Self::fault),
        huge_fault: if T::HAS_HUGE_FAULT {
            Some(Self::huge_fault)
        } else {
            None
        },
        map_pages: if T::HAS_MAP_PAGES {
            Some(Self::map_pages)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    // The kernel refuses `mapped` in operations that an `mmap` hook has set.
    const OF_MMAP_PREPARE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        mapped: Some(Self::mapped),
        ..Self::OF_MMAP
    };

    /// # Safety
    ///
    /// `file` is valid and its private data owns an `Arc<T::File>`; `private` points to the private data of
    /// a vma of it that is new, which is NULL.
    unsafe extern "C" fn mapped(
        _start: c_ulong,
        _end: c_ulong,
        _pgoff: c_ulong,
        file: *const bindings::file,
        private: *mut *mut c_void,
    ) -> c_int {
        // SAFETY: By the caller's promise `file` is valid.
        let opened = unsafe { (*file).private_data };
        // SAFETY: The pointer came from `Arc::into_foreign`; the open file owns the reference.
        let opened: ArcBorrow<'_, T::File> =
            unsafe { <Arc<T::File> as ForeignOwnable>::borrow(opened) };

        from_result(|| {
            let operations = T::of(opened)?;

            // SAFETY: By the caller's promise the private data is to be chosen here. The vma now owns the
            // reference.
            unsafe { *private = operations.into_foreign() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `vma` is valid, write-locked, and a copy of a vma with these operations.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the caller's promise `vma` is valid, and locked.
        if let Some(operations) = unsafe { Self::operations(vma) } {
            // The copy owns a reference too. It is the same pointer, so the private data stays.
            let _ = Arc::from(operations).into_foreign();
        }
    }

    /// # Safety
    ///
    /// `vma` is valid, has these operations, and is never used again.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the caller's promise `vma` is valid.
        let private = unsafe { (*vma).vm_private_data };

        // A mapping that failed before `mapped` was called is closed too.
        if !private.is_null() {
            // SAFETY: The pointer came from `Arc::into_foreign`. The vma gives up its reference here, and
            // is not used any more.
            drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(private) });
        }
    }

    /// # Safety
    ///
    /// `vma` is valid, locked, has these operations, and contains `address`.
    unsafe extern "C" fn may_split(vma: *mut bindings::vm_area_struct, address: c_ulong) -> c_int {
        // SAFETY: By the caller's promise `vma` is valid and locked.
        let Some(operations) = (unsafe { Self::operations(vma) }) else {
            return 0;
        };
        // SAFETY: By the caller's promise `vma` is valid.
        let range = unsafe { (*vma).__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: As above.
        let pgoff = unsafe { (*vma).vm_pgoff };
        let index = (address - range.vm_start) >> PAGE_SHIFT;
        let npages = (range.vm_end - range.vm_start) >> PAGE_SHIFT;

        from_result(|| {
            operations
                .may_split(VmaPage::new(index, pgoff + index, npages))
                .map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// `vmf` is valid, and its vma is locked and has these operations.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the caller's promise.
        let Some(operations) = (unsafe { Self::of_fault(vmf) }) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        // SAFETY: `vmf` is valid and its vma locked until this function returns. Only
        // `ClaimedVma::map_on_fault` gives these operations to a vma, with flags as demanded, which
        // the kernel changes neither in copies nor later.
        let fault = unsafe { Fault::new(vmf, operations.memory()) };

        match operations.fault(fault) {
            Ok(installed) => installed.outcome(),
            // There is nothing smaller than a page.
            Err(FaultError::Smaller) => FaultError::NoPage.outcome(),
            Err(error) => error.outcome(),
        }
    }

    /// # Safety
    ///
    /// As for [`fault`](Self::fault).
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // SAFETY: By the caller's promise.
        let Some(operations) = (unsafe { Self::of_fault(vmf) }) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        // SAFETY: As in `fault`.
        let Some(fault) = (unsafe { HugeFault::new(vmf, order, operations.memory()) }) else {
            return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        };

        match operations.huge_fault(fault) {
            Ok(installed) => installed.outcome(),
            Err(error) => error.outcome(),
        }
    }

    /// # Safety
    ///
    /// As for [`fault`](Self::fault).
    unsafe extern "C" fn map_pages(
        vmf: *mut bindings::vm_fault,
        _first: c_ulong,
        _last: c_ulong,
    ) -> bindings::vm_fault_t {
        // SAFETY: By the caller's promise.
        let Some(operations) = (unsafe { Self::of_fault(vmf) }) else {
            return 0;
        };
        // SAFETY: As in `fault`.
        let Some(around) = (unsafe { Around::new(vmf, operations.memory()) }) else {
            return 0;
        };

        // Nothing installed is no error here: the kernel goes on to `fault`.
        operations
            .map_pages(around)
            .map_or(0, |installed| installed.outcome())
    }

    /// # Safety
    ///
    /// `vmf` is valid, and its vma is locked for `'a` and has these operations.
    unsafe fn of_fault<'a>(vmf: *mut bindings::vm_fault) -> Option<ArcBorrow<'a, T>> {
        // SAFETY: By the caller's promise `vmf` is valid.
        let vma = unsafe { (*vmf).__bindgen_anon_1.vma };

        // SAFETY: A fault's vma is valid, and by the caller's promise locked.
        unsafe { Self::operations(vma) }
    }

    /// # Safety
    ///
    /// `vma` is valid, locked for `'a`, and has these operations.
    unsafe fn operations<'a>(vma: *mut bindings::vm_area_struct) -> Option<ArcBorrow<'a, T>> {
        // SAFETY: By the caller's promise `vma` is valid.
        let private = unsafe { (*vma).vm_private_data };

        if private.is_null() {
            return None;
        }
        // SAFETY: The pointer came from `Arc::into_foreign`; the vma owns the reference, and is locked.
        Some(unsafe { <Arc<T> as ForeignOwnable>::borrow(private) })
    }
}

impl FaultError {
    /// What a fault operation returns.
    fn outcome(self) -> bindings::vm_fault_t {
        match self {
            Self::NoPage => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Self::OutOfMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
            Self::Smaller => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
        }
    }
}
