// SPDX-License-Identifier: GPL-2.0

//! Reading the device's registers.

use crate::{
    mm::Access,
    regs::{self, MAX_BUFFERS, MAX_BUFFER_NPAGES, MAX_WINDOWS}, //
};
use kernel::{
    device::Device,
    io::{
        mem::ExclusiveIoMem,
        Io,
        PhysAddr,
        ResourceSize, //
    },
    prelude::*,
};

/// Bytes of the register page.
pub(crate) const REGS_LEN: usize = regs::REGS_LEN_BYTES as usize;

/// Whether `a` and `b` are equal, for constants.
// Some compilers do not see the use in a constant without a name.
#[allow(dead_code)]
pub(crate) const fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Entry of the window table.
pub(crate) struct WindowEntry {
    /// Physical address of the first page.
    pub(crate) base: PhysAddr,
    /// Number of pages of 4 KiB.
    pub(crate) npages: u32,
    /// What user space may do.
    pub(crate) access: Access,
}

impl WindowEntry {
    /// Size of the window in bytes, or [`None`] when no resource can be that large.
    pub(crate) fn len_bytes(&self) -> Option<ResourceSize> {
        ResourceSize::from(self.npages).checked_mul(kernel::page::PAGE_SIZE as ResourceSize)
    }
}

/// The register page.
pub(crate) struct Regs<'a> {
    io: &'a ExclusiveIoMem<'a, REGS_LEN>,
    dev: &'a Device,
}

impl<'a> Regs<'a> {
    /// Registers at `io`; errors are reported for `dev`.
    pub(crate) fn new(io: &'a ExclusiveIoMem<'a, REGS_LEN>, dev: &'a Device) -> Self {
        Self { io, dev }
    }

    /// Number of windows, after making sure that this is a device that the driver knows.
    ///
    /// # Errors
    ///
    /// `ENODEV` when it is not.
    pub(crate) fn window_count(&self) -> Result<u32> {
        let magic = self.io.read32(regs::REG_MAGIC as usize);
        if magic != regs::MAGIC_VALUE {
            dev_err!(
                self.dev,
                "magic is {magic:#x}, expected {:#x}: not the synthetic device\n",
                regs::MAGIC_VALUE
            );
            return Err(ENODEV);
        }

        let version = self.io.read32(regs::REG_VERSION as usize);
        if version != regs::VERSION_VALUE {
            dev_err!(
                self.dev,
                "register layout has version {version}, the driver knows {}: build both from one source\n",
                regs::VERSION_VALUE
            );
            return Err(ENODEV);
        }

        let count = self.io.read32(regs::REG_WINDOW_COUNT as usize);
        if !(1..=MAX_WINDOWS).contains(&count) {
            dev_err!(
                self.dev,
                "{count} windows; there must be 1 to {MAX_WINDOWS}\n"
            );
            return Err(ENODEV);
        }
        Ok(count)
    }

    /// Entry `index` of the window table.
    ///
    /// # Errors
    ///
    /// `EINVAL` beyond the register page; `ENODEV` for flags that the driver does not know.
    pub(crate) fn window(&self, index: u32) -> Result<WindowEntry> {
        let entry = u64::from(index)
            .checked_mul(regs::WINDOW_STRIDE)
            .and_then(|offset| offset.checked_add(regs::REG_WINDOW_TABLE))
            .ok_or(EINVAL)? as usize;
        let flags = self.io.try_read32(entry + regs::WINDOW_FLAGS as usize)?;

        let access = match flags {
            0 => Access::ReadWrite,
            regs::WINDOW_FLAG_READ_ONLY => Access::ReadOnly,
            _ => {
                dev_err!(self.dev, "window {index} has unknown flags {flags:#x}\n");
                return Err(ENODEV);
            }
        };
        Ok(WindowEntry {
            base: self.io.try_read64(entry + regs::WINDOW_BASE as usize)?,
            npages: self.io.try_read32(entry + regs::WINDOW_NPAGES as usize)?,
            access,
        })
    }

    /// Number of buffers that the device works with.
    ///
    /// # Errors
    ///
    /// `ENODEV` when there are more than a device can have.
    pub(crate) fn buffer_count(&self) -> Result<u32> {
        let count = self.io.read32(regs::REG_BUFFER_COUNT as usize);
        if count > MAX_BUFFERS {
            dev_err!(
                self.dev,
                "{count} buffers; there must be {MAX_BUFFERS} at most\n"
            );
            return Err(ENODEV);
        }
        Ok(count)
    }

    /// Number of pages of buffer `index`.
    ///
    /// # Errors
    ///
    /// `ENODEV` when a buffer cannot have as many.
    pub(crate) fn buffer_npages(&self, index: u32) -> Result<usize> {
        self.io.write32(index, regs::REG_BUFFER_SELECT as usize);

        let npages = self.io.read32(regs::REG_BUFFER_NPAGES as usize);
        if !(1..=MAX_BUFFER_NPAGES).contains(&npages) {
            dev_err!(
                self.dev,
                "buffer {index} has {npages} pages; there must be 1 to {MAX_BUFFER_NPAGES}\n"
            );
            return Err(ENODEV);
        }
        Ok(npages as usize)
    }
}

/// Gives page `page` of buffer `index` to the device behind `io`, or takes it back with
/// [`regs::BUFFER_ADDRESS_NONE`]. The device uses no other page from then on.
pub(crate) fn set_buffer_page(
    io: &ExclusiveIoMem<'_, REGS_LEN>,
    index: u32,
    page: usize,
    address: PhysAddr,
) {
    io.write32(index, regs::REG_BUFFER_SELECT as usize);
    // The device has told how many there are, in a register of this width.
    io.write32(page as u32, regs::REG_BUFFER_PAGE as usize);
    // The register is aligned and inside the page, which is all that could fail.
    let _ = io.try_write64(address, regs::REG_BUFFER_ADDRESS as usize);
}
