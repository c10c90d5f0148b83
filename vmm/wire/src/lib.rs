//! What the host and the guest's agent say to each other, and where.
//!
//! One message area, a memslot outside the guest's RAM, is shared by both. The
//! agent writes an [`Answer`] into it and rings the doorbell, an `out` to
//! [`DOORBELL_PORT`]; that exit freezes the vCPU. The host reads the reply, looks
//! at the guest for as long as it likes, writes the next [`Request`] into the same
//! area and resumes the vCPU. The first message after boot is [`Reply::Ready`].
//!
//! The area begins with a [`Header`] of fixed layout, so that an agent of another
//! version is recognised before anything of its message is decoded.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod atlas;
mod frame;
pub mod ioctls;
pub mod personas;
pub mod regs;

pub use frame::{FrameError, Header, Message, Sender, decode, encode, part, whole};

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Version of the messages below. Any change to them changes it.
pub const VERSION: u32 = 6;
/// I/O port whose 32-bit `out` hands a message to the host.
pub const DOORBELL_PORT: u16 = 0x0d00;
/// Bytes of the message area.
pub const AREA_LEN_BYTES: usize = 256 * 1024;
/// Bytes of the area in which a kernel with KCOV notes what ran.
pub const COVERAGE_LEN_BYTES: u64 = 1 << 20;
/// Kernel command line parameter that tells the agent the area's guest physical
/// address: `mapwitness.area=0x...`.
pub const AREA_PARAMETER: &str = "mapwitness.area";

/// What a mapping may be used for; the `PROT_*` of mmap(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prot {
    /// `PROT_READ`.
    pub read: bool,
    /// `PROT_WRITE`.
    pub write: bool,
    /// `PROT_EXEC`.
    pub exec: bool,
}

impl Prot {
    /// `PROT_NONE`.
    pub const NONE: Self = Self {
        read: false,
        write: false,
        exec: false,
    };
    /// `PROT_READ`.
    pub const READ: Self = Self {
        read: true,
        ..Self::NONE
    };
    /// `PROT_READ | PROT_WRITE`.
    pub const READ_WRITE: Self = Self {
        write: true,
        ..Self::READ
    };
}

/// `MAP_SHARED` or `MAP_PRIVATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sharing {
    /// `MAP_SHARED`.
    Shared,
    /// `MAP_PRIVATE`.
    Private,
}

/// Access mode of open(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OpenMode {
    /// `O_RDONLY`.
    ReadOnly,
    /// `O_WRONLY`.
    WriteOnly,
    /// `O_RDWR`.
    ReadWrite,
}

/// Advice of madvise(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Advice {
    /// `MADV_DONTNEED`.
    DontNeed,
    /// `MADV_DONTFORK`.
    DontFork,
    /// `MADV_DOFORK`.
    DoFork,
    /// `MADV_POPULATE_READ`.
    PopulateRead,
    /// `MADV_POPULATE_WRITE`.
    PopulateWrite,
}

/// A file descriptor of the agent's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fd(pub i32);

