//! The image of memory that the machine starts with: the kernel, what PVH tells it
//! (Xen's docs/misc/pvh.pandoc), and the root file system.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use guest_images::initramfs::{self, Entry};

use super::kernel::FlatKernel;
use super::rom::Parameters;

/// Memory of the machine.
pub const LEN_MIB: u64 = 1024;
/// Bochs hands out memory in blocks of so many bytes (its `block_size`).
pub const BLOCK_LEN_BYTES: u32 = 128 * 1024;
/// Behind the start info's beginning stands the kernel's entry, for the ROM.
pub const ENTRY_OFFSET_BYTES: u32 = 0xf00;

/// `XEN_HVM_START_MAGIC_VALUE` of include/xen/interface/hvm/start_info.h.
const START_MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM` and `_RESERVED` of the same.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// Offsets from the start info's beginning.
const MEMORY_MAP: u64 = 0x100;
const MODULE_LIST: u64 = 0x200;
const COMMAND_LINE: u64 = 0x1000;
const ROOT: u64 = 0x3000;
const COMMAND_LINE_MAX_LEN_BYTES: usize = 0x1000;
/// Below lie a PC's own memory and devices.
const LOW_END: u64 = 0x9_f000;
const HIGH_START: u64 = 0x10_0000;
/// What the start info's place is aligned to.
const ALIGNMENT_BYTES: u64 = 2 << 20;

/// Writes the image into `file` and says where things lie.
///
/// # Errors
/// When the file cannot be written or the machine has too little memory.
pub fn write(
    file: &mut File,
    kernel: &FlatKernel,
    command_line: &str,
    root: &[Entry],
) -> io::Result<Parameters> {
    let mut image = File::open(&kernel.image)?;
    io::copy(&mut image, file)?;
    let start = kernel.layout.start;
    let info = kernel.layout.end.next_multiple_of(ALIGNMENT_BYTES);
    file.seek(SeekFrom::Start(info + ROOT - start))?;
    initramfs::write_into(root, file).map_err(io::Error::other)?;
    let end = start + file.stream_position()?;
    // Half of the rest becomes the root file system in its unpacked form.
    if end + (end - start) >= LEN_MIB << 20 {
        return Err(io::Error::other(format!(
            "the program and its files take {} MiB; the machine has {LEN_MIB}",
            (end - info) >> 20
        )));
    }
    file.seek(SeekFrom::Start(info - start))?;
    file.write_all(&start_info(info, end, kernel.layout.entry, command_line)?)?;
    let address = |value: u64| u32::try_from(value).map_err(io::Error::other);
    Ok(Parameters {
        image_start: address(start)?,
        image_end: address(end)?,
        start_info: address(info)?,
    })
}

/// The pages from the start info to the root file system, which ends at `end`.
fn start_info(info: u64, end: u64, entry: u32, command_line: &str) -> io::Result<Vec<u8>> {
    if command_line.len() >= COMMAND_LINE_MAX_LEN_BYTES {
        return Err(io::Error::other("the kernel's command line is too long"));
    }
    let map = [
        (0, LOW_END, RAM),
        (LOW_END, HIGH_START, RESERVED),
        (HIGH_START, LEN_MIB << 20, RAM),
    ];
    let mut pages = Pages(Vec::new());
    // struct hvm_start_info: magic, version, flags, nr_modules, modlist_paddr,
    // cmdline_paddr, rsdp_paddr, memmap_paddr, memmap_entries, reserved.
    pages.words(&[START_MAGIC, 1, 0, 1]);
    pages.longs(&[
        info + MODULE_LIST,
        info + COMMAND_LINE,
        0,
        info + MEMORY_MAP,
    ]);
    pages.words(&[3, 0]);
    pages.skip_to(MEMORY_MAP);
    for (start, end, kind) in map {
        pages.longs(&[start, end - start]);
        pages.words(&[kind, 0]);
    }
    pages.skip_to(MODULE_LIST);
    // struct hvm_modlist_entry: paddr, size, cmdline_paddr, reserved.
    pages.longs(&[info + ROOT, end - (info + ROOT), 0, 0]);
    pages.skip_to(u64::from(ENTRY_OFFSET_BYTES));
    pages.words(&[entry]);
    pages.skip_to(COMMAND_LINE);
    pages.0.extend(command_line.bytes());
    pages.skip_to(ROOT);
    Ok(pages.0)
}

struct Pages(Vec<u8>);

impl Pages {
    fn words(&mut self, words: &[u32]) {
        self.0
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn longs(&mut self, longs: &[u64]) {
        self.0
            .extend(longs.iter().flat_map(|long| long.to_le_bytes()));
    }

    /// Offsets are this file's constants, each behind what was written before it.
    fn skip_to(&mut self, offset_bytes: u64) {
        let len = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        debug_assert!(self.0.len() <= len);
        self.0.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_finds_what_it_is_told() {
        let pages = start_info(0x500_0000, 0x600_0000, 0x100_0a30, "quiet").expect("short");
        let long = |at: usize| u64::from_le_bytes(*pages[at..].first_chunk().expect("there"));
        assert_eq!(pages[..4], START_MAGIC.to_le_bytes());
        assert_eq!(long(16), 0x500_0200, "modlist_paddr");
        assert_eq!(long(24), 0x500_1000, "cmdline_paddr");
        assert_eq!(long(40), 0x500_0100, "memmap_paddr");
        assert_eq!(long(0x200), 0x500_3000);
        assert_eq!(long(0x208), 0x600_0000 - 0x500_3000);
        assert_eq!(pages[0x1000..0x1006], *b"quiet\0");
        assert_eq!(pages.len() as u64, ROOT);
        let long_line = "x".repeat(COMMAND_LINE_MAX_LEN_BYTES);
        assert!(start_info(0, 0, 0, &long_line).is_err());
    }
}
