//! Why a VM cannot be built, or came to its end.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use addr::Gpa;

/// A VM that cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// KVM itself is out of reach.
    #[error("open /dev/kvm: run `mapwitness doctor` to see what this machine can do")]
    OpenKvm(#[source] io::Error),
    /// A KVM call failed.
    #[error("KVM refuses {call}")]
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// Its errno.
        #[source]
        source: io::Error,
    },
    /// The configuration contradicts itself.
    #[error("VM configuration: {0}")]
    Config(String),
    /// Host memory for the guest could not be had.
    #[error("host memory for {what} ({len_bytes} bytes): raise the memory or memlock limit")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much.
        len_bytes: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Guest memory was addressed where there is none.
    #[error("no guest memory at {gpa}, {len_bytes} bytes")]
    GuestMemory {
        /// First byte.
        gpa: Gpa,
        /// Length.
        len_bytes: u64,
    },
    /// A file that the guest is started from cannot be read.
    #[error("read {}: build it with `mapwitness images build`", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel is not one that this VMM can start.
    #[error(
        "{} is not a kernel this VMM can start: it needs an uncompressed 64-bit ELF vmlinux \
         built with CONFIG_PVH=y ({reason})", path.display()
    )]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The images do not fit the guest's RAM.
    #[error("the kernel and {} do not fit {ram_len_bytes} bytes of RAM: give the guest more", path.display())]
    TooLarge {
        /// The initramfs.
        path: PathBuf,
        /// The RAM.
        ram_len_bytes: u64,
    },
    /// The event loop failed.
    #[error("event loop: {0}")]
    EventLoop(String),
    /// A host thread or descriptor could not be had.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guest came to an end.
    #[error(transparent)]
    Ended(#[from] Box<Ended>),
}

impl VmError {
    pub(crate) fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm {
            call,
            source: io::Error::from_raw_os_error(error.errno()),
        }
    }

    pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// A guest that came to its end, with what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub cause: End,
    /// Last lines of the console, oldest first.
    pub console_tail: Vec<String>,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The guest kernel panicked.
    Panic {
        /// Its own line about it.
        line: String,
    },
    /// A triple fault (`KVM_EXIT_SHUTDOWN`).
    TripleFault {
        /// Instruction pointer of the vCPU.
        rip: u64,
    },
    /// The guest asked for a reset.
    Reset,
    /// The guest powered itself off.
    PowerOff,
    /// No doorbell for too long.
    Hang {
        /// How long the guest was given.
        after: Duration,
        /// What each vCPU was waiting for when it was stopped.
        vcpus: Vec<String>,
    },
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`).
    KvmInternalError {
        /// `KVM_INTERNAL_ERROR_*` of the KVM API.
        suberror: u32,
        /// Instruction pointer of the vCPU.
        rip: u64,
    },
    /// The processor refused the vCPU's state (`KVM_EXIT_FAIL_ENTRY`).
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// An exit that this VMM knows nothing of.
    UnexpectedExit {
        /// Its name.
        exit: String,
    },
    /// `KVM_RUN` itself failed.
    RunFailed {
        /// errno.
        errno: i32,
    },
    /// Another thread asked the VM to stop.
    Stopped,
    /// Two vCPUs rang doorbells at once; the agent never does.
    DoorbellCollision,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic { line } => write!(f, "the guest kernel panicked: {line}"),
            Self::TripleFault { rip } => write!(f, "the guest triple-faulted at rip {rip:#x}"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::PowerOff => f.write_str("the guest powered itself off"),
            Self::Hang { after, vcpus } => write!(
                f,
                "the guest hung: no word from its agent for {} s; its vCPUs: {}",
                after.as_secs_f32(),
                vcpus.join(" / ")
            ),
            Self::KvmInternalError { suberror, rip } => write!(
                f,
                "KVM cannot run this guest (internal error {suberror} at rip {rip:#x}): \
                 see `mapwitness doctor`"
            ),
            Self::FailEntry { reason } => {
                write!(f, "the processor refused to enter the guest ({reason:#x})")
            }
            Self::UnexpectedExit { exit } => write!(f, "unexpected exit from the guest: {exit}"),
            Self::RunFailed { errno } => write!(
                f,
                "KVM_RUN failed: {}",
                io::Error::from_raw_os_error(*errno)
            ),
            Self::Stopped => f.write_str("the VM was stopped from outside"),
            Self::DoorbellCollision => f.write_str("two vCPUs rang doorbells at once"),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if self.console_tail.is_empty() {
            return f.write_str("; the console is empty");
        }
        f.write_str("; last lines of the console:")?;
        self.console_tail
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl std::error::Error for Ended {}
