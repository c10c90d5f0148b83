//! The device's DMA engine: copies between a page of a window and a bus address.
//!
//! The guest programs it and is not trusted: whatever the registers hold, the device
//! touches its own windows and the guest's RAM, and nothing else. There is no IOMMU: a
//! bus address is a guest physical one.

use addr::{Gpa, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress};
use wire::regs;

use crate::slots::GuestMemory;
use crate::window::Window;

/// Bytes of the largest copy, as a length of this process's memory.
const MOST_LEN: usize = 4096;
const _: () = assert!(MOST_LEN as u64 == PAGE_SIZE);

/// What the registers hold, as the driver has set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaRegisters {
    /// First bus address.
    pub bus_address: u64,
    /// Index of the window.
    pub window: u32,
    /// Page of the window.
    pub page: u32,
    /// Bytes to copy.
    pub len_bytes: u32,
    /// `DMA_STATUS_*` of the last command.
    pub status: u32,
}

/// The engine.
pub(crate) struct Dma {
    registers: DmaRegisters,
    memory: GuestMemory,
    ram_len_bytes: u64,
    /// First page and number of pages of each window.
    windows: Vec<(Gpa, u64)>,
}

impl Dma {
    pub(crate) fn new(memory: GuestMemory, ram_len_bytes: u64, windows: &[Window]) -> Self {
        let place = |window: &Window| (window.base(), window.npages());
        Self {
            registers: DmaRegisters::default(),
            memory,
            ram_len_bytes,
            windows: windows.iter().map(place).collect(),
        }
    }

    pub(crate) fn registers(&self) -> DmaRegisters {
        self.registers
    }

    pub(crate) fn set_registers(&mut self, registers: DmaRegisters) {
        self.registers = registers;
    }

