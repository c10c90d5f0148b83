//! Why the second level cannot be read.

use std::io;

use walk::UnsupportedMode;

use crate::memory::ReadError;

/// A host whose second-level tables cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// KVM here has no second level.
    #[error(
        "KVM has no second level here ({found}): load kvm_intel with ept=1 or kvm_amd with \
         npt=1, or choose a software host"
    )]
    NoSecondLevel {
        /// What was found instead.
        found: String,
    },
    /// The processor's description cannot be read.
    #[error("read {path}")]
    Processor {
        /// The file.
        path: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The processor's description lacks something.
    #[error("/proc/cpuinfo does not tell the number of physical address bits")]
    AddressBits,
    /// The kernel's memory is out of reach.
    #[error(
        "/proc/kcore cannot be read: run as root (CAP_SYS_RAWIO) on a kernel with \
         CONFIG_PROC_KCORE that is not locked down (/sys/kernel/security/lockdown)"
    )]
    OpenKcore(#[source] io::Error),
    /// The kernel was told to keep its memory to itself.
    #[error(
        "this kernel is locked down (confidentiality), and shows its memory to nobody: start \
         it without `lockdown=confidentiality`, or choose a software host"
    )]
    LockedDown(#[source] io::Error),
    /// Its headers make no sense.
    #[error("/proc/kcore is no ELF core file")]
    KcoreHeaders(#[source] object::read::Error),
    /// The kernel's symbols are out of reach.
    #[error("/proc/kallsyms cannot be read")]
    OpenKallsyms(#[source] io::Error),
    /// The kernel shows all symbols at 0.
    #[error(
        "/proc/kallsyms hides the kernel's addresses: run as root with \
         `sysctl kernel.kptr_restrict=0`"
    )]
    SymbolsHidden,
    /// A variable is not there.
    #[error(
        "/proc/kallsyms does not list {symbol}: the kernel needs CONFIG_KALLSYMS_ALL, \
         and KVM must be loaded"
    )]
    NoSymbol {
        /// Its name.
        symbol: &'static str,
    },
    /// The kernel does not describe its types.
    #[error("{path} cannot be read: the kernel and KVM need CONFIG_DEBUG_INFO_BTF")]
    Btf {
        /// The file.
        path: &'static str,
        /// Why not.
        #[source]
        source: btf::BtfError,
    },
    /// A type has another shape than in any kernel known here.
    #[error(transparent)]
    Member(#[from] btf::NoMember),
}

/// The root of a VM's tables that could not be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Memory on the way could not be read.
    #[error("{what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        #[source]
        source: ReadError,
    },
    /// This process is not in the kernel's list.
    #[error(
        "no process {pid} in the kernel's list: in a PID namespace (a container) processes \
         have other numbers, so run outside of it"
    )]
    NoProcess {
        /// The process.
        pid: u32,
    },
    /// The descriptor is not open, or not that of a vCPU.
    #[error("descriptor {fd} is no vCPU to the kernel ({found})")]
    NotAVcpu {
        /// The descriptor.
        fd: i32,
        /// What is there.
        found: String,
    },
    /// The vCPU does not belong to this process.
    #[error("the VM behind descriptor {fd} belongs to another process")]
    ForeignVm {
        /// The descriptor.
        fd: i32,
    },
    /// The vCPU has no root at present.
    #[error("the vCPU has no second-level root at present")]
    NoRoot,
    /// KVM has retired the root and not yet exchanged it.
    #[error("KVM has retired the root at hpa {root} and the vCPU did not run since")]
    Retired {
        /// It.
        root: addr::Hpa,
    },
    /// The root is not in KVM's list of roots.
    #[error("the root at hpa {root} is not in KVM's list of {listed} roots")]
    Unlisted {
        /// It.
        root: addr::Hpa,
        /// How many are.
        listed: usize,
    },
    /// The root is that of shadow tables.
    #[error("the vCPU runs on shadow tables, which translate from the guest's gva")]
    Shadow,
    /// A depth that no processor has.
    #[error("tables of {levels} levels")]
    Levels {
        /// Levels.
        levels: u64,
    },
    /// The root cannot be one of this processor.
    #[error("the root is none that this processor could use")]
    Mode(#[from] UnsupportedMode),
}

impl RootError {
    /// Whether a root will be there once the guest has run.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NoRoot | Self::Retired { .. })
    }

    /// Whether another look may find what this one missed, since memory changed
    /// while it was read.
    pub(crate) fn may_be_a_race(&self) -> bool {
        !matches!(self, Self::NoRoot | Self::Retired { .. } | Self::Mode(_))
    }
}
