// SPDX-License-Identifier: GPL-2.0

//! Mapping a driver's memory into user space, safely: a proposal.
//!
//! What [`kernel::mm`] and [`kernel::miscdevice`] lack for a driver whose device file is mapped: the
//! `VM_PFNMAP` kind of vma, its offset and page protection, the calls that show frames or pages, fault
//! operations with huge pages and fault-around, `mmap_prepare` with its actions, and taking mappings back.
//! With it a driver that maps memory is written without `unsafe`.
//!
//! # The steps
//!
//! A mapping goes through states, each of which is a type, and each step consumes the one before. Which steps
//! there are does not depend on the hook: [`NewVma`](area::NewVma) stands for the vma in `f_op->mmap()`,
//! [`VmaDesc`](area::VmaDesc) for its description in `f_op->mmap_prepare()`, and [`BeingMapped`] for either.
//!
//! ```text
//!                      being mapped                                             mapped
//! VmaSetup --> SharedVma --------------> ClaimedVma -- remap_with, iomap ----> V::Done
//!   shared_only   deny_exec, claim          |       -- insert --------------> V::Done
//!                                           '------- map_on_fault::<T> -----> V::Done
//!                                              (later: Fault --install--> Installed)
//! ```
//!
//! A hook must return the `Done` of the very vma that it was given, which only the last step makes; a
//! fault operation the [`Installed`] of its very fault.
//!
//! # What cannot go wrong
//!
//! - **A frame is never in the driver's hands.** Memory is a [`Window`] of a device or a [`Buffer`] of RAM. A
//!   driver names pages of it by number, and a number outside is an error wherever it comes from: an offset
//!   of user space, an order of the driver's own, a fault.
//! - **A window is no RAM**, so its frames have no references that somebody would have to count, and its
//!   memory type can be chosen. **A buffer is nothing but pages of its own**, single and zeroed at first, and
//!   each entry that shows one has a reference.
//! - **A vma's flags fit what it shows** before anything is mapped: `VM_IO | VM_PFNMAP` for a window,
//!   `VM_MIXEDMAP` for a buffer, `VM_DONTEXPAND | VM_DONTDUMP` for both. All of them keep the kernel from
//!   merging it with a neighbour, so an action or `mapped` is never left out.
//! - **No mapping is copy-on-write**: frames without a page would be mistaken for copies, and fault operations
//!   on them are a `BUG()`.
//! - **Read-only memory stays so**: `VM_MAYWRITE` is taken away, and a fault checks it again.
//! - **Counts are balanced.** Each vma with fault operations owns one reference to them. It is made when the
//!   mapping can fail no more (in `mmap` as the last step, else by `vm_ops->mapped`), copied by
//!   `vm_ops->open`, given back by `vm_ops->close`, and the driver never sees it. What a mapping needs for
//!   itself lives in the operations: [`FaultOperations::of`] makes them, their `Drop` ends them, after the last
//!   `munmap` of the last piece in the last process.
//! - **`mmap_prepare` takes no state.** A description has no way to own anything; see above for when it can.
//! - **Huge pages are whole.** 2 MiB are installed only where the vma, the memory and the alignment of both
//!   have them.
//! - **Fault-around does not sleep**: it runs only where there is a page table already.
//!
//! # Taking mappings back
//!
//! [`FileMapping::unmap_all`] removes every entry of a file, in whatever process. That is half of a
//! revocation: the driver must also keep new ones from coming, under a lock that its hook and its fault
//! operations take. The other half is in [`MmapsInFlight`]: what `mmap` has installed, and what an action of
//! `mmap_prepare` is about to install, cannot be found through the file yet. Both happen under the mmap lock,
//! so waiting for that lock of the address spaces in question closes the gap.
//!
//! # What is left to the driver
//!
//! Whether a window may be shown to whoever opens the file, and the order and error codes of its checks. A
//! driver that needs other steps than these has [`plain`], which knows no order.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h).
//! See also `Documentation/filesystems/mmap_prepare.rst`.

mod area;
mod buffer;
mod fault;
mod file_mapping;
mod helpers;
mod in_flight;
mod memory;
mod misc;
mod plain;
mod setup;
#[cfg(not(mapwitness_variant = "good"))]
pub(crate) mod spoil;
mod vm_ops;
mod window;

pub(crate) use area::{BeingMapped, Insert, Remap};
pub(crate) use buffer::Buffer;
pub(crate) use fault::{Around, Fault, FaultError, FaultOperations, HugeFault, Installed};
pub(crate) use file_mapping::FileMapping;
pub(crate) use in_flight::MmapsInFlight;
pub(crate) use memory::{Access, Memory};
pub(crate) use misc::{Hook, MappableDevice, MappableFile, Mmap, MmapPrepare};
pub(crate) use plain::{Caching, PageProt, PlainFaults, PlainMapped, PlainPage, PlainVma, RamPage};
pub(crate) use setup::{ClaimedVma, VmaPage, VmaSetup};
pub(crate) use window::Window;
