//! System calls as they are: arguments unaltered, errno as the kernel gave it.

use std::ffi::{CStr, CString};
use std::io;

use crate::outcome::Refusal;

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
