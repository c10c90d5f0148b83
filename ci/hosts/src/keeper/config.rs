//! What a keeper is to do, left for it in its run folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::owner::Process;
use crate::rundir;

/// A keeper's task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The process that the host is kept for.
    pub owner: Process,
    /// The program that is init; it understands `host-init`.
    pub init: PathBuf,
    /// The host's kernel, a bzImage.
    pub kernel: PathBuf,
    /// Early user space, where the kernel needs one to reach its root file system.
    pub initramfs: Option<PathBuf>,
    /// QEMU's name for the CPU, with what is taken from it.
    pub cpu: String,
    /// Modules that init loads, in this order.
    pub modules: Vec<PathBuf>,
    /// Emulator.
    pub qemu: PathBuf,
    /// File server.
    pub virtiofsd: PathBuf,
}

impl Config {
    /// Leaves it in a run folder.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let bytes = postcard::to_extend(self, Vec::new()).map_err(io::Error::other)?;
        fs::write(run_dir.join(rundir::CONFIG), bytes)
    }

    /// Reads it from a run folder.
    pub fn read(run_dir: &Path) -> io::Result<Self> {
        let bytes = fs::read(run_dir.join(rundir::CONFIG))?;
        postcard::from_bytes(&bytes).map_err(io::Error::other)
    }
}
