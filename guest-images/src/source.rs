//! The kernel's source: which one, and getting it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use provision::command::output_of;
use provision::debian::{Archive, Package};
use provision::{Cache, Key, Progress};
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::versions::Kernel;
use crate::{Error, run};

/// A Debian package that holds a kernel's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    package: String,
    version: String,
    sha256: String,
}

impl Pin {
    /// The package to build from: the pinned one, or the successor that was
    /// found when the pinned one had left the mirror.
    pub fn resolve(kernel: &Kernel, cache: &Cache) -> Self {
        let pinned = Self {
            package: kernel.package.clone(),
            version: kernel.version.clone(),
            sha256: kernel.sha256.clone(),
        };
        let remembered = fs::read_to_string(pinned.successor_file(cache));
        remembered
            .ok()
            .and_then(|text| toml::from_str(&text).ok())
            .unwrap_or(pinned)
    }

    /// Adds what identifies the source to a key.
    pub fn add_to_key(&self, key: Key) -> Key {
        key.text("source package", &self.package)
            .text("source version", &self.version)
            .text("source sha256", &self.sha256)
    }

    /// The package's file, downloaded on first use. When the version is no longer
    /// to be had, its successor is taken, said and remembered.
    ///
    /// # Errors
    /// Without network, or when the mirror has nothing that would do.
    pub fn fetch(
        &self,
        kernel: &Kernel,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<(Self, PathBuf), Error> {
        if let Some(entry) = cache.get("source", &self.key()) {
            return Ok((self.clone(), self.file_in(&entry)));
        }
        let archive = Archive::open(cache, &[&kernel.suite], progress)?;
        let (pin, package) = self.look_up(kernel, &archive)?;
        if pin != *self {
            progress.say(format!(
                "{} {} has left the mirror; taking {} {} instead",
                self.package, self.version, pin.package, pin.version
            ));
        }
        let entry = cache.get_or_build("source", &pin.key(), progress, |dir| {
            archive.download(&package, dir, progress)?;
            Ok::<(), Error>(())
        })?;
        if pin != *self {
            pin.remember_for(kernel, cache)?;
        }
        let file = pin.file_in(&entry);
        Ok((pin, file))
    }

    fn look_up(&self, kernel: &Kernel, archive: &Archive) -> Result<(Self, Package), Error> {
        let exact = archive.find(&literal(&self.package))?;
        let wanted = exact
            .into_iter()
            .find(|found| found.version == self.version);
        if let Some(package) = wanted {
            if package.sha256 != self.sha256 {
                return Err(Error::PinnedHash {
                    package: self.package.clone(),
                    version: self.version.clone(),
                    found: package.sha256,
                    pinned: self.sha256.clone(),
                });
            }
            return Ok((self.clone(), package));
        }
        let successors = archive.find(&kernel.successors)?;
        let Some(package) = successors.into_iter().next() else {
            return Err(Error::NoKernelSource {
                suite: kernel.suite.clone(),
                package: self.package.clone(),
                successors: kernel.successors.clone(),
            });
        };
        let pin = Self {
            package: package.name.clone(),
            version: package.version.clone(),
            sha256: package.sha256.clone(),
        };
        Ok((pin, package))
    }

    fn remember_for(&self, kernel: &Kernel, cache: &Cache) -> Result<(), Error> {
        let pinned = Self {
            package: kernel.package.clone(),
            version: kernel.version.clone(),
            sha256: kernel.sha256.clone(),
        };
        cache.folder("successors")?;
        let path = pinned.successor_file(cache);
        let text = toml::to_string(self).unwrap_or_default();
        let part = path.with_extension("part");
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(Error::at("write", &path))
    }

    fn successor_file(&self, cache: &Cache) -> PathBuf {
        let name = format!("{}.toml", self.key().hex());
        cache.root().join("successors").join(name)
    }

    fn key(&self) -> Key {
        self.add_to_key(Key::new())
    }

    fn file_in(&self, entry: &Path) -> PathBuf {
        entry.join(format!("{}.deb", self.package))
    }
}

/// A regular expression that matches just `text`.
fn literal(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if !letter.is_ascii_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// Unpacks the kernel's source out of its Debian package into `into`.
pub fn unpack(deb: &Path, into: &Path, progress: &Progress) -> Result<(), Error> {
    let total = fs::metadata(deb).map_err(Error::at("read", deb))?.len();
    let step = progress.step_bytes("unpack the kernel's source", Some(total));
    let failed = |reason: &str| Error::Unpack {
        package: deb.to_owned(),
        reason: reason.to_owned(),
    };
    let mut list = start(
        Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    )?;
    let listed = list.stdout.take().ok_or_else(|| failed("no pipe"))?;
    let mut pick = start(
        Command::new("tar")
            .args(["--extract", "--to-stdout", "--wildcards"])
            .arg("./usr/src/linux-source-*.tar.xz")
            .stdin(Stdio::from(listed))
            .stdout(Stdio::piped()),
    )?;
    let mut picked = pick.stdout.take().ok_or_else(|| failed("no pipe"))?;
    // On a full disk tar has a word about every single file.
    let words = into.with_extension("log");
    let complaints = fs::File::create(&words).map_err(Error::at("write", &words))?;
    let mut spread = start(
        Command::new("tar")
            .args(["--extract", "--xz", "--strip-components=1", "--directory"])
            .arg(into)
            .env("XZ_DEFAULTS", "--threads=0")
            .stdin(Stdio::piped())
            .stderr(Stdio::from(complaints)),
    )?;
    let mut sink = spread.stdin.take().ok_or_else(|| failed("no pipe"))?;
    let copied = copy(&mut picked, &mut sink, |len_bytes| step.inc(len_bytes));
    drop((picked, sink));
    for (name, mut child) in [("tar", spread), ("tar", pick), ("dpkg-deb", list)] {
        let status = child
            .wait()
            .map_err(Error::at("wait for the unpacking of", deb))?;
        if !status.success() {
            let first = run::whole(&words).lines().next().map(str::to_owned);
            let first = first.unwrap_or_default();
            return Err(failed(&format!("{name} ended with {status}. {first}")));
        }
    }
    copied.map_err(Error::at("unpack", deb))?;
    fs::remove_file(&words).map_err(Error::at("remove", &words))?;
    step.done("unpacked");
    Ok(())
}

fn start(command: &mut Command) -> Result<Child, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .spawn()
        .map_err(|source| Error::Start { program, source })
}

fn copy(from: &mut impl Read, to: &mut impl Write, mut passed: impl FnMut(u64)) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        to.write_all(bytes)?;
        passed(u64::try_from(len).unwrap_or_default());
    }
}

