//! Looking at the cache, and making room in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::lock::EntryLock;
use super::{Cache, Error, INPUTS, at, remove_dir};
use crate::progress::Progress;

/// One finished artefact in the cache.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is: the kind it was built as.
    pub kind: String,
    /// The name of its inputs' hash.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// What its files hold.
    pub len_bytes: u64,
    /// When it was built or last handed out.
    pub last_used: SystemTime,
}

/// What [`Cache::clean`] leaves in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: also what is not content-addressed (downloads, state of tools).
    Nothing,
    /// Entries that were used within this time.
    UsedWithin(Duration),
}

/// What [`Cache::clean`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Entries and abandoned builds.
    pub removed: usize,
    /// Bytes of their files.
    pub len_bytes: u64,
    /// What was left because a process is building it just now.
    pub busy: usize,
}

impl Cache {
    /// Every finished entry, by kind, the last used one first.
    ///
    /// # Errors
    /// When the cache cannot be read; a cache that does not exist is empty.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for kind_dir in sub_dirs(&self.root)? {
            let finished = finished(&kind_dir)?.into_iter();
            entries.extend(finished.map(|(path, last_used)| Entry {
                kind: name_of(&kind_dir),
                key: name_of(&path),
                len_bytes: size_bytes(&path),
                last_used,
                path,
            }));
        }
        entries.sort_by(|a, b| (&a.kind, b.last_used, &a.key).cmp(&(&b.kind, a.last_used, &b.key)));
        Ok(entries)
    }

    /// Removes what `keep` does not cover, and what dead builders left behind.
    /// What is being built just now stays.
    ///
    /// # Errors
    /// When something cannot be read or removed.
    pub fn clean(&self, keep: Keep) -> Result<Cleaned, Error> {
        let mut cleaned = Cleaned::default();
        let oldest_kept = match keep {
            Keep::Nothing => None,
            Keep::UsedWithin(age) => Some(SystemTime::now() - age),
        };
        for entry in self.list()? {
            if oldest_kept.is_some_and(|oldest| entry.last_used >= oldest) {
                continue;
            }
            cleaned.remove_locked(&entry.path)?;
        }
        for kind_dir in sub_dirs(&self.root)? {
            for path in sub_dirs(&kind_dir)? {
                if is_part(&path) {
                    cleaned.remove_locked(&path)?;
                }
            }
        }
        if keep == Keep::Nothing && cleaned.busy == 0 {
            for dir in sub_dirs(&self.root)? {
                cleaned.len_bytes += size_bytes(&dir);
                remove_dir(&dir)?;
            }
        }
        Ok(cleaned)
    }
}

impl Cleaned {
    fn remove_locked(&mut self, path: &Path) -> Result<(), Error> {
        let lock_path = lock_path_of(path);
        let Some(_lock) = EntryLock::try_acquire(&lock_path)? else {
            self.busy += 1;
            return Ok(());
        };
        let len_bytes = size_bytes(path);
        remove_dir(path)?;
        fs::remove_file(&lock_path).map_err(at("remove", &lock_path))?;
        self.removed += 1;
        self.len_bytes += len_bytes;
        Ok(())
    }
}

/// Removes what dead builders left in `kind_dir`, as far as it can: programs
/// that they started may outlive them, and write until their files are gone.
/// The caller holds the lock of the entry `own`.
pub fn remove_abandoned(kind_dir: &Path, own: &str, progress: &Progress) -> Result<(), Error> {
    for path in sub_dirs(kind_dir)? {
        if !is_part(&path) {
            continue;
        }
        // Our own lock is held by the caller, and says that the builder is gone.
        let ours = hex_of(&path) == own;
        let lock = match ours {
            true => None,
            false => EntryLock::try_acquire(&lock_path_of(&path))?,
        };
        if !ours && lock.is_none() {
            continue;
        }
        let step = progress.step("remove what an interrupted build left", None);
        let _ = remove_dir(&path);
        drop(lock);
        step.done(name_of(&path));
    }
    Ok(())
}

/// The folder in which this process builds the entry `hex`.
pub fn part_path(kind_dir: &Path, hex: &str) -> PathBuf {
    kind_dir.join(format!("{hex}.{}.part", std::process::id()))
}

/// The finished entries of one kind, each with the time of its last use. Their files are
/// not looked at: there may be very many, behind a slow file system.
pub fn finished(kind_dir: &Path) -> Result<Vec<(PathBuf, SystemTime)>, Error> {
    let mut entries = Vec::new();
    for path in sub_dirs(kind_dir)? {
        if is_part(&path) {
            continue;
        }
        // The time of the manifest is the time of the last use.
        if let Ok(inputs) = fs::metadata(path.join(INPUTS)) {
            let last_used = inputs.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            entries.push((path, last_used));
        }
    }
    Ok(entries)
}

/// The lock of the entry that `path` is, or is to become.
pub fn lock_path_of(path: &Path) -> PathBuf {
    path.with_file_name(format!("{}.lock", hex_of(path)))
}

fn hex_of(path: &Path) -> String {
    let name = name_of(path);
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Whether it is a folder in which an entry is made.
pub fn is_part(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "part")
}

/// The folders in `dir`, by name; none when it does not exist.
pub fn sub_dirs(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(at("list", dir))?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(at("list", dir))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn size_bytes(path: &Path) -> u64 {
    // Informative: what vanishes meanwhile counts as nothing.
    WalkDir::new(path)
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(|metadata| metadata.is_file())
        .map(|metadata| metadata.len())
        .sum()
}
