// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT

//! Register page of the synthetic device: the contract between the VMM, which
//! implements it, and the guest driver, which is compiled with this very file.
//!
//! The ACPI device [`ACPI_HID`] has one memory resource for the register page,
//! then one for each window, in the order of the window table. All registers are
//! little endian and must be accessed at their own width.

#![allow(dead_code)]

/// ACPI hardware id of the synthetic device.
pub const ACPI_HID: &str = "MAPW0001";
/// Bytes of the register page.
pub const REGS_LEN_BYTES: u64 = 0x1000;

/// u32, read: [`MAGIC_VALUE`].
pub const REG_MAGIC: u64 = 0x00;
/// "MAPW", little endian.
pub const MAGIC_VALUE: u32 = 0x5750_414d;
/// u32, read: [`VERSION_VALUE`].
pub const REG_VERSION: u64 = 0x04;
/// Version of this register layout.
pub const VERSION_VALUE: u32 = 2;
/// u32, read: number of windows, 1 to [`MAX_WINDOWS`].
pub const REG_WINDOW_COUNT: u64 = 0x08;
/// u32, write: tells the host something happened; any value.
pub const REG_DOORBELL: u64 = 0x0c;

/// u64, read and write: bus address at which the DMA engine works.
pub const REG_DMA_BUS_ADDRESS: u64 = 0x20;
/// u32, read and write: index of the window whose page it copies.
pub const REG_DMA_WINDOW: u64 = 0x28;
/// u32, read and write: page of that window.
pub const REG_DMA_PAGE: u64 = 0x2c;
/// u32, read and write: bytes that it copies, 1 to 4096, from the first of the page and
/// of the bus address on.
pub const REG_DMA_LEN_BYTES: u64 = 0x30;
/// u32, write: `DMA_COMMAND_*`; the copy is done when the store is.
pub const REG_DMA_COMMAND: u64 = 0x34;
/// Copy the page of the window to the bus address.
pub const DMA_COMMAND_TO_RAM: u32 = 1;
/// Copy from the bus address into the page of the window.
pub const DMA_COMMAND_FROM_RAM: u32 = 2;
/// u32, read: `DMA_STATUS_*` of the last command.
pub const REG_DMA_STATUS: u64 = 0x38;
/// There was none.
pub const DMA_STATUS_IDLE: u32 = 0;
/// It was carried out.
pub const DMA_STATUS_DONE: u32 = 1;
/// There is no such command.
pub const DMA_STATUS_BAD_COMMAND: u32 = 2;
/// There is no such page.
pub const DMA_STATUS_NO_PAGE: u32 = 3;
/// A length that no copy has.
pub const DMA_STATUS_BAD_LENGTH: u32 = 4;
/// Not all of it is RAM.
pub const DMA_STATUS_NOT_RAM: u32 = 5;

/// u32, read: number of buffers in the driver's RAM that the device works with, 0 to
/// [`MAX_BUFFERS`].
pub const REG_BUFFER_COUNT: u64 = 0x50;
/// u32, read and write: the buffer that the registers below are about.
pub const REG_BUFFER_SELECT: u64 = 0x54;
/// u32, read: number of 4 KiB pages of that buffer, 1 to [`MAX_BUFFER_NPAGES`]; 0 when
/// there is no such buffer.
pub const REG_BUFFER_NPAGES: u64 = 0x58;
/// u32, read and write: the page of that buffer that the next register is about.
pub const REG_BUFFER_PAGE: u64 = 0x5c;
/// u64, read and write: bus address of that page; [`BUFFER_ADDRESS_NONE`] until the
/// driver has given the device a page, and again before it takes it back. An address
/// that is not a multiple of 4 KiB is ignored.
pub const REG_BUFFER_ADDRESS: u64 = 0x60;
/// No page.
pub const BUFFER_ADDRESS_NONE: u64 = 0;
/// Most buffers that a device has.
pub const MAX_BUFFERS: u32 = 8;
/// Most pages of a buffer.
pub const MAX_BUFFER_NPAGES: u32 = 64;

/// First entry of the window table.
pub const REG_WINDOW_TABLE: u64 = 0x100;
/// Bytes from one entry of the window table to the next.
pub const WINDOW_STRIDE: u64 = 0x20;
/// u64, read, in an entry: guest physical address of the window's first page.
pub const WINDOW_BASE: u64 = 0x00;
/// u32, read, in an entry: number of 4 KiB pages.
pub const WINDOW_NPAGES: u64 = 0x08;
/// u32, read, in an entry: `WINDOW_FLAG_*`.
pub const WINDOW_FLAGS: u64 = 0x0c;
/// The window may be read but not written.
pub const WINDOW_FLAG_READ_ONLY: u32 = 1 << 0;
/// Most windows that the table can hold.
pub const MAX_WINDOWS: u32 = 64;
