// SPDX-License-Identifier: GPL-2.0

//! The fault that a driver with all of them shows.

use kernel::{device::Device, ffi, prelude::*};

/// Names of all variants: the first word of each line that is no comment.
static VARIANTS: &str = include_str!("../variants.txt");

extern "C" {
    fn mapwitness_variant(len: *mut usize) -> *const ffi::c_char;
}

/// The module parameter, empty where there is none.
fn parameter() -> &'static [u8] {
    if !cfg!(mapwitness_variant = "any") {
        return b"";
    }
    let mut len = 0;
    // SAFETY: The function only writes the length.
    let text = unsafe { mapwitness_variant(&mut len) };

    // SAFETY: The parameter has that many bytes, and cannot change once the module is loaded.
    unsafe { core::slice::from_raw_parts(text.cast(), len) }
}

/// Whether it names this fault.
pub(super) fn is(name: &str) -> bool {
    parameter() == name.as_bytes()
}

/// Makes sure that it names a fault that there is.
pub(crate) fn check(dev: &Device) -> Result {
    let named = |line: &str| line.split_whitespace().next().map(str::as_bytes) == Some(parameter());

    if !cfg!(mapwitness_variant = "any") || VARIANTS.lines().any(named) {
        return Ok(());
    }
    dev_err!(dev, "the parameter variant= names none of variants.txt\n");
    Err(EINVAL)
}
