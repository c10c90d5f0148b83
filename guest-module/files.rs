// SPDX-License-Identifier: GPL-2.0

//! Which device files there are.

use crate::{
    mm::{Buffer, Hook, MappableDevice, MappableFile, Mmap, MmapPrepare, Window},
    shared::Shared,
    strategy::{
        Around,
        DeviceFile,
        Eager,
        Huge,
        Iomap,
        Lazy,
        MapPages,
        PageFault,
        Pages,
        Prot,
        RemapPfn,
        Strategy,
        Whole, //
    },
};
use kernel::{
    fmt,
    prelude::*,
    str::CString,
    sync::Arc, //
};

/// Something whose dropping removes a device file.
trait Registered: Send + Sync {}

impl<F: MappableFile, H: Hook> Registered for Pin<KBox<MappableDevice<F, H>>> {}

/// Registered device files; dropping them removes all.
pub(crate) struct DeviceFiles(KVec<KBox<dyn Registered>>);

impl DeviceFiles {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Adds the files of window number `index`.
    pub(crate) fn add_window(&mut self, index: usize, window: &Arc<Shared<Window>>) -> Result {
        self.add_both::<RemapPfn>(index, window)?;
        self.add_both::<Eager>(index, window)?;
        self.add_both::<Iomap>(index, window)?;
        self.add_both::<Lazy>(index, window)?;
        self.add_both::<Prot>(index, window)?;
        self.add_both::<Huge>(index, window)?;
        self.add_both::<Around>(index, window)?;
        self.add_both::<Whole>(index, window)
    }

    /// Adds the files of buffer number `index`.
    pub(crate) fn add_buffer(&mut self, index: usize, buffer: &Arc<Shared<Buffer>>) -> Result {
        self.add_both::<Pages>(index, buffer)?;
        self.add_both::<MapPages>(index, buffer)?;
        self.add_both::<PageFault>(index, buffer)
    }

    /// One strategy through both hooks.
    fn add_both<S: Strategy>(&mut self, index: usize, shared: &Arc<Shared<S::Memory>>) -> Result {
        self.add::<S, Mmap>(fmt!("mapwitness-{}{index}", S::NAME), shared)?;
        self.add::<S, MmapPrepare>(fmt!("mapwitness-prepare-{}{index}", S::NAME), shared)
    }

    fn add<S: Strategy, H: Hook>(
        &mut self,
        name: fmt::Arguments<'_>,
        shared: &Arc<Shared<S::Memory>>,
    ) -> Result {
        let name = CString::try_from_fmt(name)?;
        let file = Arc::new(DeviceFile::<S>::new(shared.clone()), GFP_KERNEL)?;
        let device: KBox<dyn Registered> =
            KBox::new(MappableDevice::<_, H>::new(name, file)?, GFP_KERNEL)?;

        self.0.push(device, GFP_KERNEL)?;
        Ok(())
    }
}
