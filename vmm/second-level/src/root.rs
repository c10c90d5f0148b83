//! From a vCPU to the root of the tables that it uses.

use addr::{Hpa, Level};

use crate::error::RootError;
use crate::find::{members, read};
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
    let fields = [layout.mmu_root, layout.mmu_direct, layout.mmu_level];
    let what = "kvm_mmu.root.hpa and root_role";
    let [table, direct, levels] = members(memory, fields, mmu, what)?;
    if table == NO_ROOT || table == 0 {
        return Err(RootError::NoRoot);
    }
    if direct == 0 {
        return Err(RootError::Shadow);
    }
    let top = match levels {
        4 => Level::P4d,
        5 => Level::Pgd,
        _ => return Err(RootError::Levels { levels }),
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
        let fields = [roots.table, roots.invalid, roots.link];
        let what = "kvm_mmu_page.spt, role and link";
        let [table, invalid, next] = members(memory, fields, page, what)?;
        if memory.physical(table) == Some(root) {
            return match invalid {
                0 => Ok(true),
                _ => Err(RootError::Retired { root }),
            };
        }
        listed += 1;
        node = next;
    }
    match listed {
        0 => Ok(false),
        listed => Err(RootError::Unlisted { root, listed }),
    }
}
