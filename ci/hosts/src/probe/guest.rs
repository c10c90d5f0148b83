//! The tiny guest: what it executes and the memory that it executes in.
//!
//! It does what a stock kernel will sooner or later do and what a KVM that emulates
//! instructions in software cannot: BMI2, a 16-byte compare-and-exchange, a string
//! move, and a load through a second mapping of the same page.

use std::io;
use std::ptr;
use std::slice;

use kvm_bindings::{kvm_segment, kvm_sregs};

/// Bytes of guest memory, at guest physical 0.
pub const MEMORY_LEN_BYTES: usize = 64 * 1024;
/// Port of the guest's one word of success.
pub const REPORT_PORT: u16 = 0x0d10;
/// That word.
pub const REPORT_VALUE: u32 = 0x600d_1dea;
/// Guest virtual and physical address of the code.
pub const CODE: u64 = 0x8000;
/// Guest virtual and physical address of the data page.
pub const DATA: u64 = 0x9000;
/// Second guest virtual address of the data page.
pub const ALIAS: u64 = 0x20_0000;
/// Value of RDI that lets the guest use BMI2.
pub const WITH_BMI2: u64 = 1;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT_IDENTITY: u64 = 0x4000;
const PT_ALIAS: u64 = 0x5000;
/// Present and writable (SDM vol. 3A, 5.5).
const TABLE_FLAGS: u64 = 0b11;

core::arch::global_asm!(
    ".pushsection .rodata.mapwitness_probe, \"a\"",
    ".global mapwitness_probe_start",
    ".global mapwitness_probe_end",
    "mapwitness_probe_start:",
    "    test edi, {with_bmi2}",
    "    jz 2f",
    "    mov eax, 1",
    "    mov ecx, 5",
    "    shlx rax, rax, rcx",
    "    cmp rax, 32",
    "    jne 9f",
    "    mov edx, 3",
    "    mulx r9, r8, rax",
    "    cmp r8, 96",
    "    jne 9f",
    "2:",
    "    xor eax, eax",
    "    xor edx, edx",
    "    mov ebx, 0x11",
    "    mov ecx, 0x22",
    "    lock cmpxchg16b [rsi]",
    "    jnz 9f",
    "    lea rdi, [rsi + 64]",
    "    mov ecx, 16",
    "    rep movsb",
    "    cmp qword ptr [r12 + 64], 0x11",
    "    jne 9f",
    "    cmp qword ptr [r12 + 72], 0x22",
    "    jne 9f",
    "    mov eax, {value}",
    "    mov dx, {port}",
    "    out dx, eax",
    "9:",
    "    hlt",
    "mapwitness_probe_end:",
    ".popsection",
    with_bmi2 = const WITH_BMI2,
    value = const REPORT_VALUE,
    port = const REPORT_PORT,
);

unsafe extern "C" {
    #[link_name = "mapwitness_probe_start"]
    static CODE_START: u8;
    #[link_name = "mapwitness_probe_end"]
    static CODE_END: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const CODE_START;
    let end = &raw const CODE_END;
    let len = end.addr().saturating_sub(start.addr());
    // SAFETY: both labels stand in the same read-only section of this program, with
    // `len` initialised bytes between them that nothing ever writes.
    unsafe { slice::from_raw_parts(start, len) }
}

/// Anonymous memory that a guest may change at any time: reached by volatile
/// copies only, never by a reference.
pub struct Memory {
    start: *mut u8,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Memory {}

impl Memory {
    /// Memory with the tables and the code in place.
    pub fn with_guest() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping replaces nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                MEMORY_LEN_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = Self {
            start: start.cast(),
        };
        memory.entry(PML4, 0, PDPT);
        memory.entry(PDPT, 0, PD);
        memory.entry(PD, 0, PT_IDENTITY);
        memory.entry(PD, 1, PT_ALIAS);
        for page in 0..(MEMORY_LEN_BYTES as u64 >> 12) {
            memory.entry(PT_IDENTITY, page, page << 12);
        }
        memory.entry(PT_ALIAS, 0, DATA);
        memory.write(CODE, code());
        Ok(memory)
    }

    /// Host virtual address of the first byte.
    pub fn hva(&self) -> u64 {
        self.start.addr() as u64
    }

    fn entry(&self, table: u64, index: u64, target: u64) {
        self.write(table + index * 8, &(target | TABLE_FLAGS).to_le_bytes());
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        let fits = usize::try_from(gpa).ok().filter(|at| {
            at.checked_add(bytes.len())
                .is_some_and(|end| end <= MEMORY_LEN_BYTES)
        });
        // Addresses and code are this file's constants; a test holds them in bounds.
        let Some(at) = fits else { return };
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: `at + bytes.len()` was found to lie within the mapping.
            let target = unsafe { self.start.add(at + index) };
            // SAFETY: `target` lies in the mapping, which is writable and ours.
            unsafe { target.write_volatile(*byte) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `with_guest`; the VM that used it is
        // dropped before it by its owner.
        unsafe { libc::munmap(self.start.cast(), MEMORY_LEN_BYTES) };
    }
}

/// Turns the reset state into flat 64-bit mode on the guest's tables.
pub fn enter_long_mode(sregs: &mut kvm_sregs) {
    // CR0: PE, MP, ET, NE, WP, PG. CR4: PAE, OSFXSR. EFER: LME, LMA.
    sregs.cr0 = 0x8001_0033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x220;
    sregs.efer = 0x500;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 0x3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x8,
        type_: 0xb,
        db: 0,
        l: 1,
        ..data
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_its_page_and_ends_in_hlt() {
        assert!(code().len() > 32 && code().len() < 4096);
        assert_eq!(code().last(), Some(&0xf4));
        let shlx = [0xc4, 0xe2, 0xf1, 0xf7, 0xc0];
        assert!(code().windows(5).any(|window| window == shlx));
        assert!(DATA + 4096 <= MEMORY_LEN_BYTES as u64);
    }
}
