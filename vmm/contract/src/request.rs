//! What is asked of mmap(2), and what must come of it.

use addr::PAGE_SIZE;
use wire::{OpenMode, Prot, Sharing};

use crate::errno::Errno;

/// One mmap(2) of a device file, as hostile as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// How the file is open.
    pub open: OpenMode,
    /// Offset in the file, in bytes.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Protection.
    pub prot: Prot,
    /// Shared or private.
    pub sharing: Sharing,
}

impl Request {
    /// Page of the file at which it begins.
    pub const fn first_page(&self) -> u64 {
        self.offset_bytes / PAGE_SIZE
    }

    /// Pages that it covers: the kernel rounds the length up.
    pub const fn npages(&self) -> u64 {
        self.len_bytes.div_ceil(PAGE_SIZE)
    }
}

/// What a request must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every page that it asks for is mapped as the file's ranges say.
    Maps,
    /// It fails with this error.
    Refused(Errno),
    /// This reason keeps it from being foretold.
    Undetermined(&'static str),
}
