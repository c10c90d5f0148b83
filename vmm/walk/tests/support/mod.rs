//! Memory for tests: only the entries that a test names exist.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod figures;

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use walk::{AddressSpace, TableRead};

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
