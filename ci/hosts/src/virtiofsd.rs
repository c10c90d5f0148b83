//! virtiofsd: where it is and how it is called.
//!
//! There are two programs of that name: the one in C that came with QEMU up to 7.2
//! (Debian 12), and the one in Rust that replaced it (Debian 13).

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{geteuid, getgroups};

/// Where distributions put it; it is on nobody's PATH.
pub const PLACES: [&str; 4] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
];

/// The first one that is installed.
pub fn find() -> Option<PathBuf> {
    PLACES
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

/// Its version as it says it, in one line.
pub fn version(program: &Path) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

/// The command that serves the whole file system on the listening socket
/// `listener`, with the rights of the calling user.
pub fn command(program: &Path, listener: RawFd) -> io::Result<Command> {
    let mut command = if geteuid().is_root() {
        Command::new(program)
    } else {
        as_user(program)?
    };
    // Both need to be root, be it of a namespace, to enter the folder they serve.
    if is_in_c(program) {
        // Revalidation at each lookup, data dropped at each open: what changes outside
        // is seen at once. `cache=none` would forbid shared mappings of files.
        command
            .arg(format!("--fd={listener}"))
            .args(["-f", "-o", "source=/,sandbox=chroot,cache=auto,timeout=0"])
            .args(["-o", "log_level=warn"]);
    } else {
        // This one's names and attributes are up to a second old.
        command
            .arg(format!("--fd={listener}"))
            .args(["--shared-dir=/", "--sandbox=chroot", "--cache=auto"])
            .args(["--log-level=warn"]);
    }
    Ok(command)
}

fn is_in_c(program: &Path) -> bool {
    version(program).is_some_and(|version| version.starts_with("virtiofsd version"))
}

/// In a user namespace of its own, in which the user is root: what the software
/// host's root does to files is then done by the user.
fn as_user(program: &Path) -> io::Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]);
    command.arg(program);
    let _ = getgroups()?;
    Ok(command)
}
