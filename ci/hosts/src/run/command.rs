//! What of the calling process goes along with a carried one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{RunError, doing};
use crate::messages::Command;
use crate::select::{HostKind, INSIDE_VARIABLE};

/// Names of things that exist outside only: sockets, open descriptors, folders in
/// /tmp and /run.
const LEFT_BEHIND: [&str; 16] = [
    "CARGO_MAKEFLAGS",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GPG_AGENT_INFO",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAKEFLAGS",
    "NOTIFY_SOCKET",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "TEMP",
    "TMP",
    "TMPDIR",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// The command for the software host.
pub fn build(
    argv: &[OsString],
    environment: &[(OsString, OsString)],
    host: HostKind,
    writable: &[PathBuf],
) -> Result<Command, RunError> {
    let cwd = env::current_dir().map_err(doing("find the working directory"))?;
    let inherited = env::vars_os()
        .filter(|(name, _)| goes_along(name))
        .chain(environment.iter().cloned())
        .map(|(name, value)| (name.into_vec(), value.into_vec()));
    let inside = (
        INSIDE_VARIABLE.as_bytes().to_vec(),
        host.name().as_bytes().to_vec(),
    );
    Ok(Command {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: inherited.chain([inside]).collect(),
        cwd: cwd.into_os_string().into_vec(),
        umask: current_umask().map_err(doing("read the umask"))?,
        writable: writable
            .iter()
            .map(|folder| folder.as_os_str().as_bytes().to_vec())
            .collect(),
    })
}

fn goes_along(name: &OsStr) -> bool {
    name != INSIDE_VARIABLE && !LEFT_BEHIND.iter().any(|left| name == *left)
}

/// Read from proc_pid_status(5): umask(2) can only be asked by changing it.
fn current_umask() -> std::io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    parse_umask(&status).ok_or_else(|| std::io::Error::other("/proc/self/status has none"))
}

fn parse_umask(status: &str) -> Option<u32> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(value.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_a_meaning_inside_goes_along() {
        for left in ["TMPDIR", "MAKEFLAGS", "SSH_AUTH_SOCK", INSIDE_VARIABLE] {
            assert!(!goes_along(OsStr::new(left)), "{left}");
        }
        for taken in [
            "PATH",
            "LD_LIBRARY_PATH",
            "CARGO_MANIFEST_DIR",
            "MAPWITNESS_CACHE",
        ] {
            assert!(goes_along(OsStr::new(taken)), "{taken}");
        }
    }

    #[test]
    fn the_umask_is_octal() {
        assert_eq!(
            parse_umask("Name:\tcat\nUmask:\t0027\nState:\tR\n"),
            Some(0o27)
        );
        assert_eq!(parse_umask("Name:\tcat\n"), None);
    }
}
