// SPDX-License-Identifier: GPL-2.0

//! The ways in which a device file maps its window.

use crate::{
    mm::{Mapped, WindowVma},
    planted,
    window_device::WindowDevice, //
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// How and when the pages of a mapping are mapped.
pub(crate) trait Strategy: Send + Sync + 'static {
    /// Completes a vma that has been checked against the window of `device`.
    fn map<'a>(device: ArcBorrow<'_, WindowDevice>, vma: WindowVma<'a, '_>) -> Result<Mapped<'a>>;
}

/// All pages at once, when `mmap()` is called.
pub(crate) struct Eager;

impl Strategy for Eager {
    fn map<'a>(_: ArcBorrow<'_, WindowDevice>, vma: WindowVma<'a, '_>) -> Result<Mapped<'a>> {
        vma.remap_with(planted::source_page)
    }
}

/// Each page when it is first touched.
pub(crate) struct Lazy;

impl Strategy for Lazy {
    fn map<'a>(device: ArcBorrow<'_, WindowDevice>, vma: WindowVma<'a, '_>) -> Result<Mapped<'a>> {
        Ok(vma.map_on_fault(Arc::from(device)))
    }
}
