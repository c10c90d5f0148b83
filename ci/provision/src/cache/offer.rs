//! Entries that are quick to make and may be lost: nobody waits for them, and old ones
//! give way to new ones.
//!
//! No lock is taken, since one that a software host takes does not hold outside it.
//! Each maker has a folder of its own, and of several the first one's becomes the entry.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Cache, Error, INPUTS, Key, at, make_dirs, manage, remove_dir};

/// A folder that was not touched for so long has lost its maker.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

impl Cache {
    /// Makes the entry for `key` by filling a folder with `build`, unless somebody else
    /// makes it meanwhile. What it holds may be lost when the machine loses its power,
    /// so that whoever reads it must tell damage by itself.
    ///
    /// # Errors
    /// What `build` returns, or an [`Error`] of the cache.
    pub fn offer<E: From<Error>>(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let kind_dir = self.root.join(kind);
        make_dirs(&kind_dir)?;
        let part = tempfile::Builder::new()
            .prefix(&format!("{}.", key.hex()))
            .suffix(".part")
            .tempdir_in(&kind_dir)
            .map_err(at("make a folder in", &kind_dir))?;
        build(part.path())?;
        let inputs = part.path().join(INPUTS);
        fs::write(&inputs, key.manifest()).map_err(at("write", &inputs))?;
        let entry = self.entry_path(kind, key);
        match fs::rename(part.path(), &entry) {
            // Another one is as good: this one's goes with `part`.
            Err(error) if is_taken(&error) => Ok(()),
            Err(error) => Err(at("rename to", &entry)(error).into()),
            Ok(()) => Ok(()),
        }
    }

    /// Removes an entry that turned out to be of no use.
    ///
    /// # Errors
    /// When it cannot be removed; one that is not there is.
    pub fn withdraw(&self, kind: &str, key: &Key) -> Result<(), Error> {
        let entry = self.entry_path(kind, key);
        // Nobody must see half of it.
        let away = tempfile::Builder::new()
            .prefix(&format!("{}.", key.hex()))
            .suffix(".part")
            .tempdir_in(self.root.join(kind))
            .map_err(at("make a folder beside", &entry))?;
        match fs::rename(&entry, away.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at("remove", &entry)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes all but the `count` entries of a kind that were used last, and what makers
    /// that are gone have left.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn keep_newest(&self, kind: &str, count: usize) -> Result<(), Error> {
        let kind_dir = self.root.join(kind);
        let mut entries = manage::finished(&kind_dir)?;
        entries.sort_by_key(|(_, last_used)| std::cmp::Reverse(*last_used));
        for (path, _) in entries.into_iter().skip(count) {
            remove_dir(&path)?;
        }
        let oldest_kept = SystemTime::now() - ABANDONED_AFTER;
        for part in manage::sub_dirs(&kind_dir)? {
            let changed = fs::metadata(&part).and_then(|found| found.modified());
            if manage::is_part(&part) && changed.is_ok_and(|time| time < oldest_kept) {
                remove_dir(&part)?;
            }
        }
        Ok(())
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}
