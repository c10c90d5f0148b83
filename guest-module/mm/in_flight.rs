// SPDX-License-Identifier: GPL-2.0

//! Waiting for calls of `mmap` that are under way.

use kernel::{
    bindings,
    mm::Mm,
    prelude::*,
    sync::aref::ARef, //
};

/// Address spaces in which an `mmap` of a driver may not have been completed.
///
/// A vma can be found through its file only some time after the driver's `mmap` callback has returned.
/// Entries that the callback installed are out of reach of [`FileMapping::unmap_all`] until then. As
/// the mmap write lock is held all the while, waiting for that lock waits for the vma.
///
/// [`FileMapping::unmap_all`]: super::FileMapping::unmap_all
pub(crate) struct MmapsInFlight {
    mms: KVec<ARef<Mm>>,
}

impl MmapsInFlight {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { mms: KVec::new() }
    }

    /// Takes note that an `mmap` into `mm` is under way, and forgets those that are over.
    ///
    /// To be called in the callback, before anything is mapped.
    pub(crate) fn note(&mut self, mm: &Mm) -> Result {
        self.mms
            .retain(|known| !core::ptr::eq(&raw const **known, mm) && is_write_locked(known));
        self.mms.push(ARef::from(mm), GFP_KERNEL)?;
        Ok(())
    }

    /// Waits until every `mmap` that was noted is over.
    ///
    /// Sleeps, and takes the mmap lock of each address space: to be called with neither an mmap lock
    /// held nor any lock that a callback takes.
    pub(crate) fn wait(self) {
        for mm in &self.mms {
            // SAFETY: We hold a reference on the `mm_struct`, which is all that its lock needs.
            unsafe { bindings::mmap_read_lock(mm.as_raw()) };
            // SAFETY: We hold the lock for reading since the line above.
            unsafe { bindings::mmap_read_unlock(mm.as_raw()) };
        }
    }
}

/// Whether the mmap lock of `mm` may be held for writing now.
fn is_write_locked(mm: &Mm) -> bool {
    // SAFETY: A reference on the `mm_struct` is all that its lock needs.
    let taken = unsafe { bindings::mmap_read_trylock(mm.as_raw()) };

    if taken {
        // SAFETY: We hold the lock for reading since the line above.
        unsafe { bindings::mmap_read_unlock(mm.as_raw()) };
    }
    !taken
}
