// SPDX-License-Identifier: GPL-2.0

//! `remap_pfn_range()`, or `mmap_action_remap()`.

use super::{DeviceFile, Strategy};
use crate::{
    mm::{BeingMapped, ClaimedVma, Remap, Window},
    planted, //
};
use kernel::prelude::*;

/// All pages at once, when `mmap()` is called.
pub(crate) struct RemapPfn;

impl Strategy for RemapPfn {
    const NAME: &'static str = "remap";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().remap_with(Remap::Pfn, planted::source_page)
    }
}
