//! `task_struct` and `mm_struct`: processes and their address spaces.

use addr::{Gpa, Gva};

use crate::error::ViewError;
use crate::facts::KernelFacts;
use crate::maple;
use crate::memory::KernelMemory;
use crate::vma::VmaView;

/// More processes than a kernel has by default (PID_MAX_DEFAULT of
/// include/linux/threads.h).
const MOST_PROCESSES: usize = 1 << 16;
/// More areas than a process has unless its administrator raises vm.max_map_count.
const MOST_AREAS: usize = 1 << 17;
/// Root of the tables, without the bits for other things (SDM volume 3A, 2.5).
const ROOT_MASK: u64 = 0x000f_ffff_ffff_f000;

/// A process that has an address space of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Where its `task_struct` lies.
    pub at: Gva,
    /// Its number, `tgid`.
    pub pid: i32,
    /// Its name, `comm`.
    pub name: String,
    /// Where its `mm_struct` lies.
    pub mm: Gva,
    /// The root of its page tables, `mm->pgd`.
    pub pgd: Gva,
    /// How many areas it has, by its own count (`mm->map_count`).
    pub map_count: u64,
    maple_root: u64,
}

/// The processes with an address space, in the order of the kernel's list, as far as
/// `wanted` lets through; the first is given.
pub(crate) fn find<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    wanted: impl Fn(&TaskView) -> bool,
) -> Result<Option<TaskView>, ViewError> {
    let layout = &facts.layout.task;
    let head = facts.symbols.init_task;
    let mut task = head;
    for _ in 0..MOST_PROCESSES {
        let next = memory.field("task_struct.tasks", task, layout.next)?;
        task = next.wrapping_sub(layout.next.offset);
        if task == head {
            return Ok(None);
        }
        if let Some(view) = view(memory, facts, task)?
            && wanted(&view)
        {
            return Ok(Some(view));
        }
    }
    Err(ViewError::Endless {
        what: "the list of processes",
        steps: MOST_PROCESSES,
    })
}

/// `None` for a thread of the kernel and for a process that has let go of its memory.
fn view<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    task: u64,
) -> Result<Option<TaskView>, ViewError> {
    let (of_task, of_mm) = (&facts.layout.task, &facts.layout.mm);
    let mm = memory.field("task_struct.mm", task, of_task.mm)?;
    if mm == 0 {
        return Ok(None);
    }
    let pid = memory.field("task_struct.tgid", task, of_task.tgid)?;
    let mut name = Vec::new();
    for at in 0..of_task.comm.len().min(64) {
        let Some(byte) = of_task.comm.element(at) else {
            break;
        };
        match u8::try_from(memory.field("task_struct.comm", task, byte)?) {
            Ok(0) | Err(_) => break,
            Ok(byte) => name.push(byte),
        }
    }
    Ok(Some(TaskView {
        at: Gva::new(task),
        pid: i32::try_from(pid).map_err(|_| ViewError::Nonsense {
            what: "task_struct.tgid",
            value: pid,
        })?,
        name: String::from_utf8_lossy(&name).into_owned(),
        mm: Gva::new(mm),
        pgd: Gva::new(memory.field("mm_struct.pgd", mm, of_mm.pgd)?),
        map_count: memory.field("mm_struct.map_count", mm, of_mm.map_count)?,
        maple_root: memory.field("mm_struct.mm_mt", mm, of_mm.maple_root)?,
    }))
}

/// The process whose tables CR3 names.
pub(crate) fn of_root<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    cr3: u64,
    translate: impl Fn(Gva) -> Option<Gpa>,
) -> Result<TaskView, ViewError> {
    let root = cr3 & ROOT_MASK;
    let owns = |task: &TaskView| translate(task.pgd) == Some(Gpa::new(root));
    find(memory, facts, owns)?.ok_or(ViewError::NoOwner { root })
}

/// The area of `task` that holds `gva`.
pub(crate) fn vma_at<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    task: &TaskView,
    gva: Gva,
) -> Result<Option<VmaView>, ViewError> {
    let found = maple::lookup(memory, &facts.layout.maple, task.maple_root, gva.raw())?;
    if found.entry == 0 {
        return Ok(None);
    }
    own_vma(memory, facts, task, found.entry).map(Some)
}

/// All areas of `task`, in the order of their addresses.
pub(crate) fn vmas<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    task: &TaskView,
) -> Result<Vec<VmaView>, ViewError> {
    let mut all = Vec::new();
    let mut index = 0;
    // Areas and the gaps between them.
    for _ in 0..2 * MOST_AREAS {
        let found = maple::lookup(memory, &facts.layout.maple, task.maple_root, index)?;
        if found.entry != 0 {
            all.push(own_vma(memory, facts, task, found.entry)?);
        }
        match found.last.checked_add(1) {
            Some(next) => index = next,
            None => return Ok(all),
        }
    }
    Err(ViewError::Endless {
        what: "a process's areas",
        steps: 2 * MOST_AREAS,
    })
}

/// An area, which must say itself that it is one of this process.
fn own_vma<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    task: &TaskView,
    at: u64,
) -> Result<VmaView, ViewError> {
    let owner = memory.field("vm_area_struct.vm_mm", at, facts.layout.vma.mm)?;
    if owner != task.mm.raw() {
        return Err(ViewError::Nonsense {
            what: "vm_area_struct.vm_mm in the tree of another address space",
            value: owner,
        });
    }
    VmaView::read(memory, facts, at)
}
