//! virtiofsd: where it is and how it is called.
//!
//! There are two programs of that name: the one in C that came with QEMU up to 7.2
//! (Debian 12), and the one in Rust that replaced it (Debian 13).

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

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
    let output = with_user_rights(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

/// The command that serves the whole file system on the listening socket
/// `listener`, with the rights of the calling user.
pub fn command(program: &Path, listener: RawFd) -> Command {
    let mut command = with_user_rights(program);
    // Both need to be root, be it of a namespace, to enter the folder they serve.
    if is_in_c(program) {
        // Revalidation at each lookup, data dropped at each open: what changes outside
        // is seen at once. `cache=none` would forbid shared mappings of files.
        command
            .arg(format!("--fd={listener}"))
            .args(["-f", "-o", "source=/,sandbox=chroot,cache=auto,timeout=0"])
            .args(["-o", "log_level=warn"]);
    } else {
        // Its `auto` keeps names and attributes for a second and has no option against
        // that. `never` would forbid shared mappings of files but for `allow-mmap`.
        command
            .arg(format!("--fd={listener}"))
            .args(["--shared-dir=/", "--sandbox=chroot", "--cache=never"])
            .args(["--allow-mmap", "--log-level=warn"]);
    }
    command
}

fn is_in_c(program: &Path) -> bool {
    version(program).is_some_and(|version| version.starts_with("virtiofsd version"))
}

fn with_user_rights(program: &Path) -> Command {
    if geteuid().is_root() {
        Command::new(program)
    } else {
        // The one in C does not even tell its version otherwise.
        as_user(program)
    }
}

/// In a user namespace of its own, in which the user is root: what the software
/// host's root does to files is then done with the rights of the user.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--"])
        .arg(program);
    // SAFETY: the function makes two system calls on constants and neither allocates
    // nor locks, which is all that a child may do between fork and exec.
    unsafe { command.pre_exec(keep_groups) };
    command
}

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// `AUDIT_ARCH_X86_64` (linux/audit.h).
const X86_64: u32 = 0xc000_003e;
/// setgroups(2) on x86_64.
const SETGROUPS: u32 = 116;

const fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: 0x20, // BPF_LD | BPF_W | BPF_ABS
        jt: 0,
        jf: 0,
        k: offset,
    }
}

const fn skip_unless_equal(value: u32, skipped: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: 0x15, // BPF_JMP | BPF_JEQ | BPF_K
        jt: 0,
        jf: skipped,
        k: value,
    }
}

const fn give(verdict: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: 0x06, // BPF_RET | BPF_K
        jt: 0,
        jf: 0,
        k: verdict,
    }
}

/// setgroups does nothing and succeeds; all else is as ever.
static KEEP_GROUPS: [libc::sock_filter; 6] = [
    load(ARCHITECTURE),
    skip_unless_equal(X86_64, 3),
    load(NUMBER),
    skip_unless_equal(SETGROUPS, 1),
    give(libc::SECCOMP_RET_ERRNO),
    give(libc::SECCOMP_RET_ALLOW),
];

/// Lets the child believe that it dropped its supplementary groups.
///
/// virtiofsd insists on dropping them, which nobody may in a namespace that an
/// ordinary user made (user_namespaces(7)). They are the user's own, and the files
/// are served with the user's own rights, so keeping them gives nothing away.
fn keep_groups() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let program = libc::sock_fprog {
        len: 6,
        filter: KEEP_GROUPS.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes exactly the static filter, which the kernel copies
    // and does not write.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filtered_child_may_think_that_it_dropped_its_groups() {
        // setgroups with a wild pointer fails in the kernel, for whoever asks.
        let wild = || {
            // SAFETY: the kernel refuses to read the address; nothing is written.
            match unsafe { libc::syscall(libc::SYS_setgroups, 1, 1) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        let mut plain = Command::new("true");
        // SAFETY: one system call, as above.
        unsafe { plain.pre_exec(wild) };
        assert!(plain.status().is_err());
        let mut filtered = Command::new("true");
        // SAFETY: two system calls on constants.
        unsafe { filtered.pre_exec(keep_groups) };
        // SAFETY: one system call, as above.
        unsafe { filtered.pre_exec(wild) };
        assert!(filtered.status().expect("started").success());
    }
}
