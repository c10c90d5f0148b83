// SPDX-License-Identifier: GPL-2.0

//! `io_remap_pfn_range()`, or `mmap_action_ioremap()`.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{BeingMapped, ClaimedVma, Remap, Window},
    planted, //
};
use kernel::prelude::*;

/// All pages at once, when `mmap()` is called.
pub(crate) struct Eager;

impl Strategy for Eager {
    const NAME: &'static str = "eager";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().remap_with(Remap::Io, planted::source_page)
    }
}
