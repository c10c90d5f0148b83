// SPDX-License-Identifier: GPL-2.0

//! RAM of a driver.

use super::{
    fault::FaultError,
    helpers,
    memory::{Access, Frames, Memory, Span}, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    mm::virt::{flags, vm_flags_t},
    page::{Page, PAGE_SHIFT},
    prelude::*, //
};

/// Pages of RAM that a driver shares with user space.
///
/// Each page has a reference of the buffer's own and one for each page table entry that shows it: the
/// kernel frees a page when the last of them is gone, whichever that is. So a mapping may outlive the
/// buffer.
///
/// # Invariants
///
/// - `pages[i]` is the `struct page` that `owned[i]` owns; both have the same length, which is not zero.
/// - Every page is a single one, all zeroes when the buffer was made: it never showed anybody else's data.
pub(crate) struct Buffer {
    owned: KVec<Page>,
    pages: KVec<*mut bindings::page>,
}

// SAFETY: The pointers are to the pages that the buffer owns, and `Page` may be sent and shared.
unsafe impl Send for Buffer {}

// SAFETY: As above; the pointers are only copied through a shared reference.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of `npages` pages, all zeroes.
    ///
    /// # Errors
    ///
    /// `EINVAL` for no pages at all, `ENOMEM`.
    pub(crate) fn new(npages: usize) -> Result<Self> {
        let mut owned = KVec::with_capacity(npages, GFP_KERNEL)?;
        let mut pages = KVec::with_capacity(npages, GFP_KERNEL)?;

        if npages == 0 {
            return Err(EINVAL);
        }
        for _ in 0..npages {
            let page = Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?;

            pages.push(page.as_ptr(), GFP_KERNEL)?;
            owned.push(page, GFP_KERNEL)?;
        }
        // INVARIANT: Each page was just allocated, zeroed, and is in both lists.
        Ok(Self { owned, pages })
    }

    /// Physical address of page `index`, for the device that shares it.
    pub(crate) fn address(&self, index: usize) -> Option<PhysAddr> {
        let page = self.owned.get(index)?;
        // SAFETY: The page is owned by the buffer.
        let pfn = unsafe { helpers::mapwitness_page_to_pfn(page.as_ptr()) };

        Some((pfn as PhysAddr) << PAGE_SHIFT)
    }

    /// The pages, for functions that take all of a buffer.
    pub(super) fn pages(&self) -> &[*mut bindings::page] {
        &self.pages
    }
}

impl Memory for Buffer {
    fn npages(&self) -> usize {
        self.pages.len()
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }
}

impl Frames for Buffer {
    const VMA_FLAGS: vm_flags_t = flags::MIXEDMAP;

    unsafe fn answer(
        &self,
        vmf: *mut bindings::vm_fault,
        index: usize,
    ) -> Result<bindings::vm_fault_t, FaultError> {
        let page = *self.pages.get(index).ok_or(FaultError::NoPage)?;

        // SAFETY: The buffer owns the page, so it has a reference already.
        unsafe { helpers::mapwitness_get_page(page) };
        // SAFETY: By the caller's promise `vmf` is valid. The caller of the fault operation takes over
        // the reference.
        unsafe { (*vmf).page = page };
        Ok(0)
    }
}

impl Span<'_, Buffer> {
    /// The pages.
    pub(super) fn pages(&self) -> &[*mut bindings::page] {
        // By the type invariants of both types they are all there.
        &self.memory().pages[self.first()..self.first() + self.npages()]
    }
}
