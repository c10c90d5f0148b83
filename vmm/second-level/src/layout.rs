//! Where the members of the kernel's structures lie, by the kernel's own BTF.

use std::fs;
use std::path::Path;

use btf::{Btf, Field, NoMember, Types};

use crate::error::Error;

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const KVM: &str = "/sys/kernel/btf/kvm";

/// KVM's list of TDP roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    /// `kvm.arch.tdp_mmu_roots`
    pub head: Field,
    /// `kvm_mmu_page.link`
    pub link: Field,
    /// `kvm_mmu_page.spt`
    pub table: Field,
    /// `kvm_mmu_page.role.invalid`
    pub invalid: Field,
}

/// The members that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `task_struct.tasks`
    pub task_node: Field,
    /// `task_struct.tasks.prev`
    pub task_prev: Field,
    pub task_tgid: Field,
    pub task_files: Field,
    pub task_mm: Field,
    pub files_table: Field,
    pub table_length: Field,
    pub table_array: Field,
    pub file_operations: Field,
    pub file_private: Field,
    pub vcpu_kvm: Field,
    /// `kvm_vcpu.arch.mmu`
    pub vcpu_mmu: Field,
    pub kvm_mm: Field,
    /// `kvm.memslots[0]`, those of the address space that guests use outside of SMM.
    pub kvm_memslots: Field,
    /// `kvm_memslots.generation`
    pub memslots_generation: Field,
    /// `kvm_mmu.root.hpa`, once `root_hpa`
    pub mmu_root: Field,
    /// `kvm_mmu.root_role.level`
    pub mmu_level: Field,
    /// `kvm_mmu.root_role.direct`
    pub mmu_direct: Field,
    /// `list_head.next`
    pub list_next: Field,
    /// Absent in kernels before the TDP MMU.
    pub roots: Option<Roots>,
}

impl Layout {
    pub(crate) fn read() -> Result<Self, Error> {
        let failed = |path| move |source| Error::Btf { path, source };
        // From memory: out of a file, the parser asks the kernel for its place in it at each
        // of some hundred thousand types.
        let read = |path| fs::read(path).map_err(|error| failed(path)(error.into()));
        let kernel = Btf::from_bytes(&read(KERNEL)?).map_err(failed(KERNEL))?;
        // Built into the kernel, KVM has no file of its own.
        let kvm = match Path::new(KVM).exists() {
            true => Some(Btf::from_split_bytes(&read(KVM)?, &kernel).map_err(failed(KVM))?),
            false => None,
        };
        Ok(Self::of(Types::new(kvm.as_ref().unwrap_or(&kernel)))?)
    }

    fn of(types: Types<'_>) -> Result<Self, NoMember> {
        Ok(Self {
            task_node: types.field("task_struct", &["tasks", "next"])?,
            task_prev: types.field("task_struct", &["tasks", "prev"])?,
            task_tgid: types.field("task_struct", &["tgid"])?,
            task_files: types.field("task_struct", &["files"])?,
            task_mm: types.field("task_struct", &["mm"])?,
            files_table: types.field("files_struct", &["fdt"])?,
            table_length: types.field("fdtable", &["max_fds"])?,
            table_array: types.field("fdtable", &["fd"])?,
            file_operations: types.field("file", &["f_op"])?,
            file_private: types.field("file", &["private_data"])?,
            vcpu_kvm: types.field("kvm_vcpu", &["kvm"])?,
            vcpu_mmu: types.field("kvm_vcpu", &["arch", "mmu"])?,
            kvm_mm: types.field("kvm", &["mm"])?,
            kvm_memslots: types
                .array("kvm", &["memslots"])?
                .element(0)
                .ok_or_else(|| NoMember {
                    structure: "kvm",
                    member: "memslots[0]".to_owned(),
                })?,
            memslots_generation: types.field("kvm_memslots", &["generation"])?,
            mmu_root: types
                .field("kvm_mmu", &["root", "hpa"])
                .or_else(|_| types.field("kvm_mmu", &["root_hpa"]))?,
            mmu_level: types.field("kvm_mmu", &["root_role", "level"])?,
            mmu_direct: types.field("kvm_mmu", &["root_role", "direct"])?,
            list_next: types.field("list_head", &["next"])?,
            roots: match types.field("kvm", &["arch", "tdp_mmu_roots", "next"]) {
                Ok(head) => Some(Roots {
                    head,
                    link: types.field("kvm_mmu_page", &["link", "next"])?,
                    table: types.field("kvm_mmu_page", &["spt"])?,
                    invalid: types.field("kvm_mmu_page", &["role", "invalid"])?,
                }),
                Err(_) => None,
            },
        })
    }
}