/// Checks that `dir` is a kernel tree.
pub fn check_tree(dir: &Path) -> Result<(), Error> {
    for missing in [
        "Makefile",
        "Kconfig",
        "scripts/Makefile.build",
        "rust/Makefile",
    ] {
        if !dir.join(missing).is_file() {
            return Err(Error::NoKernelTree {
                path: dir.to_owned(),
                missing,
            });
        }
    }
    Ok(())
}

/// Adds a kernel tree to a key by the names, sizes and times of its files: their
/// contents would take too long to read on every run.
pub fn add_tree_to_key(key: Key, dir: &Path) -> Result<Key, Error> {
    let mut listing = String::new();
    for entry in files_of(dir) {
        let entry = entry.map_err(|error| Error::at("read", dir)(error.into()))?;
        let metadata = entry
            .metadata()
            .map_err(|error| Error::at("read", dir)(error.into()))?;
        if metadata.is_dir() {
            continue;
        }
        let relative = entry.path().strip_prefix(dir).unwrap_or(entry.path());
        // Writing to a String does not fail.
        let _ = writeln!(
            listing,
            "{relative:?} {} {}.{}",
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
    }
    let listing = Key::new().text("listing", &listing).hex();
    Ok(key
        .text("source tree", &dir.to_string_lossy())
        .text("source tree listing", &listing))
}

fn files_of(dir: &Path) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    WalkDir::new(dir)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.file_name() != ".git")
}

/// Copies a kernel tree, so that building leaves the original as it is.
pub fn copy_tree(from: &Path, into: &Path, progress: &Progress) -> Result<(), Error> {
    let step = progress.step("copy the kernel tree", None);
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--reflink=auto", "--"]);
    let listing = fs::read_dir(from).map_err(Error::at("list", from))?;
    for entry in listing {
        let entry = entry.map_err(Error::at("list", from))?;
        if entry.file_name() != ".git" {
            cp.arg(entry.path());
        }
    }
    cp.arg(into);
    if output_of(&mut cp).is_none() {
        return Err(Error::Unpack {
            package: from.to_owned(),
            reason: "cp failed".to_owned(),
        });
    }
    step.done("copied");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel {
            package: "linux-source-7.3".to_owned(),
            version: "7.3.4-1".to_owned(),
            sha256: "00".to_owned(),
            suite: "trixie-backports".to_owned(),
            successors: r"linux-source-7\.[0-9]+".to_owned(),
        }
    }

    #[test]
    fn a_successor_is_remembered_until_the_pin_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let mut kernel = kernel();
        let pinned = Pin::resolve(&kernel, &cache);
        assert_eq!(pinned.version, "7.3.4-1");
        let successor = Pin {
            package: "linux-source-7.4".to_owned(),
            version: "7.4.1-1".to_owned(),
            sha256: "11".to_owned(),
        };
        successor.remember_for(&kernel, &cache).unwrap();
        assert_eq!(Pin::resolve(&kernel, &cache), successor);
        kernel.version = "7.3.9-1".to_owned();
        assert_eq!(Pin::resolve(&kernel, &cache).version, "7.3.9-1");
    }

    #[test]
    fn a_name_is_matched_as_it_stands() {
        assert_eq!(literal("linux-source-7.3+x"), r"linux\-source\-7\.3\+x");
    }

    #[test]
    fn a_changed_tree_has_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let hex = || add_tree_to_key(Key::new(), dir.path()).unwrap().hex();
        let empty = hex();
        fs::write(dir.path().join("a.c"), "x").unwrap();
        let one = hex();
        assert_ne!(empty, one);
        fs::create_dir(dir.path().join(".git")).unwrap();
        fs::write(dir.path().join(".git/index"), "x").unwrap();
        assert_eq!(one, hex());
        let error = check_tree(dir.path()).unwrap_err().to_string();
        assert!(error.contains("Makefile"), "{error}");
    }
}