    /// Answers a load at byte `at` of the register page, if it is one of these
    /// registers at its own width.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        let DmaRegisters {
            bus_address,
            window,
            page,
            len_bytes,
            status,
        } = self.registers;
        if let (regs::REG_DMA_BUS_ADDRESS, Ok(word)) = (at, <&mut [u8; 8]>::try_from(&mut *into)) {
            *word = bus_address.to_le_bytes();
        }
        let value = match at {
            regs::REG_DMA_WINDOW => window,
            regs::REG_DMA_PAGE => page,
            regs::REG_DMA_LEN_BYTES => len_bytes,
            regs::REG_DMA_STATUS => status,
            _ => return,
        };
        if let Ok(word) = <&mut [u8; 4]>::try_from(into) {
            *word = value.to_le_bytes();
        }
    }

    /// Takes a store at byte `at` of the register page.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        if let (regs::REG_DMA_BUS_ADDRESS, Ok(word)) = (at, <[u8; 8]>::try_from(bytes)) {
            self.registers.bus_address = u64::from_le_bytes(word);
        }
        let Ok(word) = <[u8; 4]>::try_from(bytes) else {
            return;
        };
        let value = u32::from_le_bytes(word);
        match at {
            regs::REG_DMA_WINDOW => self.registers.window = value,
            regs::REG_DMA_PAGE => self.registers.page = value,
            regs::REG_DMA_LEN_BYTES => self.registers.len_bytes = value,
            regs::REG_DMA_COMMAND => {
                self.registers.status = match self.copy(value) {
                    Ok(()) => regs::DMA_STATUS_DONE,
                    Err(refused) => refused,
                }
            }
            _ => {}
        }
    }

    /// Carries out a command, or says why not.
    fn copy(&self, command: u32) -> Result<(), u32> {
        let page = self.device_page().ok_or(regs::DMA_STATUS_NO_PAGE)?;
        let len = usize::try_from(self.registers.len_bytes)
            .ok()
            .filter(|len| (1..=MOST_LEN).contains(len))
            .ok_or(regs::DMA_STATUS_BAD_LENGTH)?;
        let ram = self.ram(len).ok_or(regs::DMA_STATUS_NOT_RAM)?;
        let (from, to) = match command {
            regs::DMA_COMMAND_TO_RAM => (page, ram),
            regs::DMA_COMMAND_FROM_RAM => (ram, page),
            _ => return Err(regs::DMA_STATUS_BAD_COMMAND),
        };
        let mut bytes = [0; MOST_LEN];
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        // Both are backed by memslots, as just checked.
        self.memory
            .read_slice(bytes, from)
            .and_then(|()| self.memory.write_slice(bytes, to))
            .map_err(|_| regs::DMA_STATUS_NOT_RAM)
    }

    fn device_page(&self) -> Option<GuestAddress> {
        let index = usize::try_from(self.registers.window).ok()?;
        let (base, npages) = self.windows.get(index)?;
        let page = u64::from(self.registers.page);
        let at = base.checked_add(page.checked_mul(PAGE_SIZE)?)?;
        (page < *npages).then(|| GuestAddress(at.raw()))
    }

    /// The bus address, if all `len` bytes from there on are RAM.
    fn ram(&self, len: usize) -> Option<GuestAddress> {
        let start = self.registers.bus_address;
        let end = start.checked_add(u64::try_from(len).ok()?)?;
        (end <= self.ram_len_bytes).then_some(GuestAddress(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WindowConfig;

    const RAM: u64 = 4 * PAGE_SIZE;
    const WINDOW: Gpa = Gpa::new(0xd100_0000);

    /// RAM and, as memory of its own, a window of two pages.
    fn engine() -> Dma {
        let regions = [
            (GuestAddress(0), 4 * MOST_LEN),
            (GuestAddress(WINDOW.raw()), 2 * MOST_LEN),
        ];
        let memory = GuestMemory::from_ranges(&regions).expect("memory");
        let config = WindowConfig {
            name: "test".into(),
            npages: 2,
            read_only: false,
            align_bytes: PAGE_SIZE,
        };
        let window = Window::new(&config, WINDOW, 1).expect("built");
        Dma::new(memory, RAM, &[window])
    }

    fn command(dma: &mut Dma, bus: u64, [window, page, len, command]: [u32; 4]) -> u32 {
        dma.write(regs::REG_DMA_BUS_ADDRESS, &bus.to_le_bytes());
        dma.write(regs::REG_DMA_WINDOW, &window.to_le_bytes());
        dma.write(regs::REG_DMA_PAGE, &page.to_le_bytes());
        dma.write(regs::REG_DMA_LEN_BYTES, &len.to_le_bytes());
        dma.write(regs::REG_DMA_COMMAND, &command.to_le_bytes());
        let mut status = [0; 4];
        dma.read(regs::REG_DMA_STATUS, &mut status);
        u32::from_le_bytes(status)
    }

    #[test]
    fn bytes_go_both_ways_and_no_further() {
        let mut dma = engine();
        let page = GuestAddress(WINDOW.raw() + PAGE_SIZE);
        dma.memory
            .write_slice(b"from the device", page)
            .expect("there");
        let status = command(&mut dma, 0x1234, [0, 1, 8, regs::DMA_COMMAND_TO_RAM]);
        assert_eq!(status, regs::DMA_STATUS_DONE);
        let mut seen = [0; 10];
        dma.memory
            .read_slice(&mut seen, GuestAddress(0x1233))
            .expect("there");
        assert_eq!(&seen, b"\0from the\0");
        dma.memory
            .write_slice(b"FROM RAM", GuestAddress(RAM - 8))
            .expect("there");
        let status = command(&mut dma, RAM - 8, [0, 1, 8, regs::DMA_COMMAND_FROM_RAM]);
        assert_eq!(status, regs::DMA_STATUS_DONE);
        let mut seen = [0; 15];
        dma.memory.read_slice(&mut seen, page).expect("there");
        assert_eq!(&seen, b"FROM RAM device");
    }

    #[test]
    fn only_windows_and_ram_are_touched() {
        let mut dma = engine();
        let to_ram = regs::DMA_COMMAND_TO_RAM;
        for (bus, registers, status) in [
            (RAM - 7, [0, 0, 8, to_ram], regs::DMA_STATUS_NOT_RAM),
            (RAM, [0, 0, 1, to_ram], regs::DMA_STATUS_NOT_RAM),
            (u64::MAX, [0, 0, 8, to_ram], regs::DMA_STATUS_NOT_RAM),
            (WINDOW.raw(), [0, 0, 8, to_ram], regs::DMA_STATUS_NOT_RAM),
            (0, [0, 2, 8, to_ram], regs::DMA_STATUS_NO_PAGE),
            (0, [0, u32::MAX, 8, to_ram], regs::DMA_STATUS_NO_PAGE),
            (0, [1, 0, 8, to_ram], regs::DMA_STATUS_NO_PAGE),
            (0, [0, 0, 0, to_ram], regs::DMA_STATUS_BAD_LENGTH),
            (0, [0, 0, 4097, to_ram], regs::DMA_STATUS_BAD_LENGTH),
            (0, [0, 0, 8, 0], regs::DMA_STATUS_BAD_COMMAND),
            (0, [0, 0, 8, 3], regs::DMA_STATUS_BAD_COMMAND),
        ] {
            let found = command(&mut dma, bus, registers);
            assert_eq!(found, status, "{bus:#x} {registers:?}");
        }
        let mut ram = vec![0; 4 * MOST_LEN];
        dma.memory
            .read_slice(&mut ram, GuestAddress(0))
            .expect("there");
        assert!(ram.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn registers_are_heard_at_their_own_width() {
        let mut dma = engine();
        dma.write(regs::REG_DMA_BUS_ADDRESS, &[1; 4]);
        dma.write(regs::REG_DMA_PAGE, &[1; 8]);
        dma.write(regs::REG_DMA_STATUS, &[1; 4]);
        assert_eq!(dma.registers(), DmaRegisters::default());
        dma.write(regs::REG_DMA_BUS_ADDRESS, &7_u64.to_le_bytes());
        let mut word = [0; 8];
        dma.read(regs::REG_DMA_BUS_ADDRESS, &mut word);
        assert_eq!(word, 7_u64.to_le_bytes());
    }
}
