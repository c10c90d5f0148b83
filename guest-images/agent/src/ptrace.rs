//! Access to another process's memory as a debugger has it.

use wire::Value;

use crate::outcome::{Outcome, Refusal};
use crate::own::Own;
use crate::sys::{self, Errno};

/// ptrace(2) with `PTRACE_PEEKDATA`.
pub fn peek(pid: i32, address: u64) -> Outcome {
    let traced = Traced::stop(pid)?;
    let mut word = 0_u64;
    let data = &raw mut word as u64;
    // SAFETY: the kernel puts one word to `data`, which is one.
    unsafe { traced.request(libc::PTRACE_PEEKDATA, address, data) }?;
    Ok(Value::Words(vec![word]))
}

/// ptrace(2) with `PTRACE_POKEDATA`.
pub fn poke(own: &Own, pid: i32, address: u64, word: u64) -> Outcome {
    // Every process of the agent lives at the same addresses.
    if own.holds_word(address) {
        return Err(Refusal::Rejected(format!(
            "the word at {address:#x} belongs to the agent itself"
        )));
    }
    let traced = Traced::stop(pid)?;
    // SAFETY: the word goes to the other process, off what its agent uses.
    unsafe { traced.request(libc::PTRACE_POKEDATA, address, word) }?;
    Ok(Value::Unit)
}

/// A process that stands still because this one traces it; it goes on when this is
/// dropped.
struct Traced {
    pid: i32,
}

impl Traced {
    /// Seizes a process and waits until it stands.
    fn stop(pid: i32) -> Result<Self, Refusal> {
        request(libc::PTRACE_SEIZE, pid)?;
        // From here on it is let go again whatever happens.
        let traced = Self { pid };
        request(libc::PTRACE_INTERRUPT, pid)?;
        loop {
            let mut status = 0;
            // SAFETY: `status` is live; any pid may be waited for.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
            match waited {
                -1 if Errno::last() == Errno(libc::EINTR) => {}
                -1 => return Err(Errno::last().into()),
                _ if libc::WIFSTOPPED(status) => return Ok(traced),
                _ => return Err(Errno(libc::ESRCH).into()),
            }
        }
    }

    /// # Safety
    /// As for the request: what it writes, here or in the other process, must be
    /// memory that no Rust code relies on, or that is made for it.
    unsafe fn request(&self, request: libc::c_uint, address: u64, data: u64) -> Result<u64, Errno> {
        let pid = sys::fd_argument(self.pid);
        let arguments = [request.into(), pid, address, data, 0, 0];
        // SAFETY: passed on to the caller.
        unsafe { sys::call(libc::SYS_ptrace, arguments) }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // A process that is gone needs no letting go.
        let _ = request(libc::PTRACE_DETACH, self.pid);
    }
}

/// A request that takes neither address nor data.
fn request(request: libc::c_uint, pid: i32) -> Result<u64, Errno> {
    let arguments = [request.into(), sys::fd_argument(pid), 0, 0, 0, 0];
    // SAFETY: these requests touch no memory.
    unsafe { sys::call(libc::SYS_ptrace, arguments) }
}
