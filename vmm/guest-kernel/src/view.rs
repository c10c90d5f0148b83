//! The view of a frozen guest's kernel.

use std::ops::Range;

use addr::{Gfn, Gpa, Gva};
use btf::Field;
use monitor::Vm;
use witness::guest_walk::{FrozenTables, Walked};

use crate::error::ViewError;
use crate::facts::KernelFacts;
use crate::memory::{FrozenMemory, KernelMemory};
use crate::modules;
use crate::page::{self, PageView};
use crate::tasks::{self, TaskView};
use crate::vma::VmaView;

/// Where the kernel's areas of address space begin, by its own variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bases {
    /// `page_offset_base`: the direct map, in which gpa 0 comes first.
    pub direct_map: u64,
    /// `vmalloc_base`.
    pub vmalloc: u64,
    /// `vmemmap_base`: the array of all `struct page`.
    pub vmemmap: u64,
}

/// The kernel of a guest that stands still, as its own memory shows it.
pub struct KernelView<'g> {
    memory: FrozenMemory<'g>,
    facts: &'g KernelFacts,
    cr3: u64,
    bases: Bases,
}

impl<'g> KernelView<'g> {
    /// The kernel that `facts` are about, seen from the vCPU at the doorbell.
    ///
    /// # Errors
    /// [`ViewError`] when the guest's tables do not map its kernel's variables; `facts`
    /// of another kernel end so, too.
    pub fn of(vm: &'g Vm, facts: &'g KernelFacts) -> Result<Self, ViewError> {
        let tables = FrozenTables::of(vm)?;
        let cr3 = tables.cr3();
        let memory = FrozenMemory::new(vm, tables);
        let variable = |what, at| memory.field(what, at, Field::word(0));
        let bases = Bases {
            direct_map: variable("page_offset_base", facts.symbols.page_offset_base)?,
            vmalloc: variable("vmalloc_base", facts.symbols.vmalloc_base)?,
            vmemmap: variable("vmemmap_base", facts.symbols.vmemmap_base)?,
        };
        Ok(Self {
            memory,
            facts,
            cr3,
            bases,
        })
    }

    /// Where its areas begin.
    pub fn bases(&self) -> Bases {
        self.bases
    }

    /// Walks the tables of the vCPU for any address, the kernel's own among them.
    pub fn walk(&self, gva: Gva) -> Walked {
        self.memory.tables.walk(gva)
    }

    /// Fills `into` from a virtual address of the kernel.
    ///
    /// # Errors
    /// [`ViewError::NotMapped`] unless all of it is mapped.
    pub fn read(&self, gva: Gva, into: &mut [u8]) -> Result<(), ViewError> {
        self.memory.read("memory of the guest's kernel", gva, into)
    }

    /// The process in which the vCPU stands: the one whose tables its CR3 names.
    ///
    /// # Errors
    /// [`ViewError::NoOwner`] when there is none.
    pub fn current(&self) -> Result<TaskView, ViewError> {
        let translate = |gva| self.memory.translate(gva);
        tasks::of_root(&self.memory, self.facts, self.cr3, translate)
    }

    /// The process with this number, which must have an address space.
    ///
    /// # Errors
    /// [`ViewError::NoProcess`] when there is none.
    pub fn process(&self, pid: i32) -> Result<TaskView, ViewError> {
        let found = tasks::by_pid(&self.memory, self.facts, pid)?;
        found.ok_or(ViewError::NoProcess { pid })
    }

    /// The area of the current process that holds `gva`; `None` where there is none.
    ///
    /// # Errors
    /// [`ViewError`] when the kernel's structures cannot be followed.
    pub fn vma_at(&self, gva: Gva) -> Result<Option<VmaView>, ViewError> {
        self.vma_of(&self.current()?, gva)
    }

    /// As [`KernelView::vma_at`], of any process.
    ///
    /// # Errors
    /// As there.
    pub fn vma_of(&self, task: &TaskView, gva: Gva) -> Result<Option<VmaView>, ViewError> {
        tasks::vma_at(&self.memory, self.facts, task, gva)
    }

    /// All areas of a process, in the order of their addresses.
    ///
    /// # Errors
    /// [`ViewError`] when the kernel's structures cannot be followed.
    pub fn vmas(&self, task: &TaskView) -> Result<Vec<VmaView>, ViewError> {
        tasks::vmas(&self.memory, self.facts, task)
    }

    /// The addresses of the code of a loaded module, by its name as lsmod(8) shows it;
    /// `None` when it is not loaded.
    ///
    /// # Errors
    /// [`ViewError`] when the kernel's structures cannot be followed.
    pub fn module_text(&self, name: &str) -> Result<Option<Range<u64>>, ViewError> {
        modules::text_of(&self.memory, self.facts, name)
    }

    /// Each loaded module by its name, with the number of those who use it.
    ///
    /// # Errors
    /// [`ViewError`] when the kernel's structures cannot be followed.
    pub fn module_users(&self) -> Result<Vec<(String, i64)>, ViewError> {
        modules::users(&self.memory, self.facts)
    }

    /// The kernel's `struct page` for a frame; `None` for frames for which it has none,
    /// such as those of a device's memory.
    ///
    /// # Errors
    /// [`ViewError`] when it cannot be read for another reason.
    pub fn page_of(&self, gfn: Gfn) -> Result<Option<PageView>, ViewError> {
        let Some(at) = self.pfn_to_page(gfn) else {
            return Ok(None);
        };
        if self.walk(at).is_err_and(|error| error.is_not_present()) {
            return Ok(None);
        }
        PageView::read(&self.memory, self.facts, self.bases.vmemmap, gfn).map(Some)
    }

    /// Where the `struct page` of a frame would lie: the array is indexed by frame.
    pub fn pfn_to_page(&self, gfn: Gfn) -> Option<Gva> {
        let size = self.facts.layout.page.size;
        page::page_address(self.bases.vmemmap, size, gfn).map(Gva::new)
    }

    /// The frame of a `struct page`; `None` where no such structure begins.
    pub fn page_to_pfn(&self, page: Gva) -> Option<Gfn> {
        let size = self.facts.layout.page.size;
        page::page_gfn(self.bases.vmemmap, size, page.raw())
    }

    /// The address of a frame in the direct map (`page_address`, `phys_to_virt`).
    pub fn direct_map(&self, gpa: Gpa) -> Option<Gva> {
        self.bases.direct_map.checked_add(gpa.raw()).map(Gva::new)
    }

    /// What an address of the direct map stands for (`virt_to_phys`); `None` outside.
    pub fn direct_map_gpa(&self, gva: Gva) -> Option<Gpa> {
        let inside = self.bases.direct_map <= gva.raw() && gva.raw() < self.bases.vmalloc;
        inside.then(|| Gpa::new(gva.raw() - self.bases.direct_map))
    }
}
