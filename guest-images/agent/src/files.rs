//! Requests on files: devices under test, the kernel's own tables, modules.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;

use wire::{Fd, MAX_IO_LEN_BYTES, MAX_WORDS, OpenMode, Value};

use crate::outcome::{Outcome, Refusal};
use crate::sys::{self, Errno};

const PAGE_LEN_BYTES: u64 = 4096;
/// Bytes of an entry of /proc/self/pagemap.
const PAGEMAP_ENTRY_LEN_BYTES: usize = 8;

/// open(2).
pub fn open(path: String, mode: OpenMode) -> Outcome {
    let mode = match mode {
        OpenMode::ReadOnly => libc::O_RDONLY,
        OpenMode::WriteOnly => libc::O_WRONLY,
        OpenMode::ReadWrite => libc::O_RDWR,
    };
    Ok(Value::Fd(Fd(open_file(path, mode)?.into_raw_fd())))
}

/// close(2).
pub fn close(fd: Fd) -> Outcome {
    let arguments = [sys::fd_argument(fd.0), 0, 0, 0, 0, 0];
    // SAFETY: the one file that the agent holds open across requests, its recording's,
    // was refused before (`Coverage::spare`).
    unsafe { sys::call(libc::SYS_close, arguments) }?;
    Ok(Value::Unit)
}

/// pread(2), one call.
pub fn read(fd: Fd, offset_bytes: u64, len_bytes: u32) -> Outcome {
    let len = len_bytes as usize;
    if len > MAX_IO_LEN_BYTES {
        return Err(Refusal::Rejected(format!(
            "{len} bytes; at most {MAX_IO_LEN_BYTES} go into one reply"
        )));
    }
    let mut bytes = vec![0; len];
    let arguments = [
        sys::fd_argument(fd.0),
        bytes.as_mut_ptr() as u64,
        u64::from(len_bytes),
        offset_bytes,
        0,
        0,
    ];
    // SAFETY: the kernel fills `bytes`, which is `len_bytes` long.
    let got = unsafe { sys::call(libc::SYS_pread64, arguments) }?;
    // pread(2) gives no more than was asked for.
    bytes.truncate(usize::try_from(got).unwrap_or(len));
    Ok(Value::Bytes(bytes))
}

/// pwrite(2), one call.
pub fn write(fd: Fd, offset_bytes: u64, bytes: &[u8]) -> Outcome {
    let arguments = [
        sys::fd_argument(fd.0),
        bytes.as_ptr() as u64,
        bytes.len() as u64,
        offset_bytes,
        0,
        0,
    ];
    // SAFETY: the kernel reads `bytes` alone.
    let written = unsafe { sys::call(libc::SYS_pwrite64, arguments) }?;
    Ok(Value::Len(written))
}

/// ioctl(2) with a pointer to `argument`, which the call may change.
pub fn ioctl(fd: Fd, command: u32, mut argument: Vec<u8>) -> Outcome {
    let wanted = ioctl_size(command);
    if argument.len() < wanted {
        return Err(Refusal::Rejected(format!(
            "ioctl {command:#x} takes {wanted} bytes, {} were given",
            argument.len()
        )));
    }
    let arguments = [
        sys::fd_argument(fd.0),
        u64::from(command),
        argument.as_mut_ptr() as u64,
        0,
        0,
        0,
    ];
    // SAFETY: a driver reads and writes at most the bytes that its command's number
    // tells, and `argument` has them all.
    unsafe { sys::call(libc::SYS_ioctl, arguments) }?;
    Ok(Value::Bytes(argument))
}

/// Bytes of the argument, encoded in the number (asm-generic/ioctl.h).
const fn ioctl_size(command: u32) -> usize {
    const SHIFT: u32 = 16;
    const MASK: u32 = (1 << 14) - 1;
    ((command >> SHIFT) & MASK) as usize
}

/// A whole file, such as /proc/self/maps.
pub fn read_file(path: String) -> Outcome {
    let mut bytes = Vec::new();
    // One byte more than fits tells that the file is too long.
    let most = MAX_IO_LEN_BYTES as u64 + 1;
    open_file(path, libc::O_RDONLY)?
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(Errno::from)?;
    if bytes.len() > MAX_IO_LEN_BYTES {
        return Err(Errno(libc::EFBIG).into());
    }
    Ok(Value::Bytes(bytes))
}

/// Entries of /proc/self/pagemap.
pub fn pagemap(address: u64, npages: u32) -> Outcome {
    if npages > MAX_WORDS || !address.is_multiple_of(PAGE_LEN_BYTES) {
        return Err(Refusal::Rejected(format!(
            "{npages} pages from {address:#x}; at most {MAX_WORDS} from the start of a page"
        )));
    }
    let mut bytes = vec![0; npages as usize * PAGEMAP_ENTRY_LEN_BYTES];
    let offset = address / PAGE_LEN_BYTES * PAGEMAP_ENTRY_LEN_BYTES as u64;
    let pagemap = open_file("/proc/self/pagemap".into(), libc::O_RDONLY)?;
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match pagemap.read_at(rest, offset + filled as u64) {
            Ok(0) => {
                return Err(Refusal::Rejected(format!(
                    "pagemap ends after {} of {npages} pages from {address:#x}",
                    filled / PAGEMAP_ENTRY_LEN_BYTES
                )));
            }
            Ok(got) => filled += got,
            Err(error) => return Err(Errno::from(error).into()),
        }
    }
    let (entries, _) = bytes.as_chunks::<PAGEMAP_ENTRY_LEN_BYTES>();
    let words = entries.iter().map(|entry| u64::from_le_bytes(*entry));
    Ok(Value::Words(words.collect()))
}

/// finit_module(2).
pub fn load_module(path: String, parameters: String) -> Outcome {
    let parameters = sys::c_string("module parameters", parameters)?;
    let file = open_file(path, libc::O_RDONLY)?;
    let arguments = [
        sys::fd_argument(file.as_raw_fd()),
        parameters.as_ptr() as u64,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: `parameters` is NUL-terminated and lives until the call returns.
    unsafe { sys::call(libc::SYS_finit_module, arguments) }?;
    Ok(Value::Unit)
}

/// delete_module(2), which does not wait for a module in use.
pub fn unload_module(name: String) -> Outcome {
    let name = sys::c_string("module's name", name)?;
    let flags = u64::from(libc::O_NONBLOCK.cast_unsigned());
    let arguments = [name.as_ptr() as u64, flags, 0, 0, 0, 0];
    // SAFETY: `name` is NUL-terminated and lives until the call returns.
    unsafe { sys::call(libc::SYS_delete_module, arguments) }?;
    Ok(Value::Unit)
}

fn open_file(path: String, mode: libc::c_int) -> Result<File, Refusal> {
    let path = sys::c_string("path", path)?;
    // SAFETY: `path` is NUL-terminated; without O_CREAT there is no third argument.
    let fd = unsafe { libc::open(path.as_ptr(), mode | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::last().into());
    }
    // SAFETY: `fd` was opened above, and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
