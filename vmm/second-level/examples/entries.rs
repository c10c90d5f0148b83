//! Runs a guest without page tables of its own, which stops at a breakpoint of an
//! emulator's debugger, and prints what this crate finds in its second-level tables
//! for the addresses that are given: `entries 0x3000 0x80000000 ...`.
//!
//! What the guest has: 16 pages of 4 KiB from 0, 2 MiB in one piece from 0x80000000,
//! and 4 pages from 0xc0000000 that are touched by nobody. It touches its fourth page
//! and the large one, then executes `xchg bx, bx`.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use addr::Gpa;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use second_level::Host;

/// Base and length of each memslot in bytes, and further flags of its mapping.
const SLOTS: [(u64, usize, libc::c_int); 3] = [
    (0, 16 << 12, 0),
    (0x8000_0000, 2 << 20, libc::MAP_HUGETLB),
    (0xc000_0000, 4 << 12, 0),
];
const CODE: u64 = 0x1000;
/// In 32-bit mode: two loads, the breakpoint, and the port that says so.
const INSTRUCTIONS: [u8; 15] = [
    0xa1, 0x00, 0x30, 0x00, 0x00, // mov eax, [0x3000]
    0xa1, 0x00, 0x00, 0x00, 0x80, // mov eax, [0x80000000]
    0x66, 0x87, 0xdb, // xchg bx, bx
    0xe6, 0x10, // out 0x10, al
];
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let addresses = std::env::args().skip(1);
    let addresses = addresses
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16))
        .collect::<Result<Vec<_>, _>>()?;
    std::fs::write(HUGE_PAGES, "4")?;
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let mut memory = Vec::new();
    for (number, (base, len_bytes, flags)) in (0..).zip(SLOTS) {
        memory.push(give_memory(&vm, number, base, len_bytes, flags)?);
    }
    let mut vcpu = vm.create_vcpu(0)?;
    let code = memory.first().ok_or("no memory")?;
    code.write(CODE, &INSTRUCTIONS);
    enter_flat_mode(&vcpu)?;
    match vcpu.run()? {
        VcpuExit::IoOut(0x10, _) => {}
        other => return Err(format!("the guest ended with {other:?}").into()),
    }
    let host = Host::open()?;
    let tables = host.tables(vcpu.as_raw_fd())?;
    for address in addresses {
        let walked = tables.walk(Gpa::new(address));
        let steps = match &walked {
            Ok(found) => Some(&found.steps),
            Err(error) => error.steps(),
        };
        let raw = steps.into_iter().flat_map(|steps| steps.iter());
        let raw: Vec<String> = raw.map(|step| format!("{:#018x}", step.raw)).collect();
        let end = match &walked {
            Ok(found) => format!("{:#x}", found.address.raw()),
            Err(_) => "nothing".to_owned(),
        };
        println!("entries {address:#x}: {} -> {end}", raw.join(" "));
    }
    Ok(())
}

/// Memory of this process that a guest has; kept until the end.
struct Memory(*mut u8);

impl Memory {
    fn write(&self, gpa: u64, bytes: &[u8]) {
        for (offset, byte) in (gpa..).zip(bytes) {
            let Ok(offset) = usize::try_from(offset) else {
                return;
            };
            // SAFETY: the first slot has 16 pages, and the code lies in its second.
            let place = unsafe { self.0.add(offset) };
            // SAFETY: `place` lies in a writable mapping that no reference points into.
            unsafe { place.write_volatile(*byte) };
        }
    }
}

fn give_memory(
    vm: &VmFd,
    slot: u32,
    base: u64,
    len_bytes: usize,
    flags: libc::c_int,
) -> Result<Memory, Failure> {
    // SAFETY: a new anonymous mapping replaces nothing.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    let memory = Memory(start.cast());
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: base,
        memory_size: len_bytes as u64,
        userspace_addr: start.addr() as u64,
    };
    // SAFETY: the mapping is that long and stays until the process ends.
    unsafe { vm.set_user_memory_region(region) }?;
    // Frames are there, so that a load does not end at the page of zeros.
    if base != 0xc000_0000 {
        for page in (0..len_bytes).step_by(4096) {
            // SAFETY: `page` lies within the mapping.
            let place = unsafe { memory.0.add(page) };
            // SAFETY: as above, and nothing refers to the mapping.
            unsafe { place.write_volatile(0) };
        }
    }
    Ok(memory)
}

/// 32-bit mode with flat segments and without paging.
fn enter_flat_mode(vcpu: &VcpuFd) -> Result<(), Failure> {
    let mut sregs = vcpu.get_sregs()?;
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
        ..data
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    // PE, ET and NE.
    sregs.cr0 = 0x31;
    vcpu.set_sregs(&sregs)?;
    let regs = kvm_regs {
        rip: CODE,
        rflags: 2,
        ..kvm_regs::default()
    };
    Ok(vcpu.set_regs(&regs)?)
}
