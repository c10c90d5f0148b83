//! Register page of the synthetic device, trapped: every access is an exit.

use wire::regs;

use crate::buffers::BufferTable;
use crate::config::BufferConfig;
use crate::window::Window;

/// Bytes of the page, as an index.
const LEN: usize = 0x1000;
const _: () = assert!(LEN as u64 == regs::REGS_LEN_BYTES);

/// Most doorbell values remembered between two looks at them.
const MAX_DOORBELLS: usize = 1024;

/// The register page as bytes, and what the driver rang.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegisterPage {
    bytes: [u8; LEN],
    doorbells: Vec<u32>,
    pub(crate) buffers: BufferTable,
}

impl RegisterPage {
    pub(crate) fn new(windows: &[Window], buffers: &[BufferConfig]) -> Self {
        let mut page = Self {
            bytes: [0; LEN],
            doorbells: Vec::new(),
            buffers: BufferTable::new(buffers),
        };
        page.put(regs::REG_MAGIC, &regs::MAGIC_VALUE.to_le_bytes());
        page.put(regs::REG_VERSION, &regs::VERSION_VALUE.to_le_bytes());
        page.put_u32(regs::REG_WINDOW_COUNT, windows.len() as u64);
        for (index, window) in windows.iter().enumerate() {
            page.put_window(
                regs::REG_WINDOW_TABLE + index as u64 * regs::WINDOW_STRIDE,
                window,
            );
        }
        page
    }

    fn put_window(&mut self, entry: u64, window: &Window) {
        let flags = if window.config().read_only {
            regs::WINDOW_FLAG_READ_ONLY
        } else {
            0
        };
        self.put(
            entry + regs::WINDOW_BASE,
            &window.base().raw().to_le_bytes(),
        );
        self.put_u32(entry + regs::WINDOW_NPAGES, window.npages());
        self.put(entry + regs::WINDOW_FLAGS, &flags.to_le_bytes());
    }

    /// A count; the VM's configuration keeps all of them far below 2^32.
    fn put_u32(&mut self, at: u64, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.put(at, &count.to_le_bytes());
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        if let Some(register) = self.range(at, bytes.len()) {
            self.bytes[register].copy_from_slice(bytes);
        }
    }

    /// The bytes of an access, or `None` when they are not all in the page.
    fn range(&self, at: u64, len_bytes: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(len_bytes)?;
        (end <= LEN).then_some(start..end)
    }

    /// Answers a load at byte `at` of the page. An access that no register
    /// allows reads as all ones, as an absent device would.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        into.fill(0xff);
        let aligned = matches!(into.len(), 4 | 8) && at.is_multiple_of(into.len() as u64);
        if let (true, Some(register)) = (aligned, self.range(at, into.len())) {
            into.copy_from_slice(&self.bytes[register]);
        }
        if let Ok(word) = <&mut [u8; 4]>::try_from(&mut *into)
            && let Some(value) = self.buffers.read_u32(at)
        {
            *word = value.to_le_bytes();
        }
        if let Ok(word) = <&mut [u8; 8]>::try_from(into)
            && let Some(value) = self.buffers.read_u64(at)
        {
            *word = value.to_le_bytes();
        }
    }

    /// Takes a store at byte `at` of the page; one that no register hears is lost.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        if let Ok(value) = <[u8; 8]>::try_from(bytes) {
            self.buffers.write_u64(at, u64::from_le_bytes(value));
        }
        let Ok(value) = <[u8; 4]>::try_from(bytes) else {
            return;
        };
        let value = u32::from_le_bytes(value);
        self.buffers.write_u32(at, value);
        if at == regs::REG_DOORBELL && self.doorbells.len() < MAX_DOORBELLS {
            self.doorbells.push(value);
        }
    }

    /// Whether no driver has written anything that is kept.
    pub(crate) fn is_unused(&self) -> bool {
        self.doorbells.is_empty() && self.buffers.is_unused()
    }

    /// What the driver rang since the last call.
    pub(crate) fn take_doorbells(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.doorbells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(page: &RegisterPage, at: u64) -> [u8; N] {
        let mut into = [0; N];
        page.read(at, &mut into);
        into
    }

    #[test]
    fn the_page_identifies_itself() {
        let page = RegisterPage::new(&[], &[]);
        assert_eq!(read(&page, regs::REG_MAGIC), *b"MAPW");
        assert_eq!(read(&page, regs::REG_WINDOW_COUNT), [0; 4]);
    }

    #[test]
    fn accesses_that_no_register_allows_read_all_ones() {
        let page = RegisterPage::new(&[], &[]);
        assert_eq!(read(&page, 1), [0xff; 4]);
        assert_eq!(read(&page, 0), [0xff; 2]);
        assert_eq!(read(&page, regs::REGS_LEN_BYTES), [0xff; 4]);
        assert_eq!(read(&page, u64::MAX - 7), [0xff; 8]);
    }

    #[test]
    fn a_driver_that_rings_for_ever_costs_bounded_memory() {
        let mut page = RegisterPage::new(&[], &[]);
        for value in 0..10_000_u32 {
            page.write(regs::REG_DOORBELL, &value.to_le_bytes());
        }
        page.write(regs::REG_MAGIC, &[0; 4]);
        assert_eq!(page.take_doorbells().len(), MAX_DOORBELLS);
        assert_eq!(read(&page, regs::REG_MAGIC), *b"MAPW");
    }
}
