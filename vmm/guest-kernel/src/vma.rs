//! `vm_area_struct`: one mapping of a process.

use std::fmt;
use std::sync::Arc;

use addr::Gva;

use crate::error::ViewError;
use crate::facts::KernelFacts;
use crate::memory::KernelMemory;

/// A `vm_area_struct` as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmaView {
    /// Where the structure lies.
    pub at: Gva,
    /// First address (`vm_start`).
    pub start: Gva,
    /// The address after the last (`vm_end`).
    pub end: Gva,
    /// `vm_flags`.
    pub flags: VmFlags,
    /// `vm_page_prot`: bits that entries for its pages get, as the processor reads them.
    pub page_prot: u64,
    /// `vm_pgoff`, in pages.
    pub pgoff: u64,
    /// `vm_file`, if it maps one.
    pub file: Option<Gva>,
    /// `vm_ops`, if it has any.
    pub ops: Option<Gva>,
    /// `vm_private_data`.
    pub private_data: u64,
}

impl VmaView {
    pub(crate) fn read<M: KernelMemory>(
        memory: &M,
        facts: &KernelFacts,
        at: u64,
    ) -> Result<Self, ViewError> {
        let layout = &facts.layout.vma;
        let read = |what, field| memory.field(what, at, field);
        let pointer = |value: u64| (value != 0).then(|| Gva::new(value));
        Ok(Self {
            at: Gva::new(at),
            start: Gva::new(read("vm_area_struct.vm_start", layout.start)?),
            end: Gva::new(read("vm_area_struct.vm_end", layout.end)?),
            flags: VmFlags {
                raw: read("vm_area_struct.vm_flags", layout.flags)?,
                names: Arc::clone(&facts.vm_flags),
            },
            page_prot: read("vm_area_struct.vm_page_prot", layout.page_prot)?,
            pgoff: read("vm_area_struct.vm_pgoff", layout.pgoff)?,
            file: pointer(read("vm_area_struct.vm_file", layout.file)?),
            ops: pointer(read("vm_area_struct.vm_ops", layout.ops)?),
            private_data: read("vm_area_struct.vm_private_data", layout.private_data)?,
        })
    }

    /// Its number of pages.
    pub fn npages(&self) -> u64 {
        self.end.raw().saturating_sub(self.start.raw()) / addr::PAGE_SIZE
    }

    /// Whether `gva` is one of its addresses.
    pub fn contains(&self, gva: Gva) -> bool {
        self.start <= gva && gva < self.end
    }
}

/// `vm_flags`, with the names that this very kernel gives its bits.
#[derive(Clone, PartialEq, Eq)]
pub struct VmFlags {
    /// The bits.
    pub raw: u64,
    names: Arc<[(String, u64)]>,
}

impl VmFlags {
    /// Whether the flag `name` is set, such as `PFNMAP` for `VM_PFNMAP`.
    ///
    /// # Panics
    /// When there is no flag of this name: the question cannot be answered, and `false`
    /// would be a wrong answer.
    pub fn has(&self, name: &str) -> bool {
        let known = self.names.iter().find(|(known, _)| known == name);
        match known {
            Some((_, bit)) => self.raw & bit != 0,
            None => panic!("no flag VM_{name} is known; guest-images/types/types.c lists them"),
        }
    }

    /// Names of the flags that are set, without `VM_`.
    pub fn names(&self) -> Vec<&str> {
        let set = self.names.iter().filter(|(_, bit)| self.raw & bit != 0);
        set.map(|(name, _)| name.as_str()).collect()
    }
}

impl fmt::Display for VmFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join("|"))
    }
}

impl fmt::Debug for VmFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} ({self})", self.raw)
    }
}
