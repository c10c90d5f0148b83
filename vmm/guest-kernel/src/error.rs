//! Why a guest's kernel cannot be read.

use std::path::PathBuf;

use addr::Gva;
use witness::guest_walk::TablesError;

/// What is known of a kernel is not enough.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    /// A file cannot be read.
    #[error("read {}: build it with `mapwitness images build`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The description of types is none.
    #[error("{} describes no types: remove it with `mapwitness images clean`", path.display())]
    Types {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: btf::BtfError,
    },
    /// A type has another shape than in any kernel known here.
    #[error(transparent)]
    Member(#[from] btf::NoMember),
    /// A variable is not there.
    #[error("{} does not list {symbol}", path.display())]
    NoSymbol {
        /// The file.
        path: PathBuf,
        /// Its name.
        symbol: &'static str,
    },
}

/// Something in a guest's kernel that could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The vCPU's tables cannot be walked at all.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The guest's own tables do not map an address.
    #[error("{what}: the guest's kernel has no memory at gva {gva} ({reason})")]
    NotMapped {
        /// What was to be read.
        what: &'static str,
        /// Where.
        gva: Gva,
        /// How the walk ended.
        reason: String,
    },
    /// A list or tree does not end.
    #[error("{what} does not end after {steps} steps")]
    Endless {
        /// The list or tree.
        what: &'static str,
        /// How many were taken.
        steps: usize,
    },
    /// Something that no such kernel keeps.
    #[error("{what} is {value:#x}, which cannot be")]
    Nonsense {
        /// What was read.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// No process has these tables.
    #[error("no process of the guest uses the tables at gpa {root:#x}, in which its vCPU stands")]
    NoOwner {
        /// Their root.
        root: u64,
    },
    /// No process has this number.
    #[error("the guest has no process {pid}")]
    NoProcess {
        /// The number.
        pid: i32,
    },
}
