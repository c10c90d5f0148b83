// SPDX-License-Identifier: GPL-2.0

//! `/dev/mapwitness-control`: what the driver does to its own mappings on request.

use crate::{
    ioctls::{Target, RESTORE, REVOKE},
    mm::{Buffer, Memory, Window},
    shared::Shared, //
};
use kernel::{
    container_of,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
    sync::{Arc, ArcBorrow},
    uaccess::{UserPtr, UserSlice}, //
};

/// Everything that the driver offers to user space.
pub(crate) struct Everything {
    pub(crate) windows: KVec<Arc<Shared<Window>>>,
    pub(crate) buffers: KVec<Arc<Shared<Buffer>>>,
}

impl Everything {
    fn revoke(&self, target: Target) -> Result {
        match target.is_buffer {
            true => of(&self.buffers, target.index)?.revoke(),
            false => of(&self.windows, target.index)?.revoke(),
        }
    }

    fn restore(&self, target: Target) -> Result {
        match target.is_buffer {
            true => of(&self.buffers, target.index)?.restore(),
            false => of(&self.windows, target.index)?.restore(),
        }
    }
}

fn of<M: Memory>(all: &[Arc<Shared<M>>], index: u32) -> Result<&Shared<M>> {
    all.get(index as usize)
        .map(|shared| &**shared)
        .ok_or(EINVAL)
}

/// The registered file.
#[pin_data]
pub(crate) struct Control {
    // Dropped first: once it is gone, nobody looks for `everything` any more.
    #[pin]
    misc: MiscDeviceRegistration<ControlFile>,
    everything: Arc<Everything>,
}

impl Control {
    /// Creates the file.
    pub(crate) fn new(everything: Arc<Everything>) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                // Initialised first: the file can be opened as soon as it is registered.
                everything,
                misc <- MiscDeviceRegistration::register(MiscDeviceOptions {
                    name: c"mapwitness-control",
                }),
            }),
            GFP_KERNEL,
        )
    }
}

/// File operations; never a value.
///
/// # Invariants
///
/// A `MiscDeviceRegistration<ControlFile>` exists only as the field `misc` of a [`Control`] whose field
/// `everything` is initialised: this type is private to this file.
struct ControlFile;

#[vtable]
impl MiscDevice for ControlFile {
    type Ptr = Arc<Everything>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let misc = core::ptr::from_ref(misc).cast_mut();
        // SAFETY: By the type invariants `misc` is that field of a `Control`.
        let owner = unsafe { container_of!(misc, Control, misc) };
        // SAFETY: By the type invariants the field is initialised. It stays while `misc` is registered,
        // and `misc_deregister()` waits for calls of `open`.
        let everything = unsafe { &(*owner).everything };

        Ok(everything.clone())
    }

    fn ioctl(
        everything: ArcBorrow<'_, Everything>,
        _file: &File,
        command: u32,
        argument: usize,
    ) -> Result<isize> {
        let target = || {
            let slice = UserSlice::new(UserPtr::from_addr(argument), Target::LEN_BYTES);
            let bytes = slice.reader().read()?;

            Target::from_bytes(bytes).ok_or(EINVAL)
        };

        match command {
            REVOKE => everything.revoke(target()?)?,
            RESTORE => everything.restore(target()?)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}
