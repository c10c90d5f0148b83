// SPDX-License-Identifier: GPL-2.0

//! The C functions of `helpers.c`, and some of the kernel that have no binding.

use kernel::{bindings, ffi};

// Some kernel configurations leave empty structs deep inside `page`; it is only pointed to.
#[allow(improper_ctypes)]
extern "C" {
    /// `virt_to_page()`, for addresses of the direct map only.
    pub(super) fn mapwitness_virt_to_page(addr: *const ffi::c_void) -> *mut bindings::page;

    /// `page_to_pfn()`.
    pub(super) fn mapwitness_atlas_page_to_pfn(page: *const bindings::page) -> ffi::c_ulong;

    /// `pfn_to_page()`.
    pub(super) fn mapwitness_pfn_to_page(pfn: ffi::c_ulong) -> *mut bindings::page;

    /// `page_address()`.
    pub(super) fn mapwitness_page_address(page: *const bindings::page) -> *mut ffi::c_void;

    /// `virt_to_phys()`, for addresses of the direct map only.
    pub(super) fn mapwitness_virt_to_phys(addr: *const ffi::c_void) -> bindings::phys_addr_t;

    /// `__kmap_local_page_prot(page, PAGE_KERNEL)`.
    pub(super) fn mapwitness_kmap_local(page: *const bindings::page) -> *mut ffi::c_void;

    /// `kunmap_local()`.
    pub(super) fn mapwitness_kunmap_local(addr: *const ffi::c_void);

    /// `vmap(pages, npages, VM_MAP, PAGE_KERNEL)`.
    pub(super) fn mapwitness_vmap(
        pages: *mut *mut bindings::page,
        npages: ffi::c_uint,
    ) -> *mut ffi::c_void;

    /// `vzalloc()`.
    pub(super) fn mapwitness_vzalloc(len_bytes: ffi::c_ulong) -> *mut ffi::c_void;

    /// Frees memory of `vmalloc()`.
    pub(super) fn vfree(addr: *const ffi::c_void);

    /// Undoes `vmap()`.
    pub(super) fn vunmap(addr: *const ffi::c_void);

    /// `task_tgid_nr(current)`.
    pub(super) fn mapwitness_current_tgid() -> bindings::pid_t;

    /// `readl()`.
    pub(super) fn mapwitness_readl(addr: *const ffi::c_void) -> u32;

    /// `writel()`.
    pub(super) fn mapwitness_writel(value: u32, addr: *mut ffi::c_void);

    /// `writeq()`.
    pub(super) fn mapwitness_writeq(value: u64, addr: *mut ffi::c_void);
}
