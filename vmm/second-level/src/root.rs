//! From a vCPU to the root of the tables that it uses.

use addr::{Hpa, Level};

use crate::error::RootError;
use crate::find::read;
use crate::layout::Layout;
use crate::memory::HostMemory;

/// KVM's INVALID_PAGE.
const NO_ROOT: u64 = u64::MAX;
/// More roots than a VM has: one for each address space and mode, and retired ones
/// that wait for their last user.
const MOST_ROOTS: usize = 256;

/// Where a walk of second-level tables begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The table.
    pub table: Hpa,
    /// Its level.
    pub top: Level,
    /// It stands in KVM's list of TDP roots. False where KVM runs without its TDP
    /// MMU and keeps no such list.
    pub listed: bool,
    /// KVM's count of changes to the VM's memslots at that time. With another one,
    /// these tables are not those of the VM any more, even if their root came to lie
    /// where the old one lay.
    pub memslots_generation: u64,
}

/// A vCPU in the kernel's memory, with its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vcpu {
    pub vcpu: u64,
    pub kvm: u64,
}

pub(crate) fn of_vcpu<M: HostMemory>(
    memory: &M,
    layout: &Layout,
    vcpu: Vcpu,
) -> Result<Root, RootError> {
    let mmu = read(memory, layout.vcpu_mmu, vcpu.vcpu, "kvm_vcpu.arch.mmu")?;
    let table = read(memory, layout.mmu_root, mmu, "kvm_mmu.root.hpa")?;
    if table == NO_ROOT || table == 0 {
        return Err(RootError::NoRoot);
    }
    if read(memory, layout.mmu_direct, mmu, "kvm_mmu.root_role")? == 0 {
        return Err(RootError::Shadow);
    }
    let top = match read(memory, layout.mmu_level, mmu, "kvm_mmu.root_role")? {
        4 => Level::P4d,
        5 => Level::Pgd,
        levels => return Err(RootError::Levels { levels }),
    };
    let table = Hpa::new(table).page_base();
    let slots = read(memory, layout.kvm_memslots, vcpu.kvm, "kvm.memslots")?;
    let generation = layout.memslots_generation;
    let memslots_generation = read(memory, generation, slots, "kvm_memslots.generation")?;
    let listed = match layout.roots {
        Some(_) => is_listed(memory, layout, vcpu.kvm, table)?,
        None => false,
    };
    Ok(Root {
        table,
        top,
        listed,
        memslots_generation,
    })
}

/// Looks the root up in `kvm.arch.tdp_mmu_roots`. False when there is no list.
fn is_listed<M: HostMemory>(
    memory: &M,
    layout: &Layout,
    kvm: u64,
    root: Hpa,
) -> Result<bool, RootError> {
    let Some(roots) = layout.roots else {
        return Ok(false);
    };
    let what = "kvm.arch.tdp_mmu_roots";
    let head = kvm.wrapping_add(roots.head.offset);
    let mut node = read(memory, layout.list_next, head, what)?;
    let mut listed = 0;
    while node != head && listed < MOST_ROOTS {
        let page = node.wrapping_sub(roots.link.offset);
        let table = read(memory, roots.table, page, "kvm_mmu_page.spt")?;
        if memory.physical(table) == Some(root) {
            return match read(memory, roots.invalid, page, "kvm_mmu_page.role")? {
                0 => Ok(true),
                _ => Err(RootError::Retired { root }),
            };
        }
        listed += 1;
        node = read(memory, layout.list_next, node, what)?;
    }
    match listed {
        0 => Ok(false),
        listed => Err(RootError::Unlisted { root, listed }),
    }
}
