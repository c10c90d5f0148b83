// SPDX-License-Identifier: GPL-2.0

//! `vm_iomap_memory()`, or `mmap_action_simple_ioremap()`: the kernel counts the offset.

use super::{DeviceFile, Strategy};
use crate::mm::{BeingMapped, ClaimedVma, Window};
use kernel::prelude::*;

/// All pages at once, when `mmap()` is called.
pub(crate) struct Iomap;

impl Strategy for Iomap {
    const NAME: &'static str = "iomap";

    type Memory = Window;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.uncached().iomap()
    }
}
