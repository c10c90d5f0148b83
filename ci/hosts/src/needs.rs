//! What a software host needs on the machine.

use std::env;
use std::path::PathBuf;

use provision::Need;

use crate::virtiofsd;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The packages of a software host.
pub fn needs() -> Vec<Need> {
    let mut needs = emulator();
    needs.extend(tools());
    needs
}

/// What unpacks the kernel's modules.
pub fn tools() -> Vec<Need> {
    vec![Need::package("xz-utils").or_program("xz")]
}

/// The emulator and its file server.
pub fn emulator() -> Vec<Need> {
    let qemu = Need::package("qemu-system-x86").or_program(QEMU);
    // Debian 12 ships virtiofsd with QEMU, Debian 13 on its own.
    let mut files = Need::package("virtiofsd").or(&["qemu-system-common"]);
    for place in virtiofsd::PLACES {
        files = files.or_file(place);
    }
    vec![qemu, files]
}

/// Where a program stands in PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
