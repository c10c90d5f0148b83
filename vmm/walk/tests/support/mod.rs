//! Memory for tests: only the entries that a test names exist.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod ept_figures;
pub mod figures;
pub mod generate;
pub mod ranges;

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use walk::{AddressSpace, MemoryType, PagingRegs, TableRead, Vendor};

use figures::Processor;

/// Nothing lies at this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside(pub u64);

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory at {:#x}", self.0)
    }
}

impl std::error::Error for Outside {}

/// Entries by address.
pub struct Memory<A> {
    pub entries: HashMap<u64, u64>,
    space: PhantomData<A>,
}

impl<A> Memory<A> {
    pub fn new(entries: HashMap<u64, u64>) -> Self {
        Self {
            entries,
            space: PhantomData,
        }
    }
}

impl<A: AddressSpace> TableRead for Memory<A> {
    type Addr = A;
    type Error = Outside;

    fn read_entry(&self, at: A) -> Result<u64, Outside> {
        assert_eq!(at.to_raw() % 8, 0, "entries are aligned");
        assert!(at.to_raw() < 1 << 52, "physical addresses have 52 bits");
        self.entries
            .get(&at.to_raw())
            .copied()
            .ok_or(Outside(at.to_raw()))
    }
}

/// IA32_PAT with a different type in each field that has one.
pub const PAT: u64 = 0x0206_0005_0407_0106;

pub fn type_of_field(index: u64) -> MemoryType {
    match index {
        0 | 6 => MemoryType::WriteBack,
        1 => MemoryType::WriteCombining,
        2 => MemoryType::UncachedMinus,
        3 => MemoryType::WriteThrough,
        4 => MemoryType::WriteProtected,
        5 => MemoryType::Uncacheable,
        _ => MemoryType::Reserved(2),
    }
}

pub fn regs(cpu: Processor, root: u64) -> PagingRegs {
    PagingRegs {
        cr0: 0x8000_0001,
        cr3: root,
        cr4: 0x20 | if cpu.levels == 5 { 0x1000 } else { 0 } | 0x80 | 0x40_0000 | 0x100_0000,
        efer: if cpu.nxe { 0xd00 } else { 0x500 },
        pat: PAT,
        maxphyaddr: u8::try_from(cpu.maxphyaddr).expect("at most 52"),
        gib_pages: cpu.gib_pages,
        vendor: if cpu.amd { Vendor::Amd } else { Vendor::Intel },
    }
}
