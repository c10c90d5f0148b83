// SPDX-License-Identifier: GPL-2.0

//! The device files of a window: `/dev/mapwitness-eager<i>` and `/dev/mapwitness-lazy<i>`.

use crate::{
    mm::{VmaSetup, Window},
    regs::MAX_WINDOWS,
    strategy::{Eager, Lazy, Strategy},
    window_device::WindowDevice, //
};
use core::marker::PhantomData;
use kernel::{
    container_of,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    mm::virt::VmaNew,
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Both device files of one window. Dropping it removes them, and revokes their mappings.
pub(crate) struct WindowFiles {
    // Dropped after `revoke` has run; from then on the files refuse every `mmap`.
    _eager: Pin<KBox<DeviceFile<Eager>>>,
    _lazy: Pin<KBox<DeviceFile<Lazy>>>,
    device: Arc<WindowDevice>,
}

impl WindowFiles {
    /// Creates the files of window number `index`.
    pub(crate) fn new(index: usize, window: Window) -> Result<Self> {
        let device = WindowDevice::new(window)?;

        Ok(Self {
            _eager: DeviceFile::new(name(&EAGER_NAMES, index)?, device.clone())?,
            _lazy: DeviceFile::new(name(&LAZY_NAMES, index)?, device.clone())?,
            device,
        })
    }
}

impl Drop for WindowFiles {
    fn drop(&mut self) {
        self.device.revoke();
    }
}

/// A registered device file, in which its open files find their window.
#[pin_data]
struct DeviceFile<S: Strategy> {
    // Dropped first: once it is gone, nobody looks for `device` any more.
    #[pin]
    misc: MiscDeviceRegistration<OpenFile<S>>,
    device: Arc<WindowDevice>,
}

impl<S: Strategy> DeviceFile<S> {
    fn new(name: &'static CStr, device: Arc<WindowDevice>) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                // Initialised first: the file can be opened as soon as it is registered.
                device,
                misc <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
            }),
            GFP_KERNEL,
        )
    }
}

/// File operations; never a value.
///
/// # Invariants
///
/// A `MiscDeviceRegistration<OpenFile<S>>` exists only as the field `misc` of a [`DeviceFile<S>`] whose
/// field `device` is initialised: this type is private to this file.
struct OpenFile<S>(PhantomData<S>);

#[vtable]
impl<S: Strategy> MiscDevice for OpenFile<S> {
    type Ptr = Arc<WindowDevice>;

    fn open(file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let misc = core::ptr::from_ref(misc).cast_mut();
        // SAFETY: By the type invariants `misc` is that field of a `DeviceFile<S>`.
        let owner = unsafe { container_of!(misc, DeviceFile<S>, misc) };
        // SAFETY: By the type invariants the field is initialised. It stays while `misc` is registered,
        // and `misc_deregister()` waits for calls of `open`.
        let device = unsafe { &(*owner).device };

        device.add_file(file)?;
        Ok(device.clone())
    }

    fn release(device: Self::Ptr, file: &File) {
        device.remove_file(file);
    }

    fn mmap(device: ArcBorrow<'_, WindowDevice>, _file: &File, vma: &VmaNew) -> Result {
        let mm = vma.mm();

        // SAFETY: This is the `mmap` hook of a misc device of this module, which is the owner in its
        // file operations. The vma is left alone apart from this one call.
        unsafe { VmaSetup::configure(vma, |vma| device.mmap::<S>(mm, vma)) }
    }
}

const NAME_LEN: usize = 24;
const NAMES: usize = MAX_WINDOWS as usize;

static EAGER_NAMES: [[u8; NAME_LEN]; NAMES] = names(b"mapwitness-eager");
static LAZY_NAMES: [[u8; NAME_LEN]; NAMES] = names(b"mapwitness-lazy");

/// A misc device's name must live as long as the module: all names there can be, `<prefix><index>`
/// each, NUL-padded.
const fn names(prefix: &[u8]) -> [[u8; NAME_LEN]; NAMES] {
    // Two digits, and a NUL.
    assert!(NAMES <= 100 && prefix.len() + 3 <= NAME_LEN);

    let mut all = [[0; NAME_LEN]; NAMES];
    let mut index = 0;
    while index < NAMES {
        let mut at = 0;
        while at < prefix.len() {
            all[index][at] = prefix[at];
            at += 1;
        }
        if index >= 10 {
            all[index][at] = b'0' + (index / 10) as u8;
            at += 1;
        }
        all[index][at] = b'0' + (index % 10) as u8;
        index += 1;
    }
    all
}

fn name(names: &'static [[u8; NAME_LEN]; NAMES], index: usize) -> Result<&'static CStr> {
    let bytes = names.get(index).ok_or(EINVAL)?;
    CStr::from_bytes_until_nul(bytes).map_err(|_| EINVAL)
}
