//! What the probe can find, in types and in words.

use std::fmt;

use super::{API_VERSION, KVM_DEVICE, PATIENCE};

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// There is no /dev/kvm.
    NoDevice,
    /// /dev/kvm is there but this user may not open it.
    NoPermission,
    /// /dev/kvm opens but does not run an ordinary guest.
    Foreign {
        /// The vendor part that serves it.
        vendor: Vendor,
        /// How the guest failed.
        failure: Failure,
    },
    /// The guest ran to its end.
    Usable {
        /// The vendor part that serves it.
        vendor: Vendor,
        /// What stands behind the guest's own tables.
        second_level: SecondLevel,
    },
}

/// The part of KVM that knows the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// VMX.
    KvmIntel,
    /// SVM.
    KvmAmd,
    /// Paravirtual, without hardware support.
    KvmPvm,
    /// None of the modules that are known here.
    Unknown,
}

/// How KVM translates guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondLevel {
    /// Extended page tables.
    Ept,
    /// Nested page tables.
    Npt,
    /// No second level: KVM shadows the guest's tables.
    Shadow,
}

/// How the tiny guest failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Another version of the interface.
    ApiVersion(i32),
    /// A call was refused.
    Call {
        /// Which.
        name: &'static str,
        /// What it said.
        error: String,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`; suberror 1 is an instruction that KVM's emulator
    /// does not know.
    InternalError {
        /// `kvm_run.internal.suberror`.
        suberror: u32,
    },
    /// Another exit than the two expected.
    Exit(String),
    /// It ran to its end with a wrong result.
    WrongResult,
    /// It did not end by itself.
    Timeout,
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KvmIntel => "kvm_intel",
            Self::KvmAmd => "kvm_amd",
            Self::KvmPvm => "kvm_pvm",
            Self::Unknown => "an unknown KVM module",
        })
    }
}

impl fmt::Display for SecondLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ept => "ept",
            Self::Npt => "npt",
            Self::Shadow => "shadow",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiVersion(found) => {
                write!(
                    f,
                    "it speaks version {found} of the interface, not {API_VERSION}"
                )
            }
            Self::Call { name, error } => write!(f, "{name} was refused: {error}"),
            Self::InternalError { suberror: 1 } => {
                f.write_str("its emulator gave up on an ordinary instruction")
            }
            Self::InternalError { suberror } => {
                write!(f, "KVM_EXIT_INTERNAL_ERROR with suberror {suberror}")
            }
            Self::Exit(what) => write!(f, "unexpected exit {what}"),
            Self::WrongResult => f.write_str("the guest computed a wrong result"),
            Self::Timeout => write!(f, "the guest did not end within {} s", PATIENCE.as_secs()),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => write!(f, "there is no {KVM_DEVICE}"),
            Self::NoPermission => write!(f, "no permission to open {KVM_DEVICE}"),
            Self::Foreign { vendor, failure } => write!(
                f,
                "{KVM_DEVICE} ({vendor}) cannot run an ordinary guest: {failure}"
            ),
            Self::Usable {
                vendor,
                second_level,
            } => write!(f, "{KVM_DEVICE} works ({vendor}, {second_level})"),
        }
    }
}
