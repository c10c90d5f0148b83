// SPDX-License-Identifier: GPL-2.0

//! Mapping device memory into user space, safely.
//!
//! What [`kernel::mm`] lacks for a driver whose `mmap` shows a stretch of physical memory: the
//! `VM_PFNMAP` kind of vma, its page offset and page protection, the remap calls, fault operations,
//! and taking mappings back. The types are steps, so that the order of things is not left to
//! the driver:
//!
//! ```text
//! Resource --> Window                      frames that may be shown at all
//!                 |
//! VmaSetup --> SharedVma --> WindowVma     a vma that has been checked against one window
//!                              |-- remap / remap_with --> Mapped
//!                              '-- map_on_fault -------> Mapped    (later: Fault --> Installed)
//! ```
//!
//! - A frame number never appears: only a [`Window`] has frames, and it hands out pages that
//!   were checked against its bounds.
//! - Entries can be installed only in a [`WindowVma`], whose flags say `VM_PFNMAP` already,
//!   and which is neither copy-on-write nor writable over a read-only window.
//! - Each step consumes the one before it; nothing can be mapped twice into one vma.
//! - A driver's `mmap` ends in a [`Mapped`], which only the last step gives.
//!
//! [`FileMapping`] and [`MmapsInFlight`] serve the way back: they let a driver whose device goes away
//! find and remove every entry that it has installed.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

mod fault;
mod file_mapping;
mod helpers;
mod in_flight;
mod vma;
mod window;

pub(crate) use fault::{Fault, FaultError, FaultOperations, Installed};
pub(crate) use file_mapping::FileMapping;
pub(crate) use in_flight::MmapsInFlight;
pub(crate) use vma::{Mapped, VmaPage, VmaSetup, WindowVma};
pub(crate) use window::{Access, Window};
