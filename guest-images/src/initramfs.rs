//! Packs the guest's initramfs: an uncompressed cpio archive in the newc format of
//! the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! The same entries give the same bytes: sorted, numbered in that order, owned by
//! root, without times. Nothing is compressed, because unpacking is part of a boot.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cpio::newc::{self, ModeFileType};
use thiserror::Error;

mod check;

pub use check::{Listed, check};

/// Archives begin at multiples of this in a file of several (init/initramfs.c).
const ALIGNMENT_BYTES: u64 = 4;
const DIRECTORY_MODE: u32 = 0o755;

/// One file, folder or node of the initramfs.
#[derive(Clone, Debug)]
pub struct Entry {
    path: String,
    mode: u32,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(PathBuf),
    Text(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
}

impl Entry {
    /// A folder. Those above an entry come by themselves.
    pub fn directory(path: impl Into<String>) -> Self {
        Self::new(path, DIRECTORY_MODE, Kind::Directory)
    }

    /// A copy of `source`, with permissions `mode`, such as `0o755`.
    pub fn file(path: impl Into<String>, mode: u32, source: impl Into<PathBuf>) -> Self {
        Self::new(path, mode, Kind::File(source.into()))
    }

    /// A file of these bytes.
    pub fn bytes(path: impl Into<String>, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(path, mode, Kind::Text(bytes.into()))
    }

    /// A character device's node.
    pub fn char_device(path: impl Into<String>, mode: u32, major: u32, minor: u32) -> Self {
        Self::new(path, mode, Kind::CharDevice { major, minor })
    }

    /// What the agent at `program` needs of a root file system: itself as /init, the
    /// folders that it mounts on, and the console that the kernel opens as its
    /// standard files (a program of Rust's std dies at its start without them).
    pub fn of_agent(program: impl Into<PathBuf>) -> Vec<Self> {
        vec![
            Self::file("/init", 0o755, program),
            Self::directory("/dev"),
            Self::directory("/proc"),
            Self::directory("/sys"),
            Self::char_device("/dev/console", 0o600, 5, 1),
        ]
    }

    fn new(path: impl Into<String>, mode: u32, kind: Kind) -> Self {
        let path = path.into();
        Self { path, mode, kind }
    }
}

/// What is wrong with an initramfs.
#[derive(Debug, Error)]
pub enum Error {
    /// An entry's path.
    #[error(
        "`{path}` cannot be a path in the initramfs; it must be absolute, without `.`, `..`, \
         empty parts or NUL, and in the archive once"
    )]
    EntryPath {
        /// The path.
        path: String,
    },
    /// A file that is to go in.
    #[error("cannot read {source_path}, to be {entry} in the initramfs", source_path = path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Its path in the archive.
        entry: String,
        /// What the system said.
        source: io::Error,
    },
    /// The format's lengths have 32 bits.
    #[error("{entry} has {len_bytes} bytes; an initramfs holds files below 4 GiB")]
    TooLong {
        /// Its path in the archive.
        entry: String,
        /// Its length.
        len_bytes: usize,
    },
    /// The archive itself cannot be read or written.
    #[error("cannot {what} the initramfs {path}", path = path.display())]
    Archive {
        /// What was tried.
        what: &'static str,
        /// The archive.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The archive ends in the middle.
    #[error(
        "the initramfs {path} is cut off after {len_bytes} bytes, in or after `{last}`; remove \
         it and build it again with `mapwitness images build`",
        path = path.display()
    )]
    Truncated {
        /// The archive.
        path: PathBuf,
        /// Its length.
        len_bytes: u64,
        /// The last entry that begins in it.
        last: String,
    },
    /// Not an archive that the kernel could unpack here.
    #[error(
        "{path} is not an uncompressed newc archive at byte {offset_bytes}: {why}; remove it \
         and build it again with `mapwitness images build`",
        path = path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Where the format is left.
        offset_bytes: u64,
        /// What was found.
        why: String,
    },
    /// No program to start.
    #[error(
        "the initramfs {path} has no executable /init (it has: {found}); remove it and build \
         it again with `mapwitness images build`",
        path = path.display()
    )]
    NoInit {
        /// The archive.
        path: PathBuf,
        /// What it has.
        found: String,
    },
}

/// Writes `entries`, and the folders above them, as the archive `out`, which is
/// either whole afterwards or as it was.
///
/// # Errors
/// [`Error`], with the path that is at fault.
pub fn write(entries: &[Entry], out: &Path) -> Result<(), Error> {
    replace(out, |to| archive(entries, out, to))
}

