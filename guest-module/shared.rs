// SPDX-License-Identifier: GPL-2.0

//! Memory of the device, as its device files and all their mappings share it.

use crate::mm::{BeingMapped, FaultError, FileMapping, Memory, MmapsInFlight, VmaSetup};
use crate::planted;
use crate::strategy::{DeviceFile, Strategy};
use kernel::{
    fs::File,
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex}, //
};

/// Memory that is offered to user space, and what is known of its users.
///
/// It outlives the binding of the driver to the device, for as long as files or mappings of it exist.
#[pin_data]
pub(crate) struct Shared<M> {
    memory: M,
    after_unbind: AfterUnbind,
    /// Held while entries are installed, so that a revocation comes before or after that.
    /// Taken inside the mmap lock.
    #[pin]
    users: Mutex<Users>,
}

/// What is left of mappings when the driver is not bound to the device any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterUnbind {
    /// Nothing: the memory is the device's, and goes with it.
    Revoked,
    /// All: the memory is RAM, which stays as long as anybody shows it.
    Kept,
}

/// Whether the memory may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Offered,
    /// Until it is restored.
    Revoked,
    /// The driver is not bound to the device any more. For ever.
    Unbound,
}

/// Who may have entries of the memory.
struct Users {
    standing: Standing,
    /// One for each open file.
    files: KVec<FileMapping>,
    mmaps: MmapsInFlight,
}

impl<M: Memory> Shared<M> {
    /// Memory of a bound device, with no users.
    pub(crate) fn new(memory: M, after_unbind: AfterUnbind) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                memory,
                after_unbind,
                users <- new_mutex!(Users {
                    standing: Standing::Offered,
                    files: KVec::new(),
                    mmaps: MmapsInFlight::new(),
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes note of a file that is being opened.
    pub(crate) fn add_file(&self, file: &File) -> Result {
        let mapping = FileMapping::of(file).ok_or(ENODEV)?;
        let mut users = self.users.lock();

        if users.standing == Standing::Unbound {
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

    /// Maps pages of the memory into a new vma; the order of the checks is that of the README.
    pub(crate) fn map<S, V>(&self, vma: VmaSetup<V>) -> Result<V::Done>
    where
        S: Strategy<Memory = M>,
        V: BeingMapped<File = DeviceFile<S>>,
    {
        let mut users = self.users.lock();

        match users.standing {
            Standing::Offered => {}
            Standing::Revoked => planted::refuses(ENXIO)?,
            Standing::Unbound => return Err(ENODEV),
        }
        let vma = planted::set_up::<S, V>(vma)?;

        users.mmaps.note(vma.mm())?;
        planted::map::<S, V>(vma)
    }

    /// Runs `install`, which answers a fault, unless the memory may not be shown.
    pub(crate) fn while_shown<R>(
        &self,
        install: impl FnOnce() -> Result<R, FaultError>,
    ) -> Result<R, FaultError> {
        let users = self.users.lock();

        if !self.may_show(users.standing) {
            return Err(FaultError::NoPage);
        }
        install()
    }

    /// As [`while_shown`](Self::while_shown), for a caller that must not sleep: [`None`] also when somebody
    /// else is at it.
    pub(crate) fn try_while_shown<R>(&self, install: impl FnOnce() -> Option<R>) -> Option<R> {
        let users = self.users.try_lock()?;

        if !self.may_show(users.standing) {
            return None;
        }
        install()
    }

    fn may_show(&self, standing: Standing) -> bool {
        planted::answers(match standing {
            Standing::Offered => true,
            Standing::Revoked => false,
            Standing::Unbound => self.after_unbind == AfterUnbind::Kept,
        })
    }

    /// Takes the memory away from everyone: no entry of it is left, and none can be installed until it is
    /// restored.
    ///
    /// Must not be called with an mmap lock held.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the driver is not bound any more.
    pub(crate) fn revoke(&self) -> Result {
        self.stand(Standing::Revoked)?;
        if planted::zaps_at_revoke() {
            self.unmap_all();
        }
        Ok(())
    }

    /// Ends a revocation. Pages come back where faults are answered; other mappings must be made anew.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the driver is not bound any more.
    pub(crate) fn restore(&self) -> Result {
        if planted::restores() {
            self.stand(Standing::Offered)?;
        }
        Ok(())
    }

    /// The driver is not bound to the device any more.
    ///
    /// Must not be called with an mmap lock held.
    pub(crate) fn unbind(&self) {
        // It fails only where it has been done already.
        let _ = self.stand(Standing::Unbound);

        if self.after_unbind == AfterUnbind::Revoked && planted::zaps_at_unbind() {
            self.unmap_all();
        }
    }

    fn stand(&self, standing: Standing) -> Result {
        let mut users = self.users.lock();

        if users.standing == Standing::Unbound {
            return Err(ENODEV);
        }
        users.standing = standing;
        Ok(())
    }

    /// Removes all entries of the memory; none may be installed any more.
    fn unmap_all(&self) {
        let mmaps = {
            let mut users = self.users.lock();

            core::mem::replace(&mut users.mmaps, MmapsInFlight::new())
        };

        // Now their vmas can be found through the files, with all that was installed in them. A file that
        // is opened only now has nothing that could be mapped.
        mmaps.wait();
        let users = self.users.lock();
        for (nth, mapping) in users.files.iter().enumerate() {
            planted::zap(nth, mapping);
        }
    }
}
