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
pub const VERSION_VALUE: u32 = 1;
/// u32, read: number of windows, 1 to [`MAX_WINDOWS`].
pub const REG_WINDOW_COUNT: u64 = 0x08;
/// u32, write: tells the host something happened; any value.
pub const REG_DOORBELL: u64 = 0x0c;

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