/// One thing that the agent does, in the process that holds the doorbell.
///
/// Addresses are guest virtual, lengths are bytes and go to the system call as
/// they are, also when hostile. Only what would take the agent's own memory away
/// from it (its program, heap, stack, the area) is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// finit_module(2) on a file of the initramfs. Answer: [`Value::Unit`].
    LoadModule {
        /// Absolute path.
        path: String,
        /// Module parameters, `name=value` separated by spaces.
        parameters: String,
    },
    /// delete_module(2). Answer: [`Value::Unit`].
    UnloadModule {
        /// Module's name.
        name: String,
    },
    /// open(2), with `O_CLOEXEC`. Answer: [`Value::Fd`].
    Open {
        /// Absolute path.
        path: String,
        /// Access mode.
        mode: OpenMode,
    },
    /// close(2). Answer: [`Value::Unit`].
    Close {
        /// What to close.
        fd: Fd,
    },
    /// mmap(2). Answer: [`Value::Address`].
    Map {
        /// The file, or `None` for `MAP_ANONYMOUS`.
        fd: Option<Fd>,
        /// Where, with `MAP_FIXED`; `None` lets the kernel choose.
        fixed_at: Option<u64>,
        /// Bytes.
        len_bytes: u64,
        /// Protection.
        prot: Prot,
        /// Shared or private.
        sharing: Sharing,
        /// Offset in the file, in bytes.
        offset_bytes: u64,
    },
    /// munmap(2). Answer: [`Value::Unit`].
    Unmap {
        /// First byte.
        address: u64,
        /// Bytes.
        len_bytes: u64,
    },
    /// mprotect(2). Answer: [`Value::Unit`].
    Protect {
        /// First byte.
        address: u64,
        /// Bytes.
        len_bytes: u64,
        /// New protection.
        prot: Prot,
    },
    /// madvise(2). Answer: [`Value::Unit`].
    Advise {
        /// First byte.
        address: u64,
        /// Bytes.
        len_bytes: u64,
        /// Advice.
        advice: Advice,
    },
    /// mremap(2). Answer: [`Value::Address`].
    Remap {
        /// First byte of the old mapping.
        address: u64,
        /// Bytes of the old mapping.
        old_len_bytes: u64,
        /// Bytes of the new mapping.
        new_len_bytes: u64,
        /// `MREMAP_MAYMOVE`.
        may_move: bool,
        /// Where to, with `MREMAP_FIXED`; `None` lets the kernel choose.
        fixed_at: Option<u64>,
    },
    /// Aligned 64-bit loads at `address`, `address + stride_bytes`, ...
    /// Answer: [`Value::Words`], or the signal that the first faulting load raised.
    Load {
        /// First word; a multiple of 8.
        address: u64,
        /// Bytes between words.
        stride_bytes: u64,
        /// Number of words, at most [`MAX_WORDS`].
        count: u32,
    },
    /// Aligned 64-bit stores, as [`Request::Load`]. Answer: [`Value::Unit`].
    Store {
        /// First word; a multiple of 8.
        address: u64,
        /// Bytes between words.
        stride_bytes: u64,
        /// What to store, at most [`MAX_WORDS`].
        words: Vec<u64>,
    },
    /// fork(2). The child answers with [`Value::Pid`] and its own pid and takes
    /// over the doorbell; the parent waits until the doorbell comes back to it, by
    /// [`Request::SwitchTo`] or by the child's end.
    Fork,
    /// Ends a forked process; its parent, or the first process where that has ended,
    /// then answers with [`Value::ExitStatus`] of it and holds the doorbell. `EPERM`
    /// for the first process.
    Exit {
        /// Status, 0 to 255.
        status: u8,
    },
    /// Reads a whole file, such as /proc/self/maps. Answer: [`Value::Bytes`],
    /// `EFBIG` when it has more than [`MAX_IO_LEN_BYTES`].
    ReadFile {
        /// Absolute path.
        path: String,
    },
    /// Entries of /proc/self/pagemap. Answer: [`Value::Words`].
    Pagemap {
        /// First byte of the first page.
        address: u64,
        /// Number of pages, at most [`MAX_WORDS`]; all of them in user space.
        npages: u32,
    },
    /// Writes a line to the kernel's log, so that the console shows it.
    /// Answer: [`Value::Unit`].
    Log {
        /// The line.
        text: String,
    },
    /// The kernel's log, as dmesg(1) shows it: what was printed last, whatever reached
    /// the console. Answer: [`Value::Bytes`], at most [`MAX_IO_LEN_BYTES`].
    KernelLog,
    /// Does to the kernel what its name says; never answered. For tests of the
    /// VMM's error paths.
    Crash(Crash),
    /// pread(2), one call. Answer: [`Value::Bytes`], as many as the call gave.
    Read {
        /// The file.
        fd: Fd,
        /// Where in the file, in bytes.
        offset_bytes: u64,
        /// Most bytes, at most [`MAX_IO_LEN_BYTES`].
        len_bytes: u32,
    },
    /// pwrite(2), one call. Answer: [`Value::Len`].
    Write {
        /// The file.
        fd: Fd,
        /// Where in the file, in bytes.
        offset_bytes: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// ioctl(2) with a pointer to `argument`. Answer: [`Value::Bytes`], the argument
    /// as the call left it. Rejected when `argument` is shorter than the size that is
    /// encoded in `command` (asm-generic/ioctl.h).
    Ioctl {
        /// The file.
        fd: Fd,
        /// The command's number.
        command: u32,
        /// What the pointer points to.
        argument: Vec<u8>,
    },
    /// Hands the doorbell to another process of the agent, which answers with
    /// [`Value::Unit`]; `ESRCH` when there is none with this pid. When it has died,
    /// its parent answers as for [`Request::Exit`].
    SwitchTo {
        /// Whom to.
        pid: i32,
    },
    /// ptrace(2) with `PTRACE_PEEKDATA`, by a process that traces the other for as
    /// long as it takes. Answer: [`Value::Words`], one.
    Peek {
        /// A process of the agent that does not hold the doorbell.
        pid: i32,
        /// Address in that process.
        address: u64,
    },
    /// As [`Request::Peek`], with `PTRACE_POKEDATA`. Answer: [`Value::Unit`].
    Poke {
        /// A process of the agent that does not hold the doorbell.
        pid: i32,
        /// Address in that process.
        address: u64,
        /// What to put there.
        word: u64,
    },
    /// From here on the kernel notes which of its code runs for requests, in whichever
    /// process. Answer: [`Value::Address`] of [`COVERAGE_LEN_BYTES`] in every process of
    /// the agent, the same ones if they were asked for before: a word with the number of
    /// the words that follow, each the address of code that ran. `ENOENT` from a kernel
    /// without KCOV, `EPERM` for a forked process that is the first to ask.
    StartCoverage,
    /// Requests that are carried out one after the other, whatever comes of each, with no
    /// stop between them. Answer: [`Value::Replies`]. Those are rejected in it that end or
    /// change the process that answers, and another one of this kind.
    Several {
        /// Each as [`part`] gives it: they do not nest.
        requests: Vec<Vec<u8>>,
    },
}

