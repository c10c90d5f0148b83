// SPDX-License-Identifier: GPL-2.0

//! `vm_map_pages()`, or `mmap_action_map_kernel_pages()`.

use super::{DeviceFile, Strategy};
use crate::mm::{BeingMapped, Buffer, ClaimedVma, Insert};
use kernel::prelude::*;

/// All pages of a buffer at once, when `mmap()` is called.
pub(crate) struct MapPages;

impl Strategy for MapPages {
    const NAME: &'static str = "mappages";

    type Memory = Buffer;

    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>,
    {
        vma.insert(Insert::All)
    }
}
