// SPDX-License-Identifier: GPL-2.0

//! One window of the device, as its device files and all their mappings share it.

use crate::{
    mm::{
        Fault,
        FaultError,
        FaultOperations,
        FileMapping,
        Installed,
        Mapped,
        MmapsInFlight,
        VmaSetup,
        Window, //
    },
    planted,
    strategy::Strategy, //
};
use kernel::{
    fs::File,
    mm::Mm,
    new_mutex,
    prelude::*,
    sync::{Arc, ArcBorrow, Mutex}, //
};

/// A window and what is known of its users.
///
/// It outlives the binding of the driver to the device, for as long as files or mappings of it exist;
/// [`WindowDevice::revoke`] then leaves nothing of the window within their reach.
#[pin_data]
pub(crate) struct WindowDevice {
    window: Window,
    /// Held while entries are installed, so that a revocation comes before or after that.
    /// Taken inside the mmap lock.
    #[pin]
    users: Mutex<Users>,
}

/// Who may have entries of the window.
struct Users {
    /// Whether the driver is bound to the device.
    bound: bool,
    /// One for each open file.
    files: KVec<FileMapping>,
    mmaps: MmapsInFlight,
}

impl WindowDevice {
    /// A window of a bound device, with no users.
    pub(crate) fn new(window: Window) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                window,
                users <- new_mutex!(Users {
                    bound: true,
                    files: KVec::new(),
                    mmaps: MmapsInFlight::new(),
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes note of a file that is being opened.
    pub(crate) fn add_file(&self, file: &File) -> Result {
        let mapping = FileMapping::of(file).ok_or(ENODEV)?;
        let mut users = self.users.lock();

        if !users.bound {
            return Err(ENODEV);
        }
        users.files.push(mapping, GFP_KERNEL)?;
        Ok(())
    }

    /// Forgets a file that is being closed for good.
    pub(crate) fn remove_file(&self, file: &File) {
        let mut users = self.users.lock();

        // Files of one device node share a mapping; any of its entries will do.
        if let Some(index) = users.files.iter().position(|mapping| mapping.is_of(file)) {
            // The index was just found.
            let _ = users.files.remove(index);
        }
    }

    /// Maps pages of the window into a new vma; the order of the checks is that of the README.
    pub(crate) fn mmap<'a, S: Strategy>(
        self: ArcBorrow<'_, Self>,
        mm: &Mm,
        vma: VmaSetup<'a>,
    ) -> Result<Mapped<'a>> {
        let mut users = self.users.lock();

        if !users.bound {
            return Err(ENODEV);
        }
        let vma = vma.shared_only()?.deny_exec()?.claim(&self.window)?;

        users.mmaps.note(mm)?;
        S::map(self, vma.uncached())
    }

    /// Takes the window away from everyone: no entry of it is left, and none can be installed.
    ///
    /// Must not be called with an mmap lock held.
    pub(crate) fn revoke(&self) {
        let (files, mmaps) = {
            let mut users = self.users.lock();

            users.bound = false;
            (
                core::mem::take(&mut users.files),
                core::mem::replace(&mut users.mmaps, MmapsInFlight::new()),
            )
        };

        // Now their vmas can be found through the files, with all that was installed in them.
        mmaps.wait();
        for mapping in &files {
            mapping.unmap_all();
        }
    }
}

impl FaultOperations for WindowDevice {
    fn fault<'a>(&self, fault: Fault<'a>) -> Result<Installed<'a>, FaultError> {
        let users = self.users.lock();

        if !users.bound {
            return Err(FaultError::NoPage);
        }
        let source = planted::source_page(fault.page());
        let page = self.window.page(source).ok_or(FaultError::NoPage)?;

        fault.install(page)
    }
}
