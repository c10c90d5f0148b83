//! Where running software hosts are found: one folder each, in a folder that
//! belongs to this user alone.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

/// The socket on which the keeper listens.
pub const SOCKET: &str = "keeper.sock";
/// What the keeper is to do.
pub const CONFIG: &str = "config";
/// The socket on which QEMU answers questions about its machine.
pub const MONITOR: &str = "monitor.sock";
/// Complaints of the keeper, of QEMU and of virtiofsd.
pub const LOG: &str = "log";
/// The software host's console.
pub const CONSOLE: &str = "console";
/// Locked by the keeper while it lives.
const ALIVE: &str = "alive";
/// In the user's folder: locked while a host is looked up or started.
const LOCK: &str = "lock";
/// In the user's folder: written once for each owner that was told its host.
const TOLD_PREFIX: &str = "told-";

/// The folder that belongs to this user, made when it is missing.
///
/// A socket's path is limited to 107 bytes (unix(7)), so it stands in
/// `$XDG_RUNTIME_DIR` or /tmp, whatever `TMPDIR` says.
pub fn base() -> io::Result<PathBuf> {
    let uid = geteuid().as_raw();
    let runtime = env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.as_os_str().len() < 50)
        .filter(|path| fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid));
    let base = match runtime {
        Some(runtime) => runtime.join("mapwitness"),
        None => PathBuf::from(format!("/tmp/mapwitness-{uid}")),
    };
    match DirBuilder::new().mode(0o700).create(&base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // In /tmp anybody could have made it first.
    let found = fs::symlink_metadata(&base)?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} is not a folder of this user alone; remove it or set XDG_RUNTIME_DIR",
                base.display()
            ),
        ));
    }
    Ok(base)
}

/// Holds the user's folder while a host is looked up or started.
pub fn lock(base: &Path) -> io::Result<File> {
    let file = open_lock(&base.join(LOCK))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Marks a run folder as that of a living keeper until the file is dropped.
pub fn mark_alive(run_dir: &Path) -> io::Result<File> {
    let file = open_lock(&run_dir.join(ALIVE))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Removes run folders whose keeper is gone. The caller holds [`lock`].
pub fn remove_stale(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        if path.is_dir() && mark_alive(&path).is_ok() {
            // A keeper that just ends removes it at the same time.
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Run folders of hosts with this key, dead or alive.
pub fn with_key(base: &Path, key: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base)? {
        let entry = entry?;
        let name = entry.file_name();
        if name
            .to_str()
            .and_then(|name| name.rsplit_once('.'))
            .is_some_and(|(of, _)| of == key)
        {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A fresh run folder for a host with this key. Never one that was there before,
/// which a keeper that just ends may be about to remove.
pub fn create(base: &Path, key: &str) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let run_dir = base.join(format!("{key}.{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&run_dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
            Ok(()) => return Ok(run_dir),
        }
    }
}

/// Whether this owner hears of its host for the first time.
pub fn first_time(base: &Path, owner: &str) -> bool {
    let path = base.join(format!("{TOLD_PREFIX}{owner}"));
    let first = OpenOptions::new().write(true).create_new(true).open(path);
    // Notes of owners that ended long ago would pile up.
    if first.is_ok() {
        forget_told(base, owner);
    }
    first.is_ok()
}

fn forget_told(base: &Path, except: &str) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(TOLD_PREFIX));
        let pid = owner
            .filter(|owner| *owner != except)
            .and_then(|owner| owner.split('-').next());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            // Best effort: a note left behind is only a few bytes.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Something that changes whenever the program at `path` does.
pub fn program_identity(path: &Path) -> io::Result<String> {
    let found = fs::metadata(path)?;
    Ok(format!(
        "{}:{}:{}:{}.{}:{}.{}",
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_without_a_keeper_are_removed() {
        let base = tempfile::tempdir().expect("folder");
        let living = create(base.path(), "key").expect("made");
        let dead = create(base.path(), "key").expect("made");
        assert_eq!(with_key(base.path(), "key").expect("read").len(), 2);
        let alive = mark_alive(&living).expect("locked");
        drop(mark_alive(&dead).expect("locked"));
        sweep_until_gone(base.path(), &dead);
        assert!(living.exists());
        drop(alive);
        sweep_until_gone(base.path(), &living);
    }

    /// A process that another test just starts has copies of the locks until it
    /// executes its program.
    #[track_caller]
    fn sweep_until_gone(base: &Path, run_dir: &Path) {
        for _ in 0..1000 {
            remove_stale(base).expect("swept");
            if !run_dir.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} stays", run_dir.display());
    }

    #[test]
    fn an_owner_is_told_once() {
        let base = tempfile::tempdir().expect("folder");
        let gone = format!("{}-1", u32::MAX);
        assert!(first_time(base.path(), &gone));
        assert!(!first_time(base.path(), &gone));
        assert!(first_time(base.path(), "1-1"));
        assert!(!base.path().join(format!("{TOLD_PREFIX}{gone}")).exists());
    }

    #[test]
    fn a_changed_program_is_another() {
        let folder = tempfile::tempdir().expect("folder");
        let program = folder.path().join("program");
        fs::write(&program, "one").expect("written");
        let before = program_identity(&program).expect("found");
        assert_eq!(program_identity(&program).expect("found"), before);
        fs::write(&program, "three").expect("written");
        assert_ne!(program_identity(&program).expect("found"), before);
    }
}
