//! Why something could not be had from a Debian archive.

use std::io;
use std::path::PathBuf;

use crate::cache;

/// Why something could not be had from a Debian archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// apt's tools are missing.
    #[error(
        "{program} is not found: fetching from a Debian archive needs a Debian system \
         (for a guest kernel, --kernel-src DIR takes any kernel tree instead)"
    )]
    NoApt {
        /// The missing program.
        program: &'static str,
    },
    /// No Debian mirror is configured.
    #[error(
        "no mirror for {suite} is found: neither /etc/apt/sources.list nor \
         /etc/apt/sources.list.d names a Debian archive with component main; add one (for a \
         guest kernel, --kernel-src DIR takes any kernel tree instead)"
    )]
    NoMirror {
        /// The suite asked for.
        suite: String,
    },
    /// Lists could not be fetched from any mirror.
    #[error(
        "package lists of {suites} cannot be fetched from {tried}. Is the network up? (For a guest \
         kernel, --kernel-src DIR takes any kernel tree and needs no network.)\n{output}"
    )]
    Update {
        /// The suites asked for.
        suites: String,
        /// The mirrors that were tried.
        tried: String,
        /// The end of what apt-get said.
        output: String,
    },
    /// A package could not be downloaded.
    #[error(
        "{package} {version} cannot be downloaded ({status}). Is the network up? (For a guest \
         kernel, --kernel-src DIR takes any kernel tree and needs no network.)\n{output}"
    )]
    Download {
        /// Package name.
        package: String,
        /// Its version.
        version: String,
        /// How apt-get ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// No mirror gave a file of the pool.
    #[error("{file} cannot be downloaded from any of this machine's mirrors ({tried})\n{output}")]
    Pool {
        /// Its path from the archive's root.
        file: &'static str,
        /// The mirrors that were tried.
        tried: String,
        /// The end of what apt said.
        output: String,
    },
    /// The downloaded file is not what the archive's signed list promises.
    #[error("{path} has SHA-256 {found}, not {expected}: it was damaged or replaced; try again")]
    Hash {
        /// The file, removed since.
        path: PathBuf,
        /// Hash of what came.
        found: String,
        /// Hash in the signed list.
        expected: String,
    },
    /// A file could not be used or a program not started.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}
