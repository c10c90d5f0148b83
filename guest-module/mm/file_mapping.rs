// SPDX-License-Identifier: GPL-2.0

//! Finding the mappings of an open file.

use core::ptr::NonNull;
use kernel::{bindings, fs::File};

/// The C `struct address_space` that all vmas of an open file hang on.
///
/// It can be kept for longer than the file, and shared by many files.
///
/// # Invariants
///
/// `mapping` is valid, and `self` owns a reference on its host inode, which keeps it so.
pub(crate) struct FileMapping {
    pub(super) mapping: NonNull<bindings::address_space>,
}

// SAFETY: An inode reference may be dropped, and its mapping be unmapped, by any thread.
unsafe impl Send for FileMapping {}

// SAFETY: The only method that reaches the `address_space` through a shared reference takes the
// locks that it needs on the C side.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    /// The mapping of `file`; [`None`] for a file that has none.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let mapping = Self::raw(file)?;

        // SAFETY: An open file keeps its mapping, and the mapping's host never changes.
        let host = unsafe { (*mapping.as_ptr()).host };
        if host.is_null() {
            return None;
        }
        // SAFETY: The open file holds a reference on the inode, so it is not the first one.
        unsafe { bindings::ihold(host) };

        // INVARIANT: The mapping is a part of its host or as long-lived, and we just took a reference
        // on that host.
        Some(Self { mapping })
    }

    /// Whether this is the mapping of `file`.
    pub(crate) fn is_of(&self, file: &File) -> bool {
        Self::raw(file) == Some(self.mapping)
    }

    /// Removes every page table entry, in whatever process, that shows pages of this mapping.
    ///
    /// May sleep. The vmas stay; the next access to them is a fault.
    pub(crate) fn unmap_all(&self) {
        // SAFETY: By the type invariants `mapping` is valid. A hole from 0 of length 0 reaches to
        // the end of the file.
        unsafe { bindings::unmap_mapping_range(self.mapping.as_ptr(), 0, 0, 1) };
    }

    fn raw(file: &File) -> Option<NonNull<bindings::address_space>> {
        // SAFETY: `f_mapping` is set before a file is opened and constant from then on.
        NonNull::new(unsafe { (*file.as_ptr()).f_mapping })
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `mapping` is valid, and the host never changes.
        let host = unsafe { (*self.mapping.as_ptr()).host };

        // SAFETY: By the type invariants we own a reference on `host`, and give it up here.
        unsafe { bindings::iput(host) };
    }
}
