// SPDX-License-Identifier: GPL-2.0

//! The C functions of `helpers.c`.

use kernel::{bindings, ffi};

// Some kernel configurations leave empty structs deep inside `vm_area_struct`; it is only pointed to.
#[allow(improper_ctypes)]
extern "C" {
    /// `pgprot_noncached()`: the protection with caching turned off (UC- on x86).
    pub(super) fn mapwitness_pgprot_noncached(prot: bindings::pgprot_t) -> bindings::pgprot_t;

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
}
