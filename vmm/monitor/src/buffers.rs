//! The device's buffer table: pages of RAM that the driver has given to the device.
//!
//! What stands here is what a real device would read and write by itself, so it is the
//! device's own truth about the pages of a buffer.

use addr::{Gpa, PAGE_SIZE};
use wire::regs;

use crate::config::BufferConfig;

/// A buffer as the driver has set it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Name for people.
    pub name: String,
    /// Bus address of each page, which is its guest physical address; `None` while the
    /// driver has given none.
    pub pages: Vec<Option<Gpa>>,
}

/// The registers of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BufferTable {
    buffers: Vec<Buffer>,
    select: u32,
    page: u32,
}

impl BufferTable {
    pub(crate) fn new(config: &[BufferConfig]) -> Self {
        let buffer = |config: &BufferConfig| Buffer {
            name: config.name.clone(),
            pages: vec![None; config.npages as usize],
        };
        Self {
            buffers: config.iter().map(buffer).collect(),
            select: 0,
            page: 0,
        }
    }

    pub(crate) fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Whether nobody has given it a page or selected one.
    pub(crate) fn is_unused(&self) -> bool {
        let mut pages = self.buffers.iter().flat_map(|buffer| &buffer.pages);
        (self.select, self.page) == (0, 0) && pages.all(Option::is_none)
    }

    /// Value of the 32-bit register at byte `at` of the register page.
    pub(crate) fn read_u32(&self, at: u64) -> Option<u32> {
        // The VM's configuration keeps all counts far below 2^32.
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        match at {
            regs::REG_BUFFER_COUNT => Some(count(self.buffers.len())),
            regs::REG_BUFFER_SELECT => Some(self.select),
            regs::REG_BUFFER_NPAGES => Some(
                self.selected()
                    .map_or(0, |buffer| count(buffer.pages.len())),
            ),
            regs::REG_BUFFER_PAGE => Some(self.page),
            _ => None,
        }
    }

    /// Value of the 64-bit register at byte `at` of the register page.
    pub(crate) fn read_u64(&self, at: u64) -> Option<u64> {
        let page = || *self.selected()?.pages.get(self.page as usize)?;
        let address = || page().map_or(regs::BUFFER_ADDRESS_NONE, Gpa::raw);
        (at == regs::REG_BUFFER_ADDRESS).then(address)
    }

    /// Takes a 32-bit store at byte `at` of the register page.
    pub(crate) fn write_u32(&mut self, at: u64, value: u32) {
        match at {
            regs::REG_BUFFER_SELECT => self.select = value,
            regs::REG_BUFFER_PAGE => self.page = value,
            _ => {}
        }
    }

    /// Takes a 64-bit store at byte `at` of the register page.
    pub(crate) fn write_u64(&mut self, at: u64, value: u64) {
        let page = self.page as usize;
        let buffer = self.buffers.get_mut(self.select as usize);
        let slot = buffer.and_then(|buffer| buffer.pages.get_mut(page));
        if let (regs::REG_BUFFER_ADDRESS, Some(slot)) = (at, slot)
            && value.is_multiple_of(PAGE_SIZE)
        {
            *slot = (value != regs::BUFFER_ADDRESS_NONE).then(|| Gpa::new(value));
        }
    }

    fn selected(&self) -> Option<&Buffer> {
        self.buffers.get(self.select as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> BufferTable {
        let buffer = |name: &str, npages| BufferConfig {
            name: name.into(),
            npages,
        };
        BufferTable::new(&[buffer("a", 2), buffer("b", 3)])
    }

    fn give(table: &mut BufferTable, buffer: u32, page: u32, address: u64) {
        table.write_u32(regs::REG_BUFFER_SELECT, buffer);
        table.write_u32(regs::REG_BUFFER_PAGE, page);
        table.write_u64(regs::REG_BUFFER_ADDRESS, address);
    }

    #[test]
    fn a_page_is_given_and_taken_back() {
        let mut table = table();
        give(&mut table, 1, 2, 0x5000);
        assert_eq!(
            table.buffers()[1].pages,
            [None, None, Some(Gpa::new(0x5000))]
        );
        assert_eq!(table.read_u64(regs::REG_BUFFER_ADDRESS), Some(0x5000));
        give(&mut table, 1, 2, regs::BUFFER_ADDRESS_NONE);
        assert_eq!(table.buffers()[1].pages, [None; 3]);
    }

    #[test]
    fn sizes_can_be_read_for_each_buffer() {
        let mut table = table();
        assert_eq!(table.read_u32(regs::REG_BUFFER_COUNT), Some(2));
        for (buffer, npages) in [(0, 2), (1, 3), (2, 0), (u32::MAX, 0)] {
            table.write_u32(regs::REG_BUFFER_SELECT, buffer);
            assert_eq!(table.read_u32(regs::REG_BUFFER_NPAGES), Some(npages));
        }
    }

    #[test]
    fn what_is_no_page_of_a_buffer_is_not_kept() {
        let mut table = table();
        for (buffer, page, address) in [(0, 2, 0x1000), (2, 0, 0x1000), (0, 0, 0x1001)] {
            give(&mut table, buffer, page, address);
        }
        give(&mut table, u32::MAX, u32::MAX, 0x1000);
        assert!(
            table
                .buffers()
                .iter()
                .flat_map(|it| &it.pages)
                .all(Option::is_none)
        );
    }
}
