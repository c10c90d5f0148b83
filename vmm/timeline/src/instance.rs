//! An instance of tracefs: buffers and switches that are this process's own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

/// Where tracefs is mounted; the second for those who reach it by debugfs alone.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const NAMED: &str = "/sys/kernel/tracing or /sys/kernel/debug/tracing";
/// More bytes than any of the files that are read as text has.
const FILE_BYTES: usize = 1 << 16;
/// How the instances of this project are called; their maker's number follows.
const PREFIX: &str = "mapwitness-";
/// `O_NONBLOCK` of Linux on x86 (include/uapi/asm-generic/fcntl.h).
const NONBLOCK: i32 = 0o4000;

/// The folder of tracefs.
pub(crate) fn tracefs() -> Result<&'static Path, Error> {
    PLACES
        .map(Path::new)
        .into_iter()
        .find(|place| place.join("instances").is_dir())
        .ok_or(Error::NoTracefs { places: NAMED })
}

/// Reads a file of tracefs. Some of them give all they have to the first read and
/// nothing to any later one, so that it must have room.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let read = || {
        let mut file = File::open(path)?;
        let mut room = vec![0; FILE_BYTES];
        let mut used = 0;
        while let Some(free) = room.get_mut(used..).filter(|free| !free.is_empty()) {
            match file.read(free) {
                Ok(0) => break,
                Ok(len_bytes) => used += len_bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        room.truncate(used);
        String::from_utf8(room).map_err(io::Error::other)
    };
    read().map_err(|source| Error::File {
        action: "read".into(),
        path: path.to_owned(),
        source,
    })
}

/// An instance; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Instance {
    path: PathBuf,
}

impl Instance {
    /// Makes one. Those that ended processes of this project left are removed first.
    pub(crate) fn new(tracefs: &Path) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let instances = tracefs.join("instances");
        remove_stale(&instances);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = instances.join(format!("{PREFIX}{}-{number}", std::process::id()));
        // Of a process that had the same number and was not seen to be gone.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path).map_err(|source| Error::Instance {
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes `value` to the file `name`.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = self.path(name);
        // Not `fs::write`, which would create what is not there.
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|source| Error::File {
            action: format!("write `{value}` to"),
            path,
            source,
        })
    }

    pub(crate) fn read(&self, name: &str) -> Result<String, Error> {
        read_text(&self.path(name))
    }

    /// Opens a file for reading without waiting, or for writing.
    pub(crate) fn open(&self, name: &str, write: bool) -> Result<File, Error> {
        let path = self.path(name);
        let opened = OpenOptions::new()
            .read(!write)
            .write(write)
            .custom_flags(NONBLOCK)
            .open(&path);
        opened.map_err(|source| Error::File {
            action: "open".into(),
            path,
            source,
        })
    }

    /// Numbers of the CPUs that have a buffer, in order.
    pub(crate) fn cpus(&self) -> Result<Vec<u32>, Error> {
        let path = self.path("per_cpu");
        let listed = fs::read_dir(&path).map_err(|source| Error::File {
            action: "list".into(),
            path,
            source,
        })?;
        let mut cpus: Vec<u32> = listed
            .filter_map(Result::ok)
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("cpu")?
                    .parse()
                    .ok()
            })
            .collect();
        cpus.sort_unstable();
        Ok(cpus)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Refused while a file of it is open, which whoever owns this value closes
        // first; what is left over is removed by the next one.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes instances whose makers are gone. The kernel refuses to remove one of which
/// a file is open, so that one of a process in another PID namespace is safe.
fn remove_stale(instances: &Path) {
    let Ok(listed) = fs::read_dir(instances) else {
        return;
    };
    for entry in listed.filter_map(Result::ok) {
        let name = entry.file_name();
        let maker = name.to_str().and_then(maker);
        if maker.is_some_and(|pid| !is_alive(pid)) {
            // Somebody else may have removed it meanwhile.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The process that made the instance of this name, if it is one of this project's.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    let path = Path::new("/proc").join(pid.to_string());
    !matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_over_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = format!("{PREFIX}{}-0", std::process::id());
        // Above the largest number that a process can have.
        let gone = format!("{PREFIX}4194305-3");
        for name in [own.as_str(), gone.as_str(), "somebody-else", "mapwitness-x"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        remove_stale(folder.path());
        let exists = |name: &str| folder.path().join(name).exists();
        assert!(exists(&own) && exists("somebody-else") && exists("mapwitness-x"));
        assert!(!exists(&gone));
    }

    #[test]
    fn an_instance_goes_with_its_value() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("instances")).expect("made");
        let instance = Instance::new(folder.path()).expect("made");
        let other = Instance::new(folder.path()).expect("another one");
        let (path, kept) = (instance.path.clone(), other.path.clone());
        assert!(path.is_dir() && kept.is_dir() && path != kept);
        assert!(instance.set("nothing", "1").is_err(), "nothing is created");
        drop(instance);
        assert!(!path.exists() && kept.is_dir());
    }
}
