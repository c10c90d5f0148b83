// SPDX-License-Identifier: GPL-2.0

//! Virtual memory areas that show device memory, from their set-up on.
//!
//! See the [module above](super) for the order of the types.

use super::{
    fault::{vm_operations, FaultOperations},
    helpers,
    window::{Access, Span, Window}, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    mm::virt::{flags, vm_flags_t, VmaNew},
    page::PAGE_SHIFT,
    prelude::*,
    sync::Arc,
    types::ForeignOwnable, //
};

/// A vma in the hands of a driver's `mmap` callback, nothing decided yet.
///
/// # Invariants
///
/// - For the duration of `'a`, the vma is undergoing initialization in an `f_ops->mmap()` hook.
/// - No page table entry has been installed in it, and nobody else configures it.
pub(crate) struct VmaSetup<'a> {
    vma: &'a VmaNew,
}

impl<'a> VmaSetup<'a> {
    /// Lets `map` set up `vma`; fails if and only if `map` does.
    ///
    /// # Safety
    ///
    /// To be called once for a vma, from the `f_ops->mmap()` hook of a file whose `owner` is this
    /// module. The caller must not change `vma` before or after.
    pub(crate) unsafe fn configure(
        vma: &VmaNew,
        map: impl for<'b> FnOnce(VmaSetup<'b>) -> Result<Mapped<'b>>,
    ) -> Result {
        // INVARIANT: A `VmaNew` is undergoing initialization. By the caller's promises this is
        // the only configuration of it, so it is still empty.
        map(VmaSetup { vma }).map(|_| ())
    }

    /// Refuses copy-on-write mappings.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a `MAP_PRIVATE` mapping.
    pub(crate) fn shared_only(self) -> Result<SharedVma<'a>> {
        // `VM_SHARED` is not what to look at: the kernel takes it away from a `MAP_SHARED`
        // mapping of a file that was opened for reading only.
        if self.vma.flags() & flags::MAYSHARE == 0 {
            return Err(EINVAL);
        }
        // INVARIANT: `VM_MAYSHARE` is set.
        Ok(SharedVma { vma: self.vma })
    }
}

/// A [`VmaSetup`] that is not copy-on-write.
///
/// # Invariants
///
/// Those of [`VmaSetup`]; and `VM_MAYSHARE` is set.
pub(crate) struct SharedVma<'a> {
    vma: &'a VmaNew,
}

impl<'a> SharedVma<'a> {
    /// Makes sure that nothing can be executed in this vma, now or after an `mprotect()`.
    ///
    /// # Errors
    ///
    /// `EACCES` when `PROT_EXEC` was asked for.
    pub(crate) fn deny_exec(self) -> Result<Self> {
        self.vma.try_clear_mayexec().map_err(|_| EACCES)?;
        Ok(self)
    }

    /// Ties this vma to the pages of `window` that its offset and length name.
    ///
    /// Over a read-only window the vma can never become writable from here on.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the vma reaches beyond the window; `EACCES` when `PROT_WRITE` was asked for a
    /// read-only window.
    pub(crate) fn claim<'w>(self, window: &'w Window) -> Result<WindowVma<'a, 'w>> {
        let raw = self.vma.as_ptr();
        // SAFETY: By the type invariants the vma is being set up by us alone.
        let pgoff = unsafe { (*raw).vm_pgoff };
        // A vma's end is never below its start.
        let len_bytes = self.vma.end() - self.vma.start();
        let span = window.span(pgoff, len_bytes >> PAGE_SHIFT)?;

        if window.access() == Access::ReadOnly {
            self.vma.try_clear_maywrite().map_err(|_| EACCES)?;
        }

        let device_memory: vm_flags_t =
            flags::IO | flags::PFNMAP | flags::DONTEXPAND | flags::DONTDUMP;
        // SAFETY: The vma is being set up, with the mmap lock held for writing. The flags fit each
        // other: the vma is empty and not copy-on-write, as `VM_PFNMAP` asks, and no `VmaMixedMap` of
        // it exists, as nobody else configures it.
        unsafe { helpers::mapwitness_vm_flags_mod(raw, device_memory, 0) };

        // INVARIANT: The flags were just set; `VM_MAYWRITE` is gone over a read-only window; `span`
        // is as long as the vma, and starts at its page offset.
        Ok(WindowVma {
            vma: self.vma,
            span,
        })
    }
}

/// An empty vma that may show pages of one [`Window`], and is as long as the pages it was
/// checked for.
///
/// # Invariants
///
/// - Those of [`SharedVma`]; and `VM_IO`, `VM_PFNMAP`, `VM_DONTEXPAND` and `VM_DONTDUMP` are set.
/// - `span` is as long as the vma, and its first page is the vma's page offset.
/// - If the window is read-only, then neither `VM_WRITE` nor `VM_MAYWRITE` is set.
pub(crate) struct WindowVma<'a, 'w> {
    vma: &'a VmaNew,
    span: Span<'w>,
}

