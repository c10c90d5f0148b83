//! System calls as they are: arguments unaltered, errno as the kernel gave it.

use std::ffi::{CStr, CString};
use std::io;

use wire::Fd;

use crate::outcome::Refusal;

/// Descriptors from here on are the agent's own, out of the way of those that requests open.
const FIRST_OWN_FD: i32 = 1000;

/// An errno(3) value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What the last system call of this thread left.
    pub fn last() -> Self {
        io::Error::last_os_error().into()
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        // Errors that std made up itself carry no errno.
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// One system call with up to six arguments.
///
/// # Errors
/// The errno that the kernel gave.
///
/// # Safety
/// The call must not take away or change memory that the agent itself uses, and a
/// pointer among the arguments that the kernel is to follow into the agent's own
/// memory must be valid for what the call does with it.
pub unsafe fn call(number: libc::c_long, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: passed on to the caller; the kernel itself accepts any six words.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        return Err(Errno::last());
    }
    Ok(result.cast_unsigned())
}

/// A file descriptor as a system call's argument.
pub fn fd_argument(fd: i32) -> u64 {
    i64::from(fd).cast_unsigned()
}

/// Opens `path` with a descriptor that is the agent's own, for good.
///
/// # Errors
/// The errno that the kernel gave.
pub fn open_apart(path: &CStr, flags: i32) -> Result<i32, Errno> {
    // SAFETY: the path is NUL-terminated; without O_CREAT there is no third argument.
    let low = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    if low < 0 {
        return Err(Errno::last());
    }
    // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes a number and touches no memory.
    let own = unsafe { libc::fcntl(low, libc::F_DUPFD_CLOEXEC, FIRST_OWN_FD) };
    let result = if own < 0 { Err(Errno::last()) } else { Ok(own) };
    // SAFETY: `low` was opened above, and nobody else knows of it.
    unsafe { libc::close(low) };
    result
}

/// # Errors
/// [`Refusal::Rejected`] when `fd` is the agent's own.
pub fn spare(fd: Fd) -> Result<(), Refusal> {
    if fd.0 < FIRST_OWN_FD {
        return Ok(());
    }
    Err(Refusal::Rejected(format!(
        "descriptor {} is the agent's own",
        fd.0
    )))
}

/// `text` for a system call.
///
/// # Errors
/// [`Refusal::Rejected`] when a NUL byte would cut it short.
pub fn c_string(what: &str, text: String) -> Result<CString, Refusal> {
    CString::new(text).map_err(|error| {
        Refusal::Rejected(format!(
            "the {what} holds a NUL byte at offset {}",
            error.nul_position()
        ))
    })
}

/// pid of this process.
pub fn pid() -> i32 {
    // SAFETY: getpid(2) has no preconditions and always succeeds.
    unsafe { libc::getpid() }
}

/// `uname -r`.
///
/// # Errors
/// What uname(2) says.
pub fn kernel_release() -> io::Result<String> {
    // SAFETY: utsname is made of byte arrays, for which zero is a value.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is a live utsname that uname(2) fills.
    if unsafe { libc::uname(&raw mut names) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: uname(2) ends each field within its array with a NUL byte.
    let release = unsafe { CStr::from_ptr(names.release.as_ptr()) };
    Ok(release.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_descriptors_are_apart() {
        let own = open_apart(c"/dev/null", libc::O_RDONLY).expect("there");
        assert!(matches!(spare(Fd(own)), Err(Refusal::Rejected(_))));
        spare(Fd(3)).expect("a request's");
        spare(Fd(-1)).expect("for the kernel to refuse");
    }
}
