//! Built artefacts, each addressed by every input that shapes it.
//!
//! Layout: `<root>/<kind>/<key>/` holds one finished artefact with an
//! `inputs.txt` that lists its inputs in readable form. Next to it,
//! `<key>.lock` is held by whoever builds it, and `<key>.<pid>.part/` is the
//! folder it is built in; a rename turns that into the entry, so an entry that
//! exists is whole. A `.part` folder whose lock is free was left by a builder
//! that died.

mod key;
mod lock;
mod manage;
mod offer;

use std::error::Error as StdError;
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use key::{Key, hash_file};
pub use manage::{Cleaned, Entry, Keep};

use crate::progress::Progress;
use lock::EntryLock;

const INPUTS: &str = "inputs.txt";
/// Fewer free bytes than this after a failed build: the disk was its cause.
const FULL_BELOW_BYTES: u64 = 8 << 20;

/// What can go wrong with the cache itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place for a cache is known.
    #[error(
        "no cache folder: none of MAPWITNESS_CACHE, XDG_CACHE_HOME and HOME is set; \
         set MAPWITNESS_CACHE to a folder with some gigabytes of room"
    )]
    NoFolder,
    /// A file or folder could not be used.
    #[error("{action} {path}: check its permissions, or set MAPWITNESS_CACHE to another folder")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An input of a key could not be read.
    #[error("read {path}, an input ({name}) of what is to be built")]
    Input {
        /// The input's name in the key.
        name: String,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The disk ran full while something was built.
    #[error(
        "the disk is full: {free_bytes} bytes are left for the cache in {root}; make room there \
         (`mapwitness images clean` removes what was built earlier), or set MAPWITNESS_CACHE to a \
         folder on another disk"
    )]
    Full {
        /// The cache's root folder.
        root: PathBuf,
        /// What the file system has left.
        free_bytes: u64,
        /// The failure that it caused.
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// The cache of one user.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$MAPWITNESS_CACHE`, else `$XDG_CACHE_HOME/mapwitness`,
    /// else `$HOME/.cache/mapwitness`.
    ///
    /// # Errors
    /// When none of them is set. The folder itself is made when first needed.
    pub fn open() -> Result<Self, Error> {
        let named = |name: &str| {
            let value = std::env::var_os(name)?;
            (!value.is_empty()).then(|| PathBuf::from(value))
        };
        let root = named("MAPWITNESS_CACHE")
            .or_else(|| named("XDG_CACHE_HOME").map(|base| base.join("mapwitness")))
            .or_else(|| named("HOME").map(|home| home.join(".cache/mapwitness")))
            .ok_or(Error::NoFolder)?;
        // Entries are handed to programs that run in other folders.
        let root = std::path::absolute(&root).map_err(|source| Error::Io {
            action: "find",
            path: root,
            source,
        })?;
        Ok(Self { root })
    }

    /// A cache in this folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the cache that is not content-addressed (state of tools),
    /// made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        make_dirs(&path)?;
        Ok(path)
    }

    /// Takes turns with other processes on `name`: waits (and says so) until
    /// nobody else holds it; it is free again when the guard is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn turn(&self, name: &str, progress: &Progress) -> Result<Turn, Error> {
        make_dirs(&self.root)?;
        let path = self.root.join(format!("{name}.lock"));
        let waiting = || progress.say(format!("{name}: another process is at it; waiting for it"));
        Ok(Turn(EntryLock::acquire(&path, waiting)?))
    }

    /// The finished entry, if it is there; marks it as used.
    pub fn get(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        let entry = self.entry_path(kind, key);
        if !entry.join(INPUTS).is_file() {
            return None;
        }
        mark_used(&entry);
        Some(entry)
    }

    /// The entry for `key`, built by `build` if it is not there yet.
    ///
    /// `build` fills the folder it is given; that folder is renamed afterwards,
    /// so nothing in it may remember its path. When another process builds the
    /// same entry, this one waits (and says so) and then uses what that made.
    ///
    /// # Errors
    /// What `build` returns, or an [`Error`] of the cache; a failure of `build`
    /// on a full disk becomes [`Error::Full`].
    pub fn get_or_build<E>(
        &self,
        kind: &str,
        key: &Key,
        progress: &Progress,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E>
    where
        E: From<Error> + StdError + Send + Sync + 'static,
    {
        if let Some(entry) = self.get(kind, key) {
            return Ok(entry);
        }
        let kind_dir = self.root.join(kind);
        make_dirs(&kind_dir)?;
        let lock_path = manage::lock_path_of(&self.entry_path(kind, key));
        let waiting = || {
            progress.say(format!(
                "{kind}: another process builds it; waiting for that"
            ));
        };
        let _lock = EntryLock::acquire(&lock_path, waiting)?;
        if let Some(entry) = self.get(kind, key) {
            return Ok(entry);
        }
        manage::remove_abandoned(&kind_dir, &key.hex(), progress)?;
        let part = manage::part_path(&kind_dir, &key.hex());
        remove_dir(&part)?;
        make_dirs(&part)?;
        if let Err(error) = build(&part) {
            let verdict = self.blame_disk(error);
            // Also makes room again; the first failure is the one to report.
            let _ = remove_dir(&part);
            return Err(verdict);
        }
        self.finish(kind, key, &part)
            .map_err(|error| self.blame_disk(E::from(error)))
    }

    fn finish(&self, kind: &str, key: &Key, part: &Path) -> Result<PathBuf, Error> {
        let inputs = part.join(INPUTS);
        fs::write(&inputs, key.manifest()).map_err(at("write", &inputs))?;
        // Before the rename makes the entry visible, its bytes must be on disk:
        // a power cut may otherwise leave a whole-looking entry of empty files.
        let folder = File::open(part).map_err(at("open", part))?;
        rustix::fs::syncfs(&folder)
            .map_err(io::Error::from)
            .map_err(at("write out", part))?;
        let entry = self.entry_path(kind, key);
        // What stands there has no manifest, so it is not an entry.
        remove_dir(&entry)?;
        fs::rename(part, &entry).map_err(at("rename to", &entry))?;
        Ok(entry)
    }

    fn blame_disk<E>(&self, error: E) -> E
    where
        E: From<Error> + StdError + Send + Sync + 'static,
    {
        let free_bytes = rustix::fs::statvfs(&self.root)
            .map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        if free_bytes >= FULL_BELOW_BYTES && !caused_by_full_disk(&error) {
            return error;
        }
        E::from(Error::Full {
            root: self.root.clone(),
            free_bytes,
            source: Box::new(error),
        })
    }

    fn entry_path(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(key.hex())
    }
}

/// A turn at something that only one process may do; see [`Cache::turn`].
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] EntryLock);

fn caused_by_full_disk(error: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
}

fn mark_used(entry: &Path) {
    // Only `clean` looks at it; a read-only cache works as well.
    let now = FileTimes::new().set_modified(SystemTime::now());
    let _ = File::options()
        .append(true)
        .open(entry.join(INPUTS))
        .and_then(|file| file.set_times(now));
}

fn make_dirs(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(at("make folder", path))
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}