/// Ways to end a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Crash {
    /// /proc/sysrq-trigger `c`, or the death of /init where there is no SysRq
    /// (then a forked child rejects it).
    Panic,
    /// reboot(2) with `RB_AUTOBOOT`.
    Reset,
    /// reboot(2) with `RB_POWER_OFF`.
    PowerOff,
    /// Spins for ever in user space.
    Spin,
}

/// Most words that one [`Request::Load`], [`Request::Store`] or
/// [`Request::Pagemap`] may carry.
pub const MAX_WORDS: u32 = 16 * 1024;

/// Most bytes of one [`Request::Read`], and of a file that [`Request::ReadFile`]
/// answers: what the area holds besides a frame's header and the tags around the
/// bytes.
pub const MAX_IO_LEN_BYTES: usize = AREA_LEN_BYTES - 64;

/// What one process of the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The process that answers; it holds the doorbell.
    pub pid: i32,
    /// Whether the kernel has logged anything since the answer before.
    pub log_has_news: bool,
    /// What it says.
    pub reply: Reply,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// First message: the agent stands ready.
    Ready {
        /// `uname -r` of the guest.
        kernel_release: String,
    },
    /// The request was carried out.
    Done(Value),
    /// The system call refused.
    Errno(i32),
    /// A load or store raised a signal.
    Signal(Signal),
    /// The request could not be understood or is outside its limits.
    Rejected {
        /// Why.
        reason: String,
    },
}

/// Result of a request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing to tell.
    Unit,
    /// Guest virtual address.
    Address(u64),
    /// Open file.
    Fd(Fd),
    /// Process.
    Pid(i32),
    /// Wait status of a child, as waitpid(2) gives it.
    ExitStatus(i32),
    /// Words in the order of their addresses.
    Words(Vec<u64>),
    /// Contents of a file.
    Bytes(Vec<u8>),
    /// Bytes that were written.
    Len(u64),
    /// A [`Reply`] to each request, as [`part`] gives it.
    Replies(Vec<Vec<u8>>),
}

/// A signal that a load or store raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Number, such as 7 for `SIGBUS`.
    pub number: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`: the address that faulted; 0 for a non-canonical one, which x86
    /// does not tell.
    pub address: u64,
}
