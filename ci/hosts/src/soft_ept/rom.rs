//! The machine's read-only memory: the instructions from reset to the kernel's PVH
//! entry, and nothing else.
//!
//! It runs twice only if the machine was reset, which is how a kernel ends that has
//! panicked: then it ends the emulator.

use std::slice;

use super::memory::{BLOCK_LEN_BYTES, ENTRY_OFFSET_BYTES};

/// Length of the memory, which ends where addresses below 4 GiB do.
const LEN_BYTES: usize = 0x1_0000;
/// Where it begins: the code segment's base after reset (SDM volume 3A, 11.1.4).
const BASE: u32 = 0xffff_0000;
/// The first instruction after reset, from the beginning.
const RESET_OFFSET_BYTES: usize = 0xfff0;
/// A byte that the BIOS would use and the kernel leaves alone (its first page is
/// reserved): says that the machine has started before.
const STARTED_AT: u32 = 0x500;
const STARTED: u32 = 0x6d61_7077;

core::arch::global_asm!(
    ".pushsection .rodata.mapwitness_rom, \"a\"",
    ".global mapwitness_rom_start",
    ".global mapwitness_rom_parameters",
    ".global mapwitness_rom_end",
    "mapwitness_rom_start:",
    ".code16",
    "    cli",
    "    lgdtl %cs:.Lrom_table - mapwitness_rom_start",
    "    movl $0x11, %eax",
    "    movl %eax, %cr0",
    "    ljmpl $8, ${base} + .Lrom_flat - mapwitness_rom_start",
    ".code32",
    ".Lrom_flat:",
    "    movl $0x10, %eax",
    "    movl %eax, %ds",
    "    movl %eax, %es",
    "    movl %eax, %ss",
    "    movl %eax, %fs",
    "    movl %eax, %gs",
    // Address line 20 (port 0x92, bit 1).
    "    inb $0x92, %al",
    "    orb $2, %al",
    "    outb %al, $0x92",
    // Bochs has read the image in one piece, and hands out its memory block by block
    // in the order of first use: use every block in the order of the image.
    "    movl {base} + .Lrom_image_start - mapwitness_rom_start, %esi",
    "    movl {base} + .Lrom_image_end - mapwitness_rom_start, %edi",
    ".Lrom_touch:",
    "    movl (%esi), %eax",
    "    addl ${block}, %esi",
    "    cmpl %edi, %esi",
    "    jb .Lrom_touch",
    "    cmpl ${started}, {started_at}",
    "    je .Lrom_again",
    "    movl ${started}, {started_at}",
    // Memory is write-back where nothing else is said (IA32_MTRR_DEF_TYPE).
    "    movl $0x2ff, %ecx",
    "    movl $0x806, %eax",
    "    xorl %edx, %edx",
    "    wrmsr",
    "    movl {base} + .Lrom_start_info - mapwitness_rom_start, %ebx",
    "    movl {entry_offset}(%ebx), %eax",
    "    jmp *%eax",
    // The machine was reset: end the emulator.
    ".Lrom_again:",
    "    movl ${base} + .Lrom_word - mapwitness_rom_start, %esi",
    "    movl $8, %ecx",
    "    movl $0x8900, %edx",
    "    cld",
    "    rep outsb (%esi), %dx",
    ".Lrom_halt:",
    "    hlt",
    "    jmp .Lrom_halt",
    ".balign 8",
    // Flat code and data, marked as accessed: nothing is written here.
    ".Lrom_descriptors:",
    "    .quad 0",
    "    .quad 0x00cf9b000000ffff",
    "    .quad 0x00cf93000000ffff",
    ".Lrom_table:",
    "    .short 23",
    "    .long {base} + .Lrom_descriptors - mapwitness_rom_start",
    ".Lrom_word:",
    "    .ascii \"Shutdown\"",
    "mapwitness_rom_parameters:",
    ".Lrom_image_start:",
    "    .long 0",
    ".Lrom_image_end:",
    "    .long 0",
    ".Lrom_start_info:",
    "    .long 0",
    "mapwitness_rom_end:",
    ".code64",
    ".popsection",
    base = const BASE,
    block = const BLOCK_LEN_BYTES,
    started_at = const STARTED_AT,
    started = const STARTED,
    entry_offset = const ENTRY_OFFSET_BYTES,
    options(att_syntax)
);

unsafe extern "C" {
    #[link_name = "mapwitness_rom_start"]
    static CODE_START: u8;
    #[link_name = "mapwitness_rom_parameters"]
    static PARAMETERS: u8;
    #[link_name = "mapwitness_rom_end"]
    static CODE_END: u8;
}

/// Physical addresses that the code works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// First byte of the image.
    pub image_start: u32,
    /// First byte behind it.
    pub image_end: u32,
    /// The start info, behind which the entry's address stands.
    pub start_info: u32,
}

fn code() -> &'static [u8] {
    let start = &raw const CODE_START;
    let end = &raw const CODE_END;
    let len = end.addr().saturating_sub(start.addr());
    // SAFETY: both labels stand in the same read-only section of this program, with
    // `len` initialised bytes between them that nothing ever writes.
    unsafe { slice::from_raw_parts(start, len) }
}

/// The memory's content.
pub fn rom(parameters: Parameters) -> Vec<u8> {
    let mut code = code().to_vec();
    let start = &raw const CODE_START;
    let at = (&raw const PARAMETERS).addr().saturating_sub(start.addr());
    let words = [
        parameters.image_start,
        parameters.image_end,
        parameters.start_info,
    ];
    code.truncate(at);
    code.extend(words.into_iter().flat_map(u32::to_le_bytes));
    code.resize(RESET_OFFSET_BYTES, 0xf4);
    // A jump back to the beginning: 0xe9 and the distance from the next instruction.
    code.push(0xe9);
    let behind = RESET_OFFSET_BYTES + 3;
    // Offsets in 16-bit code wrap at 64 KiB.
    let distance = u16::try_from(LEN_BYTES - behind).unwrap_or(0);
    code.extend(distance.to_le_bytes());
    code.resize(LEN_BYTES, 0xf4);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_and_is_reached_from_reset() {
        let rom = rom(Parameters {
            image_start: 0x0100_0000,
            image_end: 0x0600_0000,
            start_info: 0x0500_0000,
        });
        assert_eq!(rom.len(), LEN_BYTES);
        assert!(code().len() < 512);
        // cli; and the jump there: 0xfff3 + 0x0d wraps to 0.
        assert_eq!(rom[0], 0xfa);
        assert_eq!(rom[RESET_OFFSET_BYTES..][..3], [0xe9, 0x0d, 0x00]);
        let words = 0x0600_0000_u32.to_le_bytes();
        assert!(rom[..512].windows(4).any(|window| window == words));
    }
}
