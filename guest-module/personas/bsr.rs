// SPDX-License-Identifier: GPL-2.0

//! bsr: the barrier synchronization register of PowerPC, as `drivers/char/bsr.c` shows it.
//!
//! `mmap`, in this order, after the protection has been made uncached:
//!
//! 1. a register smaller than a page, and a mapping of one page: that page (`remap_4k_pfn()`, which is
//!    `remap_pfn_range()` of one page where pages have 4 KiB)
//! 2. a mapping no longer than the register: all of it, from the register's start (`io_remap_pfn_range()`)
//! 3. else `EINVAL`
//!
//! A remap that fails is `EAGAIN`.
//!
//! Hazards of the original, kept:
//!
//! - The offset is never looked at: a mapping at any offset shows the register from its start.
//! - A register within a page is shown with all that lies around it in that page.
//! - Nothing counts the mappings.

use super::{
    node::Persona,
    SharedWindow, //
};
use crate::mm::{Caching, Memory, PlainMapped, PlainVma};
use kernel::{
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

/// Bytes of a register that shares its page with others.
const SMALL_LEN: usize = 512;

pub(super) struct Bsr {
    window: SharedWindow,
    len_bytes: usize,
}

impl Bsr {
    /// A register that fills the window.
    pub(super) fn new(window: SharedWindow) -> Result<Arc<Self>> {
        let len_bytes = window.memory().npages() * PAGE_SIZE;

        Ok(Arc::new(Self { window, len_bytes }, GFP_KERNEL)?)
    }

    /// A register in the midst of the window's first page.
    pub(super) fn within_a_page(window: SharedWindow) -> Result<Arc<Self>> {
        let len_bytes = SMALL_LEN;

        Ok(Arc::new(Self { window, len_bytes }, GFP_KERNEL)?)
    }
}

impl Persona for Bsr {
    type File = ();

    fn open(self: &Arc<Self>, _: &File) -> Result {
        Ok(())
    }

    fn mmap<'a>(self: &Arc<Self>, (): &(), vma: PlainVma<'a>) -> Result<PlainMapped<'a>> {
        let size = vma.len_bytes();
        let window = self.window.memory();

        vma.set_noncached();
        let remapped = if self.len_bytes < PAGE_SIZE && size == PAGE_SIZE {
            vma.io_remap(window, 0, PAGE_SIZE, Caching::OfVma)
        } else if size <= self.len_bytes {
            vma.io_remap(window, 0, size, Caching::OfVma)
        } else {
            return Err(EINVAL);
        };
        remapped.map_err(|_| EAGAIN)
    }
}
