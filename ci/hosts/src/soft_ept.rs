//! The software host `soft-ept`: Bochs, running a stock kernel with kvm_intel.
//!
//! Bochs emulates VMX with EPT, which QEMU does not. It has neither virtio nor any
//! other quick way to a file system, so one program is packed with all that it reads,
//! and gets a machine of its own:
//!
//! - `elf`, `kernel`: the stock kernel, unpacked as it will lie in memory.
//! - `pack`: the program, its libraries and its data, as a root file system.
//! - `memory`, `rom`: both together as an image of memory, and the few instructions
//!   that enter the kernel by PVH. There is no firmware, and nothing is decompressed.
//! - `bochs`: the emulator, built from source once.
//! - `machine`, `session`: running it, and what comes out of it.
//!
//! All files that Bochs reads or writes lie in memory of the calling process and have
//! no name: however it ends, nothing stays behind.
//!
//! The emulated clock counts instructions and nothing comes in from outside, so that
//! two runs of one program go the same way, to the tick.

mod bochs;
mod elf;
mod kernel;
mod machine;
mod memory;
mod model;
mod pack;
mod rom;
mod session;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use provision::{Cache, Consent, Need, Progress, packages};

use crate::messages::Command;
use crate::needs::find_program;
use crate::run::{Options, RunError};
use crate::{kernel as stock, soft_ept};

pub use bochs::{Flavour, SOURCE_VARIABLE, cached as bochs_in_cache};
pub use kernel::FlatKernel;
pub use model::{MODEL_VARIABLE, Model, UnknownModel};

/// Why there is no such host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The emulator.
    #[error(transparent)]
    Bochs(#[from] bochs::Error),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The program or what it needs.
    #[error(transparent)]
    Pack(#[from] pack::Error),
    /// The environment names no model of a CPU.
    #[error(transparent)]
    Model(#[from] UnknownModel),
    /// Memory for the machine's files could not be had.
    #[error("cannot put together the emulated machine")]
    Machine(#[source] io::Error),
}

/// What the host is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The emulator.
    pub bochs: PathBuf,
    /// The kernel.
    pub kernel: FlatKernel,
    /// The CPU that is emulated.
    pub model: Model,
}

/// The packages that are needed to build and to fetch the parts.
pub fn needs() -> Vec<Need> {
    vec![
        Need::package("g++").or_program("g++"),
        Need::package("make").or_program("make"),
        // The source, and the kernel's modules.
        Need::package("xz-utils").or_program("xz"),
        // The kernel.
        Need::package("zstd").or_program("zstd"),
    ]
}

/// Brings the parts together, building and fetching what is missing.
///
/// # Errors
/// [`RunError`], when something can neither be found nor had.
pub fn ensure(
    flavour: Flavour,
    cache: &Cache,
    consent: Consent,
    progress: &Progress,
) -> Result<Parts, RunError> {
    packages::require(&needs(), consent, progress)?;
    let model = model::wished().map_err(Error::from)?;
    let bochs = bochs::ensure(flavour, cache, progress).map_err(Error::from)?;
    let stock = stock::ensure(cache, progress)?;
    let kernel = kernel::ensure(&stock, cache, progress).map_err(Error::from)?;
    Ok(Parts {
        bochs,
        kernel,
        model,
    })
}

/// Runs a program in a machine of its own. Gives its exit status.
///
/// # Errors
/// [`RunError`]; [`RunError::HostLost`] when there is no result.
pub fn run(
    parts: &Parts,
    argv: &[OsString],
    command: &Command,
    options: &Options,
    progress: &Progress,
) -> Result<i32, RunError> {
    let init = std::env::current_exe().map_err(|source| RunError::Io {
        action: "find the path of this program".to_owned(),
        source,
    })?;
    let program = argv.first().map(PathBuf::from).unwrap_or_default();
    let program = if program.components().count() > 1 {
        program
    } else {
        find_program(&program.to_string_lossy()).unwrap_or(program)
    };
    let cargo = pack::Cargo {
        init: &init,
        program: &program,
        data: &options.files,
        modules: &parts.kernel.modules,
        command,
    };
    let root = cargo.entries().map_err(Error::from)?;
    let files = machine::Files::new(parts, &root, &init, options.debugger.as_deref())
        .map_err(soft_ept::Error::Machine)?;
    session::run(parts, files, progress)
}
