//! From a descriptor of this process to the vCPU behind it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use btf::Field;

use crate::error::RootError;
use crate::layout::Layout;
use crate::memory::HostMemory;
use crate::root::Vcpu;
use crate::symbols::Symbols;

/// More processes than a kernel has (PID_MAX_LIMIT of include/linux/threads.h).
const MOST_PROCESSES: usize = 4 << 20;

/// Reads a member of the structure at `base`.
pub(crate) fn read<M: HostMemory>(
    memory: &M,
    field: Field,
    base: u64,
    what: &'static str,
) -> Result<u64, RootError> {
    field
        .read(base, |address, into| memory.read(address, into))
        .map_err(|source| RootError::Read { what, source })
}

/// Where this process's `task_struct` was found before; it stays where it is for as long as
/// the process lives.
#[derive(Debug, Default)]
pub(crate) struct KnownTask(AtomicU64);

impl KnownTask {
    /// This process's `task_struct`.
    fn find<M: HostMemory>(
        &self,
        memory: &M,
        layout: &Layout,
        init_task: u64,
    ) -> Result<u64, RootError> {
        let pid = std::process::id();
        let known = self.0.load(Ordering::Relaxed);
        // After a fork it is that of the parent.
        if known != 0 && read(memory, layout.task_tgid, known, "task_struct.tgid")? == pid.into() {
            return Ok(known);
        }
        let task = process(memory, layout, init_task, pid)?;
        self.0.store(task, Ordering::Relaxed);
        Ok(task)
    }
}

pub(crate) fn vcpu<M: HostMemory>(
    memory: &M,
    layout: &Layout,
    symbols: &Symbols,
    known: &KnownTask,
    fd: RawFd,
) -> Result<Vcpu, RootError> {
    let task = known.find(memory, layout, symbols.init_task)?;
    let file = file(memory, layout, task, fd)?;
    let operations = read(memory, layout.file_operations, file, "file.f_op")?;
    if operations != symbols.vcpu_fops {
        return Err(RootError::NotAVcpu {
            fd,
            found: "a file of another kind".into(),
        });
    }
    let vcpu = read(memory, layout.file_private, file, "file.private_data")?;
    let kvm = read(memory, layout.vcpu_kvm, vcpu, "kvm_vcpu.kvm")?;
    let owner = read(memory, layout.kvm_mm, kvm, "kvm.mm")?;
    let ours = read(memory, layout.task_mm, task, "task_struct.mm")?;
    if owner != ours {
        return Err(RootError::ForeignVm { fd });
    }
    Ok(Vcpu { vcpu, kvm })
}

/// The `task_struct` of the process `pid`. The list is walked backwards: it is in
/// the order of birth, and the caller is young.
fn process<M: HostMemory>(
    memory: &M,
    layout: &Layout,
    init_task: u64,
    pid: u32,
) -> Result<u64, RootError> {
    let mut task = init_task;
    for _ in 0..MOST_PROCESSES {
        let node = read(memory, layout.task_prev, task, "task_struct.tasks")?;
        task = node.wrapping_sub(layout.task_node.offset);
        if task == init_task {
            break;
        }
        if read(memory, layout.task_tgid, task, "task_struct.tgid")? == u64::from(pid) {
            return Ok(task);
        }
    }
    Err(RootError::NoProcess { pid })
}

fn file<M: HostMemory>(
    memory: &M,
    layout: &Layout,
    task: u64,
    fd: RawFd,
) -> Result<u64, RootError> {
    let closed = |found: &str| RootError::NotAVcpu {
        fd,
        found: found.into(),
    };
    let files = read(memory, layout.task_files, task, "task_struct.files")?;
    let table = read(memory, layout.files_table, files, "files_struct.fdt")?;
    let length = read(memory, layout.table_length, table, "fdtable.max_fds")?;
    let array = read(memory, layout.table_array, table, "fdtable.fd")?;
    let index = u64::try_from(fd).map_err(|_| closed("a negative number"))?;
    if index >= length {
        return Err(closed("past the table of files"));
    }
    let pointer = Field::word(index.wrapping_mul(8));
    match read(memory, pointer, array, "the table of files")? {
        0 => Err(closed("not open")),
        file => Ok(file),
    }
}
