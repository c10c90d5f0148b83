// SPDX-License-Identifier: GPL-2.0

//! Faults that a build of the driver may carry on purpose.
//!
//! The driver takes each decision that a fault can spoil through one function of this file. In the
//! good driver each returns what it should; a variant of `variants.txt`, chosen at build time,
//! replaces one of them. The rest of the driver knows nothing of variants.

use crate::mm::VmaPage;

/// The window page that `page` of a mapping is to show.
#[cfg(not(any(mapwitness_variant = "off-by-one", mapwitness_variant = "wrong-offset")))]
#[inline(always)]
pub(crate) fn source_page(page: VmaPage) -> usize {
    page.offered()
}

/// As it should be, except that the second page shows the first one's.
#[cfg(mapwitness_variant = "off-by-one")]
#[inline(always)]
pub(crate) fn source_page(page: VmaPage) -> usize {
    match page.index() {
        1 => page.offered().saturating_sub(1),
        _ => page.offered(),
    }
}

/// As if every mapping had been asked for from offset 0.
#[cfg(mapwitness_variant = "wrong-offset")]
#[inline(always)]
pub(crate) fn source_page(page: VmaPage) -> usize {
    page.index()
}
