//! Loads and stores that survive their faults.
//!
//! Each is one instruction with a known address. When it raises SIGSEGV or SIGBUS,
//! the handler notes what the kernel told and moves RIP on to a landing pad, so that
//! the function returns as if it had failed by itself.

use std::arch::global_asm;
use std::ffi::{c_int, c_void};
use std::fmt::Write;
use std::io;
use std::ptr;

use wire::Signal;

use crate::kmsg;

/// Enough for a signal frame with the largest register state that x86 has.
const ALTERNATE_STACK_LEN_BYTES: usize = 64 * 1024;

// rdi: address. rsi: where the loaded word goes, or the word to store. rdx: a
// `Fault`, known to the handler by this very register. eax: 0, or 1 after a fault.
global_asm!(
    ".pushsection .text.mapwitness_access, \"ax\", @progbits",
    ".p2align 4",
    ".type mapwitness_load, @function",
    "mapwitness_load:",
    ".cfi_startproc",
    "mapwitness_load_at:",
    "mov rax, [rdi]",
    "mov [rsi], rax",
    "xor eax, eax",
    "ret",
    ".cfi_endproc",
    ".size mapwitness_load, . - mapwitness_load",
    ".p2align 4",
    ".type mapwitness_store, @function",
    "mapwitness_store:",
    ".cfi_startproc",
    "mapwitness_store_at:",
    "mov [rdi], rsi",
    "xor eax, eax",
    "ret",
    ".cfi_endproc",
    ".size mapwitness_store, . - mapwitness_store",
    ".p2align 4",
    "mapwitness_fault_landing:",
    ".cfi_startproc",
    "mov eax, 1",
    "ret",
    ".cfi_endproc",
    ".popsection",
);

unsafe extern "C" {
    fn mapwitness_load(address: u64, word: *mut u64, fault: *mut Fault) -> u32;
    fn mapwitness_store(address: u64, word: u64, fault: *mut Fault) -> u32;
    static mapwitness_load_at: u8;
    static mapwitness_store_at: u8;
    static mapwitness_fault_landing: u8;
}

/// What the handler leaves for the access that faulted.
#[repr(C)]
#[derive(Default)]
struct Fault {
    number: c_int,
    code: c_int,
    address: u64,
}

impl From<Fault> for Signal {
    fn from(fault: Fault) -> Self {
        Self {
            number: fault.number,
            code: fault.code,
            address: fault.address,
        }
    }
}

/// Loads the word at `address`.
///
/// # Errors
/// The signal that the load raised. Call [`survive_faults`] first.
pub fn load(address: u64) -> Result<u64, Signal> {
    let mut word = 0;
    let mut fault = Fault::default();
    // SAFETY: a load changes no memory of ours, `word` and `fault` are live, and a
    // fault at `address` is turned into the return value 1 by the handler.
    let faulted = unsafe { mapwitness_load(address, &raw mut word, &raw mut fault) };
    if faulted == 0 {
        Ok(word)
    } else {
        Err(fault.into())
    }
}

/// Stores `word` at `address`.
///
/// # Errors
/// The signal that the store raised. Call [`survive_faults`] first.
///
/// # Safety
/// The eight bytes at `address` must be none that Rust code uses.
pub unsafe fn store(address: u64, word: u64) -> Result<(), Signal> {
    let mut fault = Fault::default();
    // SAFETY: the caller keeps `address` off our own memory, `fault` is live, and a
    // fault is turned into the return value 1 by the handler.
    let faulted = unsafe { mapwitness_store(address, word, &raw mut fault) };
    if faulted == 0 {
        Ok(())
    } else {
        Err(fault.into())
    }
}

/// Installs the handler, on a stack of its own, for this process and its forks.
///
/// # Errors
/// What sigaltstack(2) or sigaction(2) says.
pub fn survive_faults() -> io::Result<()> {
    let stack = vec![0_u8; ALTERNATE_STACK_LEN_BYTES].leak();
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: stack.len(),
    };
    // SAFETY: the stack is leaked, so it stays for good and nobody else uses it.
    let refused = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } != 0;
    if refused {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sigaction is made of integers and a nullable function pointer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    for number in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: `action` holds a handler of the signature that SA_SIGINFO asks
        // for, which does what is safe in a signal handler only.
        let refused = unsafe { libc::sigaction(number, &raw const action, ptr::null_mut()) } != 0;
        if refused {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn on_fault(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the kernel gives a ucontext that is this handler's
    // alone until it returns.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    // SAFETY: as above for the siginfo.
    let info = unsafe { &*info };
    // SAFETY: the kernel fills the address for SIGSEGV and SIGBUS.
    let address = unsafe { info.si_addr() };
    let rip = registers[libc::REG_RIP as usize].cast_unsigned();
    // Codes above 0 are the kernel's: a fault, not somebody's kill(2).
    if info.si_code > 0 && is_access(rip) {
        let fault = registers[libc::REG_RDX as usize] as *mut Fault;
        let found = Fault {
            number,
            code: info.si_code,
            address: address as u64,
        };
        // SAFETY: RIP is at the first instruction of `mapwitness_load` or
        // `_store`, so RDX still is the argument, a live `Fault` of the caller.
        unsafe { fault.write(found) };
        let landing = &raw const mapwitness_fault_landing;
        registers[libc::REG_RIP as usize] = (landing as u64).cast_signed();
        return;
    }
    die_by_default(number, info.si_code, rip, address as u64);
}

fn is_access(rip: u64) -> bool {
    let load = &raw const mapwitness_load_at;
    let store = &raw const mapwitness_store_at;
    rip == load as u64 || rip == store as u64
}

/// Reports a fault of the agent's own code, and lets it happen again with the
/// default action.
fn die_by_default(number: c_int, code: c_int, rip: u64, address: u64) {
    let mut line = Line::default();
    // A line that does not fit is cut; there is nothing else to do with the error.
    let _ = write!(
        line,
        "signal {number} (code {code}) in the agent itself at {rip:#x}, address {address:#x}"
    );
    let _ = kmsg::write_record(line.text());
    // SAFETY: setting the default action has no preconditions.
    unsafe { libc::signal(number, libc::SIG_DFL) };
    if code <= 0 {
        // Sent, not raised by an instruction: returning would not raise it again.
        // SAFETY: raise(3) has no preconditions; the signal arrives on return.
        unsafe { libc::raise(number) };
    }
}

/// A line of text without allocation.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 160],
            len: 0,
        }
    }
}

impl Line {
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
