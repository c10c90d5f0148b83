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

/// The first process with an address space, in the order of the kernel's list, of which
/// `wanted` says so, by its `task_struct` and its `mm_struct`.
pub(crate) fn find<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    wanted: impl Fn(u64, u64) -> Result<bool, ViewError>,
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
        // 0 for a thread of the kernel and for a process that has let go of its memory.
        let mm = memory.field("task_struct.mm", task, layout.mm)?;
        if mm != 0 && wanted(task, mm)? {
            return view(memory, facts, task, mm).map(Some);
        }
    }
    Err(ViewError::Endless {
        what: "the list of processes",
        steps: MOST_PROCESSES,
    })
}

fn view<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    task: u64,
    mm: u64,
) -> Result<TaskView, ViewError> {
    let (of_task, of_mm) = (&facts.layout.task, &facts.layout.mm);
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
    Ok(TaskView {
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
    })
}

/// The process with this number.
pub(crate) fn by_pid<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    pid: i32,
) -> Result<Option<TaskView>, ViewError> {
    let field = facts.layout.task.tgid;
    find(memory, facts, |task, _| {
        let found = memory.field("task_struct.tgid", task, field)?;
        Ok(i32::try_from(found) == Ok(pid))
    })
}

/// The process whose tables CR3 names.
pub(crate) fn of_root<M: KernelMemory>(
    memory: &M,
    facts: &KernelFacts,
    cr3: u64,
    translate: impl Fn(Gva) -> Option<Gpa>,
) -> Result<TaskView, ViewError> {
    let root = cr3 & ROOT_MASK;
    let field = facts.layout.mm.pgd;
    let owns = |_, mm| {
        let pgd = memory.field("mm_struct.pgd", mm, field)?;
        Ok(translate(Gva::new(pgd)) == Some(Gpa::new(root)))
    };
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
    // Areas and the gaps between them.
    let most = 2 * MOST_AREAS;
    let entries = maple::entries(memory, &facts.layout.maple, task.maple_root, most)?;
    let vma = |at| own_vma(memory, facts, task, at);
    entries.into_iter().map(vma).collect()
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
