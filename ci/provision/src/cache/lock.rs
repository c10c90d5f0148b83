//! One lock file per entry.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{Error, at};

/// An exclusive lock; the kernel releases it when its holder ends, however it ends.
#[derive(Debug)]
pub struct EntryLock {
    _file: File,
}

impl EntryLock {
    /// Takes the lock; calls `waiting` once when somebody else holds it.
    pub fn acquire(path: &Path, waiting: impl FnOnce()) -> Result<Self, Error> {
        let mut waiting = Some(waiting);
        loop {
            let file = open(path)?;
            if !lock_now(&file).map_err(at("lock", path))? {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                wait(&file).map_err(at("lock", path))?;
            }
            if let Some(lock) = Self::if_still_at(file, path) {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock unless somebody else holds it.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>, Error> {
        let file = open(path)?;
        if !lock_now(&file).map_err(at("lock", path))? {
            return Ok(None);
        }
        Ok(Self::if_still_at(file, path))
    }

    /// A lock on a file that `clean` has unlinked meanwhile excludes nobody.
    fn if_still_at(file: File, path: &Path) -> Option<Self> {
        let ours = file.metadata().ok()?;
        let there = fs::metadata(path).ok()?;
        (ours.ino() == there.ino() && ours.dev() == there.dev()).then_some(Self { _file: file })
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(at("open lock file", path))
}

fn lock_now(file: &File) -> io::Result<bool> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
