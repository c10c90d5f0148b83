// SPDX-License-Identifier: GPL-2.0

//! A vma in an `mmap` hook, with no order of steps.
//!
//! For drivers that are carried over with the checks that they have and no others: copy-on-write
//! mappings, executable ones and offsets that nobody looks at are all possible here. Still nothing but pages of a
//! [`Window`] and RAM that outlives the mapping can be shown, with no more access than the vma's own,
//! and nothing is ever mapped twice into one place.

use super::{
    fault::FaultError,
    helpers,
    memory::{inserted, Access, Memory},
    window::Window, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    mm::virt::{flags, vm_flags_t, VmaNew},
    page::{Page, PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::ForeignOwnable, //
};

/// How a mapping is cached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// As the vma says.
    OfVma,
    /// `pgprot_writecombine()`.
    WriteCombined,
}

/// A vma in the hands of a driver's `mmap` callback.
///
/// # Invariants
///
/// - For the duration of `'a`, the vma is undergoing initialization in an `f_ops->mmap()` hook.
/// - No page table entry has been installed in it, and nobody else configures it.
pub(crate) struct PlainVma<'a> {
    vma: &'a VmaNew,
}

impl<'a> PlainVma<'a> {
    /// Lets `map` set up `vma`; fails if and only if `map` does.
    ///
    /// # Safety
    ///
    /// To be called once for a vma, from the `f_ops->mmap()` hook of a file whose `owner` is this
    /// module. The caller must not change `vma` before or after.
    pub(crate) unsafe fn configure(
        vma: &VmaNew,
        map: impl for<'b> FnOnce(PlainVma<'b>) -> Result<PlainMapped<'b>>,
    ) -> Result {
        // INVARIANT: A `VmaNew` is undergoing initialization. By the caller's promises this is
        // the only configuration of it, so it is still empty.
        map(PlainVma { vma }).map(|_| ())
    }

    fn raw(&self) -> *mut bindings::vm_area_struct {
        self.vma.as_ptr()
    }

    /// Size in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        // A vma's end is never below its start.
        self.vma.end() - self.vma.start()
    }

    /// Offset in the file, in pages.
    pub(crate) fn pgoff(&self) -> usize {
        // SAFETY: By the type invariants the vma is being set up by us alone.
        unsafe { (*self.raw()).vm_pgoff }
    }

    /// The flags.
    pub(crate) fn flags(&self) -> vm_flags_t {
        self.vma.flags()
    }

    /// Protection of its entries.
    pub(crate) fn page_prot(&self) -> PageProt {
        // SAFETY: By the type invariants the vma is being set up by us alone.
        PageProt(unsafe { (*self.raw()).vm_page_prot })
    }

    /// Has its pages mapped without caching (UC- on x86, where a write-combining MTRR wins).
    pub(crate) fn set_noncached(&self) {
        // SAFETY: The function has no requirements.
        let prot = unsafe { helpers::mapwitness_pgprot_noncached(self.page_prot().0) };
        // SAFETY: By the type invariants the vma is being set up by us alone. Only the cache mode changes.
        unsafe { (*self.raw()).vm_page_prot = prot };
    }

    /// Shows `len_bytes` of `window` from page `first` on, from the start of the vma on; the rest of the
    /// vma stays empty.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is not whole pages that lie both within the vma and within the window, `EACCES`
    /// for a window that is read-only; else what `remap_pfn_range()` says, which wants a copy-on-write vma
    /// to be filled.
    pub(crate) fn io_remap(
        self,
        window: &Window,
        first: usize,
        len_bytes: usize,
        caching: Caching,
    ) -> Result<PlainMapped<'a>> {
        if window.access() == Access::ReadOnly {
            return Err(EACCES);
        }
        if len_bytes % PAGE_SIZE != 0 || len_bytes > self.len_bytes() {
            return Err(EINVAL);
        }
        let pages = window.span(first, len_bytes >> PAGE_SHIFT)?;
        let prot = self.page_prot().0;
        let prot = match caching {
            Caching::OfVma => prot,
            // SAFETY: The function has no requirements.
            Caching::WriteCombined => unsafe { helpers::mapwitness_pgprot_writecombine(prot) },
        };

        // SAFETY: The vma is being set up with the mmap lock held for writing, and is empty; the range lies
        // within it, as just checked. The frames belong to a window that may be shown to user space for
        // reading and writing. The protection is that of the vma but for the cache mode.
        to_result(unsafe {
            helpers::mapwitness_io_remap_pfn_range(
                self.raw(),
                self.vma.start(),
                pages.first_pfn(),
                len_bytes,
                prot,
            )
        })?;
        Ok(PlainMapped::new())
    }

    /// Shows page `page` of `window`, with the vma's offset and length counted by `vm_iomap_memory()`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no such page, or when offset and length leave it; `EACCES` for a window that
    /// is read-only.
    pub(crate) fn iomap_page(self, window: &Window, page: usize) -> Result<PlainMapped<'a>> {
        if window.access() == Access::ReadOnly {
            return Err(EACCES);
        }
        let page = window.span(page, 1)?;
        let start = (page.first_pfn() as bindings::phys_addr_t) << PAGE_SHIFT;

        // SAFETY: As in `io_remap`; the function checks offset and length itself.
        to_result(unsafe { bindings::vm_iomap_memory(self.raw(), start, PAGE_SIZE) })?;
        Ok(PlainMapped::new())
    }

    /// Maps nothing now; `operations` are asked for each page on the first access to it.
    ///
    /// The vma and its descendants (by `fork()`, split or `mremap()`) own a reference to `operations` each.
    pub(crate) fn on_fault<T: PlainFaults>(self, operations: Arc<T>) -> PlainMapped<'a> {
        let device_memory: vm_flags_t =
            flags::IO | flags::PFNMAP | flags::DONTEXPAND | flags::DONTDUMP;
        // SAFETY: The vma is being set up, with the mmap lock held for writing, and is empty. No
        // `VmaMixedMap` of it exists, as nobody else configures it.
        unsafe { helpers::mapwitness_vm_flags_mod(self.raw(), device_memory, 0) };
        // SAFETY: By the type invariants the vma is being set up by us alone, and its private data
        // is ours to choose. The vma now owns the reference.
        unsafe { (*self.raw()).vm_private_data = operations.into_foreign() };
        // SAFETY: As above. The operations live as long as this module, which the vma's file keeps
        // loaded; the private data is what those for `T` need.
        unsafe { (*self.raw()).vm_ops = &Operations::<T>::TABLE };
        PlainMapped::new()
    }
}

