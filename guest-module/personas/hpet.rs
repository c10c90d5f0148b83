// SPDX-License-Identifier: GPL-2.0

//! hpet: one page of registers, as `drivers/char/hpet.c` shows it through the `mmap` hook.
//!
//! A file that is opened for writing is refused with `EINVAL`. Then `mmap`, in this order:
//!
//! 1. the page is not offered (`hpet_mmap=0`): `EACCES`
//! 2. the registers do not begin at the start of a page: `ENOSYS`
//! 3. not exactly the one page at offset 0: `EINVAL`
//!
//! The page is mapped uncached by `vm_iomap_memory()`. Private mappings and `PROT_EXEC` are nobody's
//! concern. Nothing counts the mappings: the device is there for ever.
//!
//! What the original takes from the kernel's command line and from the ACPI tables comes by ioctl here.
//! The original also gives each open file a timer of its own, and has no more files than timers.

use super::{
    abi,
    node::Persona,
    SharedWindow, //
};
use crate::mm::{PlainMapped, PlainVma};
use kernel::{
    fs::{file::flags, File},
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
    uaccess::UserSlice, //
};

#[pin_data]
pub(super) struct Hpet {
    window: SharedWindow,
    #[pin]
    settings: Mutex<Settings>,
}

struct Settings {
    offered: bool,
    /// Byte of the page at which the registers begin.
    place: u32,
}

impl Hpet {
    /// Registers at the start of the window's first page.
    pub(super) fn new(window: SharedWindow) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                window,
                settings <- new_mutex!(Settings {
                    offered: true,
                    place: 0,
                }),
            }),
            GFP_KERNEL,
        )
    }
}

impl Persona for Hpet {
    type File = ();

    fn open(self: &Arc<Self>, file: &File) -> Result {
        match file.flags() & flags::O_ACCMODE {
            flags::O_RDONLY => Ok(()),
            _ => Err(EINVAL),
        }
    }

    fn mmap<'a>(self: &Arc<Self>, (): &(), vma: PlainVma<'a>) -> Result<PlainMapped<'a>> {
        let settings = self.settings.lock();

        if !settings.offered {
            return Err(EACCES);
        }
        if settings.place != 0 {
            return Err(ENOSYS);
        }
        vma.set_noncached();
        vma.iomap_page(self.window.memory(), 0)
    }

    fn ioctl(&self, (): &(), command: u32, argument: UserSlice) -> Result {
        let mut settings = self.settings.lock();

        match command {
            abi::HPET_OFFER => settings.offered = argument.reader().read::<u32>()? != 0,
            abi::HPET_PLACE => settings.place = argument.reader().read::<u32>()? % 4096,
            _ => return Err(ENOTTY),
        }
        Ok(())
    }
}