impl<'a> WindowVma<'a, '_> {
    /// Has the pages mapped without caching (UC- on x86, where a write-combining MTRR wins).
    pub(crate) fn uncached(self) -> Self {
        let raw = self.vma.as_ptr();
        // SAFETY: By the type invariants the vma is being set up by us alone.
        let prot = unsafe { (*raw).vm_page_prot };
        // SAFETY: The function has no requirements.
        let prot = unsafe { helpers::mapwitness_pgprot_noncached(prot) };
        // SAFETY: As above. Access bits are unchanged: only the cache mode differs.
        unsafe { (*raw).vm_page_prot = prot };
        self
    }

    /// Maps all pages now, each page of the vma showing the window's page `source(page)`.
    ///
    /// With the page's [`pgoff`](VmaPage::pgoff) as the source this is the mapping that user space
    /// asked for; a driver may show its pages in another order.
    ///
    /// # Errors
    ///
    /// `EINVAL` when `source` names a page beyond the window; else what `remap_pfn_range()` says.
    pub(crate) fn remap_with(self, source: impl Fn(VmaPage) -> usize) -> Result<Mapped<'a>> {
        let npages = self.span.npages();
        let window = self.span.window();
        let source = |index| {
            source(VmaPage {
                index,
                // Within the window, by the type invariants.
                pgoff: self.span.first() + index,
            })
        };
        let mut done = 0;

        // One call for each stretch of neighbours. Only a vma that is mapped by a single call has
        // its memory type tracked as a whole by the architecture.
        while done < npages {
            let first = source(done);
            let run = (1..npages - done)
                .find(|&next| Some(source(done + next)) != first.checked_add(next))
                .unwrap_or(npages - done);

            self.remap_run(done, window.span(first, run)?)?;
            done += run;
        }
        Ok(Mapped::new())
    }

    /// Maps `pages` at page `at` of the vma, where nothing is mapped yet.
    fn remap_run(&self, at: usize, pages: Span<'_>) -> Result {
        // `remap_with` never leaves the vma, so this is no larger than its end.
        let address = self.vma.start() + (at << PAGE_SHIFT);
        // SAFETY: By the type invariants the vma is being set up by us alone.
        let prot = unsafe { (*self.vma.as_ptr()).vm_page_prot };

        // SAFETY:
        // - The vma is being set up with the mmap lock held for writing, and is no copy-on-write
        //   mapping, so its page offset is left alone.
        // - The range lies within the vma and is empty: `remap_with` visits each page once.
        // - The frames belong to a window that may be shown to user space. `prot` gives no more access
        //   than the vma's flags, which do not say `VM_WRITE` if the window is read-only.
        to_result(unsafe {
            helpers::mapwitness_io_remap_pfn_range(
                self.vma.as_ptr(),
                address,
                pages.first_pfn(),
                pages.len_bytes(),
                prot,
            )
        })
    }

    /// Maps nothing now; `operations` is asked for each page on the first access to it.
    ///
    /// The vma and its descendants (by `fork()`, split or `mremap()`) own a reference to
    /// `operations` each.
    pub(crate) fn map_on_fault<T: FaultOperations>(self, operations: Arc<T>) -> Mapped<'a> {
        let raw = self.vma.as_ptr();

        // SAFETY: By the type invariants the vma is being set up by us alone, and its private data
        // is ours to choose. The vma now owns the reference.
        unsafe { (*raw).vm_private_data = operations.into_foreign() };
        // SAFETY: As above. The operations live as long as this module, which the vma's file keeps
        // loaded; the private data is what those for `T` need; and `VM_PFNMAP` is set.
        unsafe { (*raw).vm_ops = vm_operations::<T>() };
        Mapped::new()
    }
}

/// A page of a vma.
#[derive(Clone, Copy)]
pub(crate) struct VmaPage {
    index: usize,
    pgoff: usize,
}

// A driver needs one or the other, depending on the order in which it shows its pages.
#[allow(dead_code)]
impl VmaPage {
    pub(super) fn new(index: usize, pgoff: usize) -> Self {
        Self { index, pgoff }
    }

    /// Number of pages of the vma that lie before it.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Its offset in the file, in pages.
    pub(crate) fn pgoff(self) -> usize {
        self.pgoff
    }
}

/// Proof that a vma has been set up to its end.
///
/// `'a` names the one vma that it speaks of.
#[must_use]
pub(crate) struct Mapped<'a> {
    // Invariant in `'a`, so that no other vma's proof fits.
    _vma: PhantomData<fn(&'a ()) -> &'a ()>,
}

impl Mapped<'_> {
    fn new() -> Self {
        Self { _vma: PhantomData }
    }
}
