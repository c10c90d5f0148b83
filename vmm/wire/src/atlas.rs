// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT

//! ioctl(2) on `/dev/mapwitness-atlas`: one piece of memory under all the addresses that
//! a kernel has for it. The driver is compiled with this very file.
//!
//! Everything here is a claim of the driver, made to be held against page tables.

#![allow(dead_code)]

/// Path of the file. Page 0 of it is the coherent page, for a shared mapping.
pub const ATLAS_PATH: &str = "/dev/mapwitness-atlas";

/// Rings the device with [`RING_VALUE`] while every address of a [`Published`] is
/// valid, the temporary one among them. The same words stand at the start of the coherent
/// page then, whose bus address is in the DMA engine's register, and are given back in
/// the argument.
pub const PUBLISH: u32 = ioctl(READ, 0x10, Published::LEN_BYTES);
/// Lets the device's DMA engine copy between the coherent page and a page of a window;
/// the argument is a [`DmaCopy`], whose `status` is given back.
pub const COPY: u32 = ioctl(READ | WRITE, 0x11, DmaCopy::LEN_BYTES);

/// What the driver stores to the doorbell register.
pub const RING_VALUE: u32 = 0x736c_7461;
/// Pages of the vmalloc area.
pub const VMALLOC_NPAGES: usize = 7;
/// The page of the vmap area that is the coherent page.
pub const VMAP_COHERENT_PAGE: u64 = 1;

/// Words before those of the vmalloc area's pages.
const WORDS: usize = 13;

/// Addresses as the driver's kernel functions gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// `dma_alloc_coherent()`: where the processor has the coherent page, in the direct
    /// map (kernel logical).
    pub coherent: u64,
    /// Where the device has it (bus).
    pub bus: u64,
    /// `virt_to_phys(coherent)` (physical).
    pub physical: u64,
    /// `virt_to_page(coherent)`.
    pub page: u64,
    /// `page_to_pfn(page)`.
    pub pfn: u64,
    /// `pfn_to_page(pfn)`.
    pub page_of_pfn: u64,
    /// `page_address(page)`.
    pub page_address: u64,
    /// `__kmap_local_page_prot(page, PAGE_KERNEL)`: valid until the driver goes on.
    pub kmap_local: u64,
    /// `vmap()` of the last page of the vmalloc area and the coherent page, in this
    /// order (kernel virtual).
    pub vmap: u64,
    /// `vmalloc()` of [`VMALLOC_NPAGES`] pages, which are not neighbours.
    pub vmalloc: u64,
    /// `ioremap()` of the first page of window 0.
    pub ioremap: u64,
    /// Its physical address, by the device's window table.
    pub ioremap_physical: u64,
    /// The user's pid, as the driver sees it.
    pub pid: u64,
    /// `vmalloc_to_page()` of each page of the vmalloc area.
    pub vmalloc_pages: [u64; VMALLOC_NPAGES],
}

impl Published {
    /// Number of words.
    pub const WORDS: usize = WORDS + VMALLOC_NPAGES;
    /// Bytes of an argument: the words, little endian.
    pub const LEN_BYTES: usize = 8 * Self::WORDS;

    /// As words, in the order of the members.
    pub fn to_words(self) -> [u64; Self::WORDS] {
        let first = [
            self.coherent,
            self.bus,
            self.physical,
            self.page,
            self.pfn,
            self.page_of_pfn,
            self.page_address,
            self.kmap_local,
            self.vmap,
            self.vmalloc,
            self.ioremap,
            self.ioremap_physical,
            self.pid,
        ];
        let mut words = [0; Self::WORDS];
        for (to, from) in words
            .iter_mut()
            .zip(first.iter().chain(&self.vmalloc_pages))
        {
            *to = *from;
        }
        words
    }

    /// From words in the order of the members.
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        let mut vmalloc_pages = [0; VMALLOC_NPAGES];
        let mut at = 0;
        while at < VMALLOC_NPAGES {
            vmalloc_pages[at] = words[WORDS + at];
            at += 1;
        }
        Self {
            coherent: words[0],
            bus: words[1],
            physical: words[2],
            page: words[3],
            pfn: words[4],
            page_of_pfn: words[5],
            page_address: words[6],
            kmap_local: words[7],
            vmap: words[8],
            vmalloc: words[9],
            ioremap: words[10],
            ioremap_physical: words[11],
            pid: words[12],
            vmalloc_pages,
        }
    }
}

/// A copy by the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaCopy {
    /// `DMA_COMMAND_*` of the register page.
    pub command: u32,
    /// Index of the window.
    pub window: u32,
    /// Page of the window.
    pub page: u32,
    /// Bytes.
    pub len_bytes: u32,
    /// Added to the coherent page's bus address, so that the device can be sent astray.
    pub bus_offset: u64,
    /// `DMA_STATUS_*` after the copy.
    pub status: u32,
}

impl DmaCopy {
    /// Bytes of an argument.
    pub const LEN_BYTES: usize = 32;

    /// As little endian words of 64 bits.
    pub const fn to_words(self) -> [u64; 4] {
        [
            self.command as u64 | (self.window as u64) << 32,
            self.page as u64 | (self.len_bytes as u64) << 32,
            self.bus_offset,
            self.status as u64,
        ]
    }

    /// From such words.
    pub const fn from_words(words: [u64; 4]) -> Self {
        const fn low(word: u64) -> u32 {
            (word & 0xffff_ffff) as u32
        }
        Self {
            command: low(words[0]),
            window: low(words[0] >> 32),
            page: low(words[1]),
            len_bytes: low(words[1] >> 32),
            bus_offset: words[2],
            status: low(words[3]),
        }
    }
}

/// `_IOC_WRITE` of asm-generic/ioctl.h: the argument is read.
const WRITE: u32 = 1;
/// `_IOC_READ`: the argument is written.
const READ: u32 = 2;

/// `_IOC(direction, 'w', number, len_bytes)`.
const fn ioctl(direction: u32, number: u32, len_bytes: usize) -> u32 {
    assert!(len_bytes < 1 << 14);
    let [low, high, ..] = len_bytes.to_le_bytes();
    let len_bytes = u16::from_le_bytes([low, high]) as u32;
    (direction << 30) | (len_bytes << 16) | ((b'w' as u32) << 8) | number
}
