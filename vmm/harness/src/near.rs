//! Copies of snapshots in this machine's own memory, where the cache is another machine's
//! folder: each process would fetch all of it again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use monitor::{Key as GuestKey, Saved, Unusable};

/// `FUSE_SUPER_MAGIC` of include/uapi/linux/magic.h; virtiofs has the same.
const FUSE: u64 = 0x6573_5546;
/// So many copies are kept.
const KEPT: usize = 6;

/// A folder of this user's own, in memory.
pub(crate) struct Near(PathBuf);

impl Near {
    /// The folder, if `far` is another machine's.
    pub(crate) fn of(far: &Path) -> Option<Self> {
        let is_foreign = |path: &Path| {
            let found = rustix::fs::statfs(path).ok()?;
            Some(u64::try_from(found.f_type).ok()? == FUSE)
        };
        let user = rustix::process::geteuid();
        let folder = std::env::temp_dir().join(format!("mapwitness-snapshots-{}", user.as_raw()));
        if !is_foreign(far)? {
            return None;
        }
        let made = DirBuilder::new().mode(0o700).create(&folder);
        if made.is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
            return None;
        }
        // What somebody else may write to is not believed.
        let found = fs::symlink_metadata(&folder).ok()?;
        let is_own = found.is_dir() && found.uid() == user.as_raw() && found.mode() & 0o77 == 0;
        (is_own && !is_foreign(&folder)?).then_some(Self(folder))
    }

    /// The copy, if there is one. It was whole when it was made, and nothing but this
    /// machine's memory has held it since, so that its pages are not read again.
    pub(crate) fn open(&self, name: &str, key: &GuestKey) -> Option<Saved> {
        let path = self.0.join(name);
        let file = File::open(&path).ok()?;
        let opened = Saved::open_checked_before(file, key);
        if opened.is_err() {
            self.remove(name);
        }
        opened.ok()
    }

    /// Makes a copy; without one everything works as well.
    pub(crate) fn keep(&self, name: &str, saved: &Saved) {
        let copied = || -> Result<(), Unusable> {
            let failed = |action| move |source| Unusable::Io { action, source };
            let mut part = tempfile::NamedTempFile::new_in(&self.0).map_err(failed("copied"))?;
            saved.copy_to(part.as_file_mut())?;
            let renamed = part.persist(self.0.join(name));
            renamed.map_err(|error| failed("copied")(error.error))?;
            Ok(())
        };
        if copied().is_ok() {
            self.remove_oldest();
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        // One that is not there need not go.
        let _ = fs::remove_file(self.0.join(name));
    }

    fn remove_oldest(&self) {
        let Ok(listing) = fs::read_dir(&self.0) else {
            return;
        };
        let mut copies: Vec<_> = listing
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let made = fs::metadata(&path)
                    .and_then(|found| found.modified())
                    .ok()?;
                Some((made, path))
            })
            .collect();
        copies.sort();
        for (_, path) in copies.iter().rev().skip(KEPT) {
            // Somebody else may have been quicker.
            let _ = fs::remove_file(path);
        }
    }
}
