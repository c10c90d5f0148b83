// SPDX-License-Identifier: GPL-2.0

//! Areas of the kernel's address space, each undone when it is dropped.

use super::{abi::VMALLOC_NPAGES, helpers};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    ffi::c_void,
    io::PhysAddr,
    page::PAGE_SIZE,
    prelude::*, //
};

/// How often pages that are no neighbours are sought.
const ATTEMPTS: usize = 32;

/// Memory of `vmalloc()`, whose pages are not all neighbours.
///
/// # Invariants
///
/// The pointer is what `vmalloc()` gave for [`VMALLOC_NPAGES`] pages, and not freed yet.
pub(super) struct Vmalloc(NonNull<c_void>);

// SAFETY: The memory belongs to the kernel, not to a thread.
unsafe impl Send for Vmalloc {}

impl Vmalloc {
    /// Memory of which at least one page does not follow the one before it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also when RAM is so tidy that all pages follow one another every time.
    pub(super) fn scattered() -> Result<Self> {
        // Kept until the end, so that the next attempt gets other pages.
        let mut tidy = KVec::new();

        for _ in 0..ATTEMPTS {
            let memory = Self::new()?;

            if memory.is_scattered() {
                return Ok(memory);
            }
            tidy.push(memory, GFP_KERNEL)?;
        }
        Err(ENOMEM)
    }

    fn new() -> Result<Self> {
        // SAFETY: Has no requirements.
        let memory = unsafe { helpers::mapwitness_vzalloc(VMALLOC_NPAGES * PAGE_SIZE) };

        // INVARIANT: It is as new.
        NonNull::new(memory).map(Self).ok_or(ENOMEM)
    }

    fn is_scattered(&self) -> bool {
        let pfns = self.pages().map(|page| {
            // SAFETY: By the type invariants the page is one of the kernel's.
            unsafe { helpers::mapwitness_atlas_page_to_pfn(page) }
        });

        pfns.windows(2).any(|pair| pair[0] + 1 != pair[1])
    }

    /// Where it is.
    pub(super) fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// `vmalloc_to_page()` of each page.
    pub(super) fn pages(&self) -> [*mut bindings::page; VMALLOC_NPAGES] {
        core::array::from_fn(|index| {
            let at = self.0.as_ptr().wrapping_byte_add(index * PAGE_SIZE);

            // SAFETY: By the type invariants `at` is an address of that memory.
            unsafe { bindings::vmalloc_to_page(at) }
        })
    }
}

impl Drop for Vmalloc {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is to be freed, and only here.
        unsafe { helpers::vfree(self.0.as_ptr()) };
    }
}

/// Pages that `vmap()` shows side by side.
///
/// # Invariants
///
/// The pointer is what `vmap()` gave, and not undone yet.
pub(super) struct Vmap(NonNull<c_void>);

// SAFETY: The area belongs to the kernel, not to a thread.
unsafe impl Send for Vmap {}

impl Vmap {
    /// Shows these pages.
    ///
    /// # Safety
    ///
    /// The pages are valid and outlive the area.
    pub(super) unsafe fn new<const NPAGES: usize>(
        mut pages: [*mut bindings::page; NPAGES],
    ) -> Result<Self> {
        // SAFETY: There are as many pages, and the caller promises what they are.
        let area = unsafe { helpers::mapwitness_vmap(pages.as_mut_ptr(), NPAGES as u32) };

        // INVARIANT: It is as new.
        NonNull::new(area).map(Self).ok_or(ENOMEM)
    }

    /// Where it is.
    pub(super) fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
}

impl Drop for Vmap {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is to be undone, and only here.
        unsafe { helpers::vunmap(self.0.as_ptr()) };
    }
}

/// A page of a device, by `ioremap()`.
///
/// # Invariants
///
/// The pointer is what `ioremap()` gave for a page, and not undone yet.
pub(super) struct IoPage(NonNull<c_void>);

// SAFETY: The area belongs to the kernel, not to a thread.
unsafe impl Send for IoPage {}

impl IoPage {
    /// The page at `start`.
    pub(super) fn new(start: PhysAddr) -> Result<Self> {
        // SAFETY: The function refuses what cannot be mapped. What is reached through the pointer is up
        // to whoever uses it.
        let area = unsafe { bindings::ioremap(start, PAGE_SIZE) };

        // INVARIANT: It is as new.
        NonNull::new(area).map(Self).ok_or(ENOMEM)
    }

    /// Where it is.
    pub(super) fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn at(&self, offset: u64) -> *mut c_void {
        self.0
            .as_ptr()
            .wrapping_byte_add(offset as usize % PAGE_SIZE)
    }

    /// Reads a register of 32 bits at `offset`, which is a multiple of 4.
    pub(super) fn read32(&self, offset: u64) -> u32 {
        // SAFETY: By the type invariants the register's page is mapped.
        unsafe { helpers::mapwitness_readl(self.at(offset)) }
    }

    /// Writes a register of 32 bits at `offset`, which is a multiple of 4.
    pub(super) fn write32(&self, value: u32, offset: u64) {
        // SAFETY: By the type invariants the register's page is mapped. No register of the device makes
        // it touch memory that was not given to it, apart from the DMA engine's command.
        unsafe { helpers::mapwitness_writel(value, self.at(offset)) };
    }

    /// Writes a register of 64 bits at `offset`, which is a multiple of 8.
    pub(super) fn write64(&self, value: u64, offset: u64) {
        // SAFETY: As for `write32`.
        unsafe { helpers::mapwitness_writeq(value, self.at(offset)) };
    }
}

impl Drop for IoPage {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is to be undone, and only here.
        unsafe { bindings::iounmap(self.0.as_ptr()) };
    }
}

/// A page that is mapped for a moment, on this processor.
///
/// # Invariants
///
/// The pointer is what `__kmap_local_page_prot()` gave to this thread, and not undone yet.
pub(super) struct KmapLocal<'p> {
    area: *mut c_void,
    // Of the thread that made it, and no longer than the page.
    page: PhantomData<(&'p bindings::page, *mut ())>,
}

impl KmapLocal<'_> {
    /// Maps a page.
    ///
    /// # Safety
    ///
    /// The page is valid for the lifetime of the result, and results are dropped in the opposite order
    /// of their making.
    pub(super) unsafe fn new(page: *const bindings::page) -> Self {
        Self {
            // SAFETY: The caller promises that the page is valid. INVARIANT: It is as new.
            area: unsafe { helpers::mapwitness_kmap_local(page) },
            page: PhantomData,
        }
    }

    /// Where it is.
    pub(super) fn address(&self) -> usize {
        self.area as usize
    }
}

impl Drop for KmapLocal<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is to be undone, by this thread; the order is as `new` asks.
        unsafe { helpers::mapwitness_kunmap_local(self.area) };
    }
}
