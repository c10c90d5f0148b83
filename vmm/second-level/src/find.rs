//! From a descriptor of this process to the vCPU behind it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use btf::Field;

use crate::error::RootError;
use crate::layout::Layout;
use crate::memory::{HostMemory, ReadError};
use crate::root::Vcpu;
use crate::symbols::Symbols;

/// More processes than a kernel has (PID_MAX_LIMIT of include/linux/threads.h).
const MOST_PROCESSES: usize = 4 << 20;

/// Most bytes that are read at once to have several members. More would cost more than
/// another read.
const SPAN_LEN: usize = 1024;

/// Reads members of the structure at `base`, at once if they lie near one another: what a
/// read costs is mostly the call.
pub(crate) fn members<M: HostMemory, const N: usize>(
    memory: &M,
    fields: [Field; N],
    base: u64,
    what: &'static str,
) -> Result<[u64; N], RootError> {
    let mut values = [0; N];
    let first = fields.iter().map(|field| field.offset).min().unwrap_or(0);
    let end = fields.iter().map(Field::end).max().unwrap_or(0);
    let mut span = [0; SPAN_LEN];
    let len = usize::try_from(end - first).unwrap_or(usize::MAX);
    let Some(bytes) = span.get_mut(..len) else {
        for (value, field) in values.iter_mut().zip(fields) {
            *value = read(memory, field, base, what)?;
        }
        return Ok(values);
    };
    let failed = |source| RootError::Read { what, source };
    memory
        .read(base.wrapping_add(first), bytes)
        .map_err(failed)?;
    for (value, field) in values.iter_mut().zip(fields) {
        let copy = |at: u64, into: &mut [u8]| {
            let start = usize::try_from(at - first).unwrap_or(usize::MAX);
            let from = start.checked_add(into.len());
            let from = from.and_then(|end| bytes.get(start..end));
            into.copy_from_slice(from.ok_or(ReadError::NoMemory { address: at })?);
            Ok(())
        };
        *value = field.read(0, copy).map_err(failed)?;
    }
    Ok(values)
}

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

/// What this process's `task_struct` says.
struct Task {
    tgid: u64,
    /// `task_struct.files`
    files: u64,
    /// `task_struct.mm`
    mm: u64,
}

impl Task {
    fn read<M: HostMemory>(memory: &M, layout: &Layout, task: u64) -> Result<Self, RootError> {
        let fields = [layout.task_tgid, layout.task_files, layout.task_mm];
        let what = "task_struct.tgid, files and mm";
        let [tgid, files, mm] = members(memory, fields, task, what)?;
        Ok(Self { tgid, files, mm })
    }
}

impl KnownTask {
    /// This process's `task_struct`.
    fn find<M: HostMemory>(
        &self,
        memory: &M,
        layout: &Layout,
        init_task: u64,
    ) -> Result<Task, RootError> {
        let pid = std::process::id();
        let known = self.0.load(Ordering::Relaxed);
        if known != 0 {
            let task = Task::read(memory, layout, known)?;
            // After a fork it is that of the parent.
            if task.tgid == pid.into() {
                return Ok(task);
            }
        }
        let found = process(memory, layout, init_task, pid)?;
        self.0.store(found, Ordering::Relaxed);
        Task::read(memory, layout, found)
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
    let file = file(memory, layout, task.files, fd)?;
    let fields = [layout.file_operations, layout.file_private];
    let [operations, vcpu] = members(memory, fields, file, "file.f_op and file.private_data")?;
    if operations != symbols.vcpu_fops {
        return Err(RootError::NotAVcpu {
            fd,
            found: "a file of another kind".into(),
        });
    }
    let kvm = read(memory, layout.vcpu_kvm, vcpu, "kvm_vcpu.kvm")?;
    let owner = read(memory, layout.kvm_mm, kvm, "kvm.mm")?;
    if owner != task.mm {
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
    files: u64,
    fd: RawFd,
) -> Result<u64, RootError> {
    let closed = |found: &str| RootError::NotAVcpu {
        fd,
        found: found.into(),
    };
    let table = read(memory, layout.files_table, files, "files_struct.fdt")?;
    let fields = [layout.table_length, layout.table_array];
    let [length, array] = members(memory, fields, table, "fdtable.max_fds and fdtable.fd")?;
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
