// SPDX-License-Identifier: GPL-2.0

//! Physical memory that may be shown to user space.

use kernel::{
    bindings,
    io::{PhysAddr, Resource},
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// What user space may do with the memory of a [`Window`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may be read.
    ReadOnly,
    /// It may be read and written.
    ReadWrite,
}

/// A stretch of device memory that a driver offers to user space, in whole pages.
///
/// # Invariants
///
/// - `npages` is not zero, and the byte address of the last of the `npages` frames from `first_pfn`
///   on fits in a [`PhysAddr`].
/// - None of these frames belonged to System RAM when the window was made.
/// - The frames are memory of a device whose driver offers them to user space with `access`.
pub(crate) struct Window {
    first_pfn: usize,
    npages: usize,
    access: Access,
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

    /// What user space may do with the window.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// The `npages` pages from page `first` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there are none, or when they are not all inside the window.
    pub(super) fn span(&self, first: usize, npages: usize) -> Result<Span<'_>> {
        let end = first.checked_add(npages).ok_or(EINVAL)?;

        if npages == 0 || end > self.npages {
            return Err(EINVAL);
        }
        // INVARIANT: `first < end <= window.npages`, as just checked.
        Ok(Span {
            window: self,
            first,
            npages,
        })
    }

    /// Page `index`, or [`None`] past the window's end.
    pub(crate) fn page(&self, index: usize) -> Option<Span<'_>> {
        self.span(index, 1).ok()
    }
}

/// Pages of a [`Window`] that follow one another.
///
/// # Invariants
///
/// There is at least one page, and all pages from `first` to `first + npages - 1` lie inside `window`.
#[derive(Clone, Copy)]
pub(crate) struct Span<'w> {
    window: &'w Window,
    first: usize,
    npages: usize,
}

impl<'w> Span<'w> {
    /// The window that the pages belong to.
    pub(super) fn window(&self) -> &'w Window {
        self.window
    }

    /// Index of the first page within the window.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Number of pages.
    pub(super) fn npages(&self) -> usize {
        self.npages
    }

    /// Size in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        // By the type invariants of both types this is no larger than the size that the window
        // was made from.
        self.npages << PAGE_SHIFT
    }

    /// Frame of the first page; the others follow it.
    pub(super) fn first_pfn(&self) -> usize {
        // By the type invariants of both types this frame's address fits in a `PhysAddr`.
        self.window.first_pfn + self.first
    }
}
