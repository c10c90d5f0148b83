//! Why nothing can be recorded.

use std::io;
use std::path::PathBuf;

/// Recording is not possible here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no tracefs.
    #[error(
        "no tracefs at {places}: `mount -t tracefs tracefs /sys/kernel/tracing` as root, on a \
         kernel with CONFIG_FTRACE"
    )]
    NoTracefs {
        /// Where it was looked for.
        places: &'static str,
    },
    /// An instance cannot be made.
    #[error(
        "make a tracing instance {path}: run as root, on a kernel that is not locked down \
         (/sys/kernel/security/lockdown)"
    )]
    Instance {
        /// The instance.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the instance cannot be used.
    #[error("{action} {path}")]
    File {
        /// `read`, `open` or `write VALUE to`.
        action: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel has no such tracepoint.
    #[error("this kernel has no tracepoint {event}: it needs Linux 5.11 or newer with kvm loaded")]
    NoEvent {
        /// Its name.
        event: &'static str,
    },
    /// The TDP MMU, whose tracepoints these are, is off.
    #[error(
        "KVM runs without its TDP MMU (/sys/module/kvm/parameters/tdp_mmu is N), and its other \
         MMU does not report each entry: load kvm with tdp_mmu=1"
    )]
    NoTdpMmu,
    /// A published format has another shape than is known here.
    #[error("the format of {of}")]
    Format {
        /// Whose.
        of: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
}

/// A format that cannot be read by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A line or field that is needed is missing.
    #[error("it has no {0}")]
    Missing(String),
    /// A field has a size or place that no such record has.
    #[error("field {name} has {size_bytes} bytes at {offset_bytes}")]
    Field {
        /// The field.
        name: String,
        /// Its place.
        offset_bytes: usize,
        /// Its size.
        size_bytes: usize,
    },
    /// The buffers' records are laid out in another way.
    #[error("its line on {0} is not the one that is known")]
    Header(&'static str),
}
