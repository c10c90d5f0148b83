//! The file system that carried processes see.
//!
//! The root is the outer machine's, read-only. Folders that a process may write are
//! bound over themselves from a writable view of the same root, and are the outer
//! machine's own. /tmp and /run are fresh and end with the host.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

/// The writable view of the outer machine's root.
const OUTER: &str = "/run/mapwitness/outer";

/// Kind, place, options.
const BEFORE_ROOT: [(&str, &str, &str); 6] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];
/// As above, in folders that have to be made.
const IN_NEW_FOLDERS: [(&str, &str, &str); 2] = [
    ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
];
/// As above; their absence is seen by whoever needs them.
const OPTIONAL: [(&str, &str, &str); 2] = [
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
];

/// Mounts what a packed root file system has no folders for yet.
pub fn mount_in_packed() -> io::Result<()> {
    for (kind, place, options) in BEFORE_ROOT {
        fs::create_dir_all(place)?;
        mount_one(kind, place, options)?;
    }
    mount_rest()
}

/// Mounts everything; the root is read-only afterwards.
pub fn mount_all() -> io::Result<()> {
    for (kind, place, options) in BEFORE_ROOT {
        mount_one(kind, place, options)?;
    }
    mount_rest()?;
    fs::create_dir_all(OUTER)?;
    fs::set_permissions("/run/mapwitness", fs::Permissions::from_mode(0o700))?;
    mount_bind("/", OUTER).map_err(|error| context(OUTER, error))?;
    // This mount only: the view above stays writable.
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
        .map_err(|error| context("/", error))
}

fn mount_rest() -> io::Result<()> {
    for (kind, place, options) in IN_NEW_FOLDERS {
        fs::create_dir_all(place)?;
        mount_one(kind, place, options)?;
    }
    for (kind, place, options) in OPTIONAL {
        if let Err(error) = mount_one(kind, place, options) {
            eprintln!("mapwitness: {error}");
        }
    }
    Ok(())
}

fn mount_one(kind: &str, place: &str, options: &str) -> io::Result<()> {
    mount(
        kind,
        place,
        kind,
        MountFlags::empty(),
        Some(c_text(options)?.as_c_str()),
    )
    .map_err(|error| context(place, error))
}

fn c_text(text: &str) -> io::Result<std::ffi::CString> {
    std::ffi::CString::new(text).map_err(io::Error::from)
}

fn context(place: &str, error: rustix::io::Errno) -> io::Error {
    io::Error::other(format!("cannot mount {place}: {error}"))
}

/// The outer machine's file of that path, also where a fresh folder hides it.
pub fn outer(path: &Path) -> PathBuf {
    Path::new(OUTER).join(path.strip_prefix("/").unwrap_or(path))
}

/// Folders made writable so far.
#[derive(Debug, Default)]
pub struct Writable {
    folders: Vec<PathBuf>,
}

impl Writable {
    /// Makes the outer machine's `folder` writable here, at the same place.
    pub fn add(&mut self, folder: &Path) -> io::Result<()> {
        if !is_bindable(folder) || self.folders.iter().any(|known| folder.starts_with(known)) {
            return Ok(());
        }
        let outer = outer(folder);
        // In the fresh /tmp or /run; elsewhere it is there already.
        fs::create_dir_all(folder)?;
        mount_bind(&outer, folder).map_err(|error| {
            io::Error::other(format!(
                "cannot make {} writable: {error}",
                folder.display()
            ))
        })?;
        self.folders.push(folder.to_owned());
        Ok(())
    }
}

/// Whether it is a folder of the outer machine that may be handed through: not the
/// whole root, and nothing that this machine has of its own.
fn is_bindable(folder: &Path) -> bool {
    let own = ["/proc", "/sys", "/dev"];
    folder.is_absolute()
        && folder.parent().is_some()
        && folder != Path::new("/tmp")
        && folder != Path::new("/run")
        && !own.iter().any(|own| folder.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_folders_are_not_covered() {
        for refused in ["/", "/tmp", "/run", "/dev/shm", "/proc/self", "relative"] {
            assert!(!is_bindable(Path::new(refused)), "{refused}");
        }
        for taken in ["/tmp/clone", "/home/user/clone/target", "/devel"] {
            assert!(is_bindable(Path::new(taken)), "{taken}");
        }
    }
}