/// Writes `entries`, and the folders above them, into `file` from its position on.
///
/// # Errors
/// [`Error`], with the path that is at fault.
pub fn write_into(entries: &[Entry], file: &File) -> Result<(), Error> {
    let out = Path::new("in memory");
    let mut to = BufWriter::new(file);
    archive(entries, out, &mut to)?;
    to.flush().map_err(archive_error("write", out))
}

/// Writes `base` and after it `entries` as a second archive, so that `out` adds to
/// or replaces what `base` holds. The kernel unpacks both, in this order.
///
/// # Errors
/// [`Error`], with the path that is at fault; a cut-off `base` is refused.
pub fn append(base: &Path, entries: &[Entry], out: &Path) -> Result<(), Error> {
    check(base)?;
    let mut from = File::open(base).map_err(archive_error("read", base))?;
    replace(out, |to| {
        let len_bytes = io::copy(&mut from, to).map_err(archive_error("write", out))?;
        let padding = len_bytes.next_multiple_of(ALIGNMENT_BYTES) - len_bytes;
        io::copy(&mut io::repeat(0).take(padding), to).map_err(archive_error("write", out))?;
        archive(entries, out, to)
    })
}

/// Gives `fill` a new file that takes the place of `out` once it is complete.
fn replace(
    out: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<(), Error>,
) -> Result<(), Error> {
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let part = tempfile::NamedTempFile::new_in(folder).map_err(archive_error("write", out))?;
    let mut to = BufWriter::new(part.as_file());
    fill(&mut to)?;
    to.flush().map_err(archive_error("write", out))?;
    drop(to);
    // Temporary files are their owner's alone; the archive may be read by all.
    part.as_file()
        .set_permissions(Permissions::from_mode(0o644))
        .map_err(archive_error("write", out))?;
    part.persist(out)
        .map_err(|error| archive_error("write", out)(error.error))?;
    Ok(())
}

/// One archive, trailer included.
fn archive(entries: &[Entry], out: &Path, mut to: &mut BufWriter<&File>) -> Result<(), Error> {
    for (inode, (name, entry)) in (1..).zip(sorted(entries)?) {
        let data = entry.data()?;
        let too_long = |_| Error::TooLong {
            entry: entry.path.clone(),
            len_bytes: data.len(),
        };
        let len_bytes = u32::try_from(data.len()).map_err(too_long)?;
        let mut writer = entry.header(name).ino(inode).write(to, len_bytes);
        writer
            .write_all(&data)
            .map_err(archive_error("write", out))?;
        to = writer.finish().map_err(archive_error("write", out))?;
    }
    newc::trailer(to).map_err(archive_error("write", out))?;
    Ok(())
}

impl Entry {
    fn data(&self) -> Result<Vec<u8>, Error> {
        match &self.kind {
            Kind::Directory | Kind::CharDevice { .. } => Ok(Vec::new()),
            Kind::Text(bytes) => Ok(bytes.clone()),
            Kind::File(path) => fs::read(path).map_err(|source| Error::Source {
                path: path.clone(),
                entry: self.path.clone(),
                source,
            }),
        }
    }

    fn header(&self, name: &str) -> newc::Builder {
        let header = newc::Builder::new(name).mode(self.mode & 0o7777);
        match self.kind {
            Kind::Directory => header.set_mode_file_type(ModeFileType::Directory),
            Kind::File(_) | Kind::Text(_) => header.set_mode_file_type(ModeFileType::Regular),
            Kind::CharDevice { major, minor } => header
                .set_mode_file_type(ModeFileType::Char)
                .rdev_major(major)
                .rdev_minor(minor),
        }
    }
}

/// Entries by their names in the archive, each folder before what it holds.
fn sorted(entries: &[Entry]) -> Result<BTreeMap<&str, Entry>, Error> {
    let mut by_name = BTreeMap::new();
    for entry in entries {
        let name = archive_name(&entry.path)?;
        if by_name.insert(name, entry.clone()).is_some() {
            return Err(Error::EntryPath {
                path: entry.path.clone(),
            });
        }
    }
    for entry in entries {
        let name = archive_name(&entry.path)?;
        for (end, _) in name.match_indices('/') {
            let folder = name.split_at(end).0;
            by_name
                .entry(folder)
                .or_insert_with(|| Entry::directory(format!("/{folder}")));
        }
    }
    Ok(by_name)
}

fn archive_name(path: &str) -> Result<&str, Error> {
    let refused = || Error::EntryPath { path: path.into() };
    let name = path.strip_prefix('/').ok_or_else(refused)?;
    let is_plain = |part| !matches!(part, "" | "." | "..");
    // The trailer's name would end the archive early.
    if name.split('/').all(is_plain) && !name.contains('\0') && name != check::TRAILER_NAME {
        Ok(name)
    } else {
        Err(refused())
    }
}

fn archive_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Archive { what, path, source }
}

#[cfg(test)]
mod tests;