/// Proof that a vma has been set up to its end.
#[must_use]
pub(crate) struct PlainMapped<'a> {
    // Invariant in `'a`, so that no other vma's proof fits.
    _vma: PhantomData<fn(&'a ()) -> &'a ()>,
}

impl PlainMapped<'_> {
    fn new() -> Self {
        Self { _vma: PhantomData }
    }
}

/// Protection of page table entries.
#[derive(Clone, Copy)]
pub(crate) struct PageProt(bindings::pgprot_t);

impl PageProt {
    /// What the kernel gives a vma with these flags.
    pub(crate) fn of_flags(vm_flags: vm_flags_t) -> Self {
        // SAFETY: The function only looks into a table.
        Self(unsafe { bindings::vm_get_page_prot(vm_flags) })
    }
}

impl PartialEq for PageProt {
    fn eq(&self, other: &Self) -> bool {
        self.0.pgprot == other.0.pgprot
    }
}

/// What a driver does when user space first touches a page of a [`PlainVma`].
///
/// # Safety
///
/// A page of RAM that was answered stays allocated until `self` is dropped.
pub(crate) unsafe trait PlainFaults: Send + Sync + Sized + 'static {
    /// Answers a fault on the page that is `index` pages behind the start of its vma as that is now, and
    /// `pgoff` pages into the file.
    ///
    /// Runs in process context with the mmap lock or the vma lock held for reading, and may sleep. May
    /// run for the same page on several CPUs at once.
    fn fault(&self, index: usize, pgoff: usize) -> Result<PlainPage<'_>, FaultError>;
}

