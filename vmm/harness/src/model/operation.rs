//! What can be done to mappings, as plain data.
//!
//! Nothing here is an address, a descriptor or a pid: those are the guest's to
//! choose. Names stand for them, so that a sequence of operations means the same in
//! every guest, and still does when some of them are left out.

use serde::{Deserialize, Serialize};
use wire::{Advice, OpenMode, Prot, Sharing};

/// A process of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process(pub u32);

impl Process {
    /// The one that is there from the start.
    pub const FIRST: Self = Self(0);
}

/// A file that a process has open. A forked process has its parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle(pub u32);

/// An address that an operation came to; it means the same in all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Anchor(pub u32);

/// A page's address, whatever is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Where to count from.
    pub anchor: Anchor,
    /// Pages to go.
    pub page: u64,
}

/// Pages one after another, whatever is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stretch {
    /// The first.
    pub at: Place,
    /// How many.
    pub npages: u64,
}

impl Anchor {
    /// Page `page` from here.
    pub const fn page(self, page: u64) -> Place {
        Place { anchor: self, page }
    }

    /// `npages` pages from page `first` on.
    pub const fn pages(self, first: u64, npages: u64) -> Stretch {
        Stretch {
            at: self.page(first),
            npages,
        }
    }
}

/// One thing that one process does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operation {
    /// Who.
    pub by: Process,
    /// What.
    pub call: Call,
}

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Call {
    /// open(2) of a device file.
    Open {
        /// Number of the file in [`Model::files`](super::Model::files).
        file: usize,
        /// Access mode.
        mode: OpenMode,
        /// Name for what is opened.
        handle: Handle,
    },
    /// close(2).
    Close {
        /// Which.
        handle: Handle,
    },
    /// mmap(2) of a device file.
    Map {
        /// Through which open file.
        handle: Handle,
        /// Page of the file.
        first_page: u64,
        /// Number of pages.
        npages: u64,
        /// Protection.
        prot: Prot,
        /// Shared or private.
        sharing: Sharing,
        /// Where, with `MAP_FIXED`; `None` lets the kernel choose.
        fixed: Option<Place>,
        /// Name for the address.
        anchor: Anchor,
    },
    /// mmap(2) of a device file by bytes, as hostile as they may be, where the kernel
    /// likes.
    Ask {
        /// Through which open file.
        handle: Handle,
        /// Offset in the file, in bytes.
        #[serde(with = "hex")]
        offset_bytes: u64,
        /// Length in bytes.
        #[serde(with = "hex")]
        len_bytes: u64,
        /// Protection.
        prot: Prot,
        /// Shared or private.
        sharing: Sharing,
        /// Name for the address.
        anchor: Anchor,
    },
    /// mmap(2) of nothing: takes addresses that no later mapping gets unless it is
    /// put there.
    Reserve {
        /// Number of pages.
        npages: u64,
        /// Name for the address.
        anchor: Anchor,
    },
    /// munmap(2).
    Unmap(Stretch),
    /// mprotect(2).
    Protect {
        /// Which pages.
        pages: Stretch,
        /// New protection.
        prot: Prot,
    },
    /// madvise(2).
    Advise {
        /// Which pages.
        pages: Stretch,
        /// Advice.
        advice: Advice,
    },
    /// mremap(2).
    Remap {
        /// The old mapping.
        pages: Stretch,
        /// Pages of the new one.
        new_npages: u64,
        /// `MREMAP_MAYMOVE`.
        may_move: bool,
        /// Where to, with `MREMAP_FIXED`; `None` lets the kernel choose.
        fixed: Option<Place>,
        /// Name for the new address.
        anchor: Anchor,
    },
    /// A load from the page.
    Load(Place),
    /// A store to the page.
    Store(Place),
    /// fork(2).
    Fork {
        /// Name for the child.
        child: Process,
    },
    /// _exit(2); not for the first process.
    Exit,
    /// ptrace(2), `PTRACE_PEEKDATA`.
    Peek {
        /// Whose memory.
        of: Process,
        /// Where.
        at: Place,
    },
    /// ptrace(2), `PTRACE_POKEDATA`.
    Poke {
        /// Whose memory.
        of: Process,
        /// Where.
        at: Place,
    },
    /// A read of /proc/PID/mem.
    ReadMem {
        /// Whose memory.
        of: Process,
        /// Where.
        at: Place,
    },
    /// The driver takes a window away from all its mappings, by an ioctl(2) of its
    /// control file. Only the project's own driver has one.
    Revoke {
        /// The window's number.
        window: usize,
    },
    /// The driver gives it back.
    Restore {
        /// The window's number.
        window: usize,
    },
    /// The device changes what it has of a window, and tells nobody.
    Offer {
        /// The window's number.
        window: usize,
        /// What it has of it from now on.
        offer: Offered,
    },
    /// The device is taken away from its driver. Only the project's own one is known to
    /// bear it.
    Unbind,
    /// It is given back.
    Bind,
}

/// What a device has of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Offered {
    /// What its configuration says.
    AsConfigured,
    /// What may be read and not written, whatever its configuration says.
    ReadOnly,
    /// Nothing: loads give all ones, stores are lost.
    Nothing,
}

/// A number as text, in hex: formats for people have none of 64 bits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:#x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16).map_err(D::Error::custom)
    }
}

impl Process {
    /// This process does `call`.
    pub const fn does(self, call: Call) -> Operation {
        Operation { by: self, call }
    }
}
