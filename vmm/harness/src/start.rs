//! How a guest comes to its agent's greeting: it boots, or it is taken up from a file in
//! which an earlier one was saved when it greeted.
//!
//! Such files lie in the cache, each under everything that its guest depends on. They are
//! an aid and nothing more: whatever is wrong with them, the guest boots.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use monitor::{KEY_LEN, Key as GuestKey, SaveError, Saved, Unusable, Vm, VmConfig, VmError};
use provision::{Cache, Key, cache};
use serde::Serialize;

use crate::near::Near;

/// Turns snapshots off, unless it is empty or `on`.
pub const VARIABLE: &str = "MAPWITNESS_SNAPSHOTS";
/// Kind of the cache's entries.
pub(crate) const KIND: &str = "snapshot";
/// The file in such an entry.
const FILE: &str = "guest";
/// So many are kept, each of some 15 MiB.
const KEPT: usize = 16;
/// A file that was changed so lately may change again within the same tick of its clock.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// How a guest is to be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// From a snapshot if there is one; if not, one is left for the next time.
    #[default]
    Quickest,
    /// By booting it. Nothing is read and nothing is left.
    Boot,
}

impl Start {
    /// As [`VARIABLE`] says.
    pub fn from_environment() -> Self {
        match std::env::var_os(VARIABLE) {
            Some(value) if !value.is_empty() && value != OsStr::new("on") => Self::Boot,
            _ => Self::Quickest,
        }
    }
}

/// How a guest was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Started {
    /// It booted.
    Boot,
    /// It was taken up from a file.
    Snapshot,
}

/// What [`Snapshots`] cannot do, which is no harm.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the cache")]
    Cache(#[from] cache::Error),
    #[error("KVM")]
    Vm(#[from] VmError),
    #[error("save the guest")]
    Save(#[from] SaveError),
    #[error("write the guest")]
    Io(#[from] io::Error),
}

/// The snapshots of guests of one configuration.
pub struct Snapshots {
    cache: Cache,
    key: Key,
    near: Option<Near>,
}

impl Snapshots {
    /// Those in the user's cache; `None` where none can be kept: without a cache, and
    /// while the guest's files are still being changed.
    pub fn of(config: &VmConfig) -> Option<Self> {
        match Cache::open() {
            Ok(cache) => Self::within(cache, config),
            Err(error) => {
                note(&error.into());
                None
            }
        }
    }

    /// Those in this cache.
    pub fn within(cache: Cache, config: &VmConfig) -> Option<Self> {
        Self::find(cache, config).unwrap_or_else(|trouble| {
            note(&trouble);
            None
        })
    }

    fn find(cache: Cache, config: &VmConfig) -> Result<Option<Self>, Trouble> {
        let files = [&config.kernel, &config.initramfs].map(|path| identity(path));
        let [Some(kernel), Some(initramfs)] = files else {
            return Ok(None);
        };
        let key = Key::new()
            .text("monitor", monitor::SOURCES)
            .text("host", &monitor::host_identity()?)
            .text("machine", &config.guest_visible())
            .text("kernel", &kernel)
            .text("initramfs", &initramfs);
        let near = Near::of(cache.root());
        Ok(Some(Self { cache, key, near }))
    }

    /// The snapshot, if there is one that is whole. One that is not is removed, and that
    /// is said.
    pub fn open(&self) -> Option<Saved> {
        let near = self.near.as_ref();
        if let Some(saved) = near.and_then(|near| near.open(&self.key.hex(), &self.guest_key())) {
            return Some(saved);
        }
        let path = self.cache.get(KIND, &self.key)?.join(FILE);
        let opened = File::open(&path).map_err(|source| Unusable::Io {
            action: "opened",
            source,
        });
        match opened.and_then(|file| Saved::open(file, &self.guest_key())) {
            Ok(saved) => {
                if let Some(near) = near {
                    near.keep(&self.key.hex(), &saved);
                }
                Some(saved)
            }
            Err(why) => {
                self.discard(&why);
                None
            }
        }
    }

    /// Removes a snapshot that is of no use, and says why.
    pub(crate) fn discard(&self, why: &Unusable) {
        eprintln!(
            "mapwitness: the snapshot {} is not used and made anew: {}",
            self.key.hex(),
            chain(why)
        );
        if let Some(near) = &self.near {
            near.remove(&self.key.hex());
        }
        if let Err(error) = self.cache.withdraw(KIND, &self.key) {
            note(&error.into());
        }
    }

    /// Leaves a snapshot of a guest that has just greeted.
    pub(crate) fn leave(&self, vm: &mut Vm) {
        let save = |dir: &Path| {
            let options = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(dir.join(FILE));
            vm.save(&self.guest_key(), &mut options?)?;
            Ok(())
        };
        let left = self.cache.offer(KIND, &self.key, save);
        let left = left.and_then(|()| Ok(self.cache.keep_newest(KIND, KEPT)?));
        if let Err(trouble) = left {
            note(&trouble);
        }
    }

    fn guest_key(&self) -> GuestKey {
        let mut key = [0; KEY_LEN];
        for (to, from) in key.iter_mut().zip(self.key.hex().bytes()) {
            *to = from;
        }
        key
    }
}

/// What tells a file from any other, without reading it: its kernel sets the time of its
/// last change, which nobody can set back. `None` for one that was changed just now, or
/// that cannot be looked at, which whoever reads it will report.
fn identity(path: &Path) -> Option<String> {
    // Not where links lead: inode and time tell the file, and in a software host each link
    // of a path is asked for in the outer machine.
    let path = std::path::absolute(path).ok()?;
    let found = fs::metadata(&path).ok()?;
    let seconds = u64::try_from(found.ctime()).ok()?;
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let age = match changed.elapsed() {
        Ok(age) => age,
        // Clocks of two machines are not quite the same.
        Err(ahead) => ahead.duration(),
    };
    (age > SETTLED_AFTER).then(|| {
        format!(
            "{}, {} bytes, inode {}, changed at {}.{:09}",
            path.display(),
            found.len(),
            found.ino(),
            found.ctime(),
            found.ctime_nsec()
        )
    })
}

fn note(trouble: &Trouble) {
    eprintln!("mapwitness: no snapshot: {}", chain(trouble));
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let causes = causes.map(|cause| format!(": {cause}"));
    error.to_string() + &causes.collect::<String>()
}
