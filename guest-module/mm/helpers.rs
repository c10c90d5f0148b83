// SPDX-License-Identifier: GPL-2.0

//! The C functions of `helpers.c`.

use kernel::{bindings, ffi};

// Some kernel configurations leave empty structs deep inside `vm_area_struct`; it is only pointed to.
#[allow(improper_ctypes)]
extern "C" {
    /// `pgprot_noncached()`: the protection with caching turned off (UC- on x86).
    pub(super) fn mapwitness_pgprot_noncached(prot: bindings::pgprot_t) -> bindings::pgprot_t;

    /// `pgprot_writecombine()`: the protection with stores combined.
    pub(super) fn mapwitness_pgprot_writecombine(prot: bindings::pgprot_t) -> bindings::pgprot_t;

    /// `io_remap_pfn_range()`.
    pub(super) fn mapwitness_io_remap_pfn_range(
        vma: *mut bindings::vm_area_struct,
        addr: ffi::c_ulong,
        pfn: ffi::c_ulong,
        size: ffi::c_ulong,
        prot: bindings::pgprot_t,
    ) -> ffi::c_int;

    /// `vm_flags_mod()`.
    pub(super) fn mapwitness_vm_flags_mod(
        vma: *mut bindings::vm_area_struct,
        set: bindings::vm_flags_t,
        clear: bindings::vm_flags_t,
    );

    /// `mmap_action_remap()`.
    pub(super) fn mapwitness_mmap_action_remap(
        desc: *mut bindings::vm_area_desc,
        start: ffi::c_ulong,
        pfn: ffi::c_ulong,
        size: ffi::c_ulong,
    );

    /// `mmap_action_ioremap()`.
    pub(super) fn mapwitness_mmap_action_ioremap(
        desc: *mut bindings::vm_area_desc,
        start: ffi::c_ulong,
        pfn: ffi::c_ulong,
        size: ffi::c_ulong,
    );

    /// `mmap_action_simple_ioremap()`.
    pub(super) fn mapwitness_mmap_action_simple_ioremap(
        desc: *mut bindings::vm_area_desc,
        start: bindings::phys_addr_t,
        size: ffi::c_ulong,
    );

    /// `mmap_action_map_kernel_pages()`.
    pub(super) fn mapwitness_mmap_action_map_kernel_pages(
        desc: *mut bindings::vm_area_desc,
        start: ffi::c_ulong,
        pages: *mut *mut bindings::page,
        nr_pages: ffi::c_ulong,
    );

    /// `get_page()`.
    pub(super) fn mapwitness_get_page(page: *mut bindings::page);

    /// `put_page()`; no page of a good driver goes but with its owner.
    #[allow(dead_code)]
    pub(super) fn mapwitness_put_page(page: *mut bindings::page);

    /// `page_to_pfn()`.
    pub(super) fn mapwitness_page_to_pfn(page: *const bindings::page) -> ffi::c_ulong;

    /// Has the kernel's own mapping of a page of RAM uncached (UC- on x86), or cached again.
    pub(super) fn mapwitness_set_page_uncached(
        page: *mut bindings::page,
        uncached: bool,
    ) -> ffi::c_int;

    /// Whether the entry points to a table of the lowest level.
    pub(super) fn mapwitness_pmd_has_table(pmd: *const bindings::pmd_t) -> bool;

    /// `vmf_insert_pfn_pmd()`, or `VM_FAULT_FALLBACK` where there are no huge pages.
    pub(super) fn mapwitness_vmf_insert_pfn_pmd(
        vmf: *mut bindings::vm_fault,
        pfn: ffi::c_ulong,
        write: bool,
    ) -> bindings::vm_fault_t;
}