/// A page with which a fault is answered.
pub(crate) enum PlainPage<'a> {
    /// This one of a window.
    Device(&'a Window, usize),
    /// RAM.
    Ram(RamPage),
}

/// A page of RAM by its address, whoever owns it.
#[derive(Clone, Copy)]
pub(crate) struct RamPage(NonNull<bindings::page>);

impl RamPage {
    /// Names `page`.
    pub(crate) fn of(page: &Page) -> Option<Self> {
        NonNull::new(page.as_ptr()).map(Self)
    }

    /// Has the page cached, or not, wherever the kernel itself maps it: a memory type that a vma asks for
    /// loses against the one that RAM has.
    ///
    /// # Safety
    ///
    /// The page is allocated, and mapped nowhere else.
    pub(crate) unsafe fn set_uncached(self, uncached: bool) -> Result {
        // SAFETY: By the caller's promise the page is there, and nobody else cares how it is cached.
        to_result(unsafe { helpers::mapwitness_set_page_uncached(self.0.as_ptr(), uncached) })
    }
}

struct Operations<T>(PhantomData<T>);

impl<T: PlainFaults> Operations<T> {
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
    /// `vma` is valid, its private data owns an `Arc<T>`, and it is never used again: nothing is mapped
    /// in it any more.
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
        let at = unsafe { (*vmf).__bindgen_anon_1 };
        // SAFETY: A fault's vma is valid and locked.
        let start = unsafe { (*at.vma).__bindgen_anon_1.__bindgen_anon_1.vm_start };
        // SAFETY: As above.
        let vm_flags = unsafe { (*at.vma).__bindgen_anon_2.vm_flags };
        // SAFETY: As above.
        let private = unsafe { (*at.vma).vm_private_data };
        // SAFETY: The pointer came from `Arc::into_foreign`; the vma owns the reference, and is
        // locked during the fault.
        let operations: ArcBorrow<'_, T> = unsafe { <Arc<T> as ForeignOwnable>::borrow(private) };

        // A frame without a `struct page` cannot be shown by a fault where it might be copied.
        if vm_flags & (flags::SHARED | flags::MAYWRITE) == flags::MAYWRITE {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        // The kernel looked the vma up by this address, so it does not lie below the start.
        let index = (at.address - start) >> PAGE_SHIFT;
        let pfn = operations.fault(index, at.pgoff).and_then(frame);
        // SAFETY: We are in the vma's fault operation, and `on_fault` has set its flags as the function
        // demands. The frame belongs to a window that may be read and written, or by `T`'s promise to
        // RAM that stays as long as a vma owns a reference to the operations.
        let insert = |pfn| inserted(unsafe { bindings::vmf_insert_pfn(at.vma, at.address, pfn) });

        match pfn.and_then(insert) {
            Ok(outcome) => outcome,
            Err(FaultError::OutOfMemory) => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(FaultError::NoPage | FaultError::Smaller) => {
                bindings::vm_fault_reason_VM_FAULT_SIGBUS
            }
        }
    }
}

/// The frame of a page that may be shown.
fn frame(page: PlainPage<'_>) -> Result<usize, FaultError> {
    match page {
        PlainPage::Device(window, _) if window.access() == Access::ReadOnly => {
            Err(FaultError::NoPage)
        }
        PlainPage::Device(window, page) => {
            let page = window.span(page, 1).map_err(|_| FaultError::NoPage)?;
            Ok(page.first_pfn())
        }
        PlainPage::Ram(RamPage(page)) => {
            // SAFETY: The page is allocated, which is all that its number takes.
            Ok(unsafe { helpers::mapwitness_page_to_pfn(page.as_ptr()) })
        }
    }
}
