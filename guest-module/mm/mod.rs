// SPDX-License-Identifier: GPL-2.0

//! Mapping a driver's memory into user space, safely.

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
