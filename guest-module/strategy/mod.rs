// SPDX-License-Identifier: GPL-2.0

//! The ways in which a device file maps its memory, one in each file.
//!
//! A device file is a strategy, a hook and a memory: `/dev/mapwitness-<strategy><index>` is mapped by the
//! `mmap` hook, `/dev/mapwitness-prepare-<strategy><index>` by `mmap_prepare`.

mod around;
mod eager;
mod huge;
mod iomap;
mod lazy;
mod mappages;
mod pagefault;
mod pages;
mod prot;
mod remap;
mod whole;

use crate::{
    mm::{BeingMapped, ClaimedVma, MappableFile, Memory, VmaSetup},
    shared::Shared, //
};
use core::marker::PhantomData;
use kernel::{fs::File, prelude::*, sync::Arc};

pub(crate) use around::Around;
pub(crate) use eager::Eager;
pub(crate) use huge::Huge;
pub(crate) use iomap::Iomap;
pub(crate) use lazy::Lazy;
pub(crate) use mappages::MapPages;
pub(crate) use pagefault::PageFault;
pub(crate) use pages::Pages;
pub(crate) use prot::Prot;
pub(crate) use remap::RemapPfn;
pub(crate) use whole::Whole;

/// How and when the pages of a mapping are mapped.
pub(crate) trait Strategy: Sized + Send + Sync + 'static {
    /// Its name in those of its device files.
    const NAME: &'static str;

    /// Whether it wants mappings aligned to 2 MiB.
    const ALIGN_HUGE: bool = false;

    /// What it maps.
    type Memory: Memory;

    /// Completes a vma that has been checked against the memory.
    ///
    /// # Errors
    ///
    /// Any; the mapping then fails with it.
    fn map<V>(vma: ClaimedVma<V>) -> Result<V::Done>
    where
        V: BeingMapped<File = DeviceFile<Self>>;
}

/// What an open device file is.
pub(crate) struct DeviceFile<S: Strategy> {
    shared: Arc<Shared<S::Memory>>,
    _strategy: PhantomData<S>,
}

impl<S: Strategy> DeviceFile<S> {
    /// A file that maps `shared`.
    pub(crate) fn new(shared: Arc<Shared<S::Memory>>) -> Self {
        Self {
            shared,
            _strategy: PhantomData,
        }
    }

    /// The memory and its users.
    fn shared(&self) -> &Shared<S::Memory> {
        &self.shared
    }
}

impl<S: Strategy> MappableFile for DeviceFile<S> {
    type Memory = S::Memory;
    type OwnerModule = crate::LocalModule;

    const ALIGN_HUGE: bool = S::ALIGN_HUGE;

    fn offers(&self) -> &S::Memory {
        self.shared.memory()
    }

    fn open(&self, file: &File) -> Result {
        self.shared.add_file(file)
    }

    fn release(&self, file: &File) {
        self.shared.remove_file(file);
    }

    fn map<V: BeingMapped<File = Self>>(vma: VmaSetup<V>) -> Result<V::Done> {
        let shared = vma.file().shared.clone();

        shared.map::<S, V>(vma)
    }
}
