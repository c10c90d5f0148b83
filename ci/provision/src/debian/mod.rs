//! Files of a Debian archive, through an apt of our own.
//!
//! Its state, cache and sources live in the project's cache folder; mirror and
//! proxy are those that the machine already uses, signatures are checked by the
//! machine's own Debian keyring. The system's apt configuration, lists and
//! hooks stay untouched, and neither root nor dpkg's database is needed.

mod config;
mod error;
mod pool;
mod sources;

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{self, AtomicBool};
use std::time::Duration;

use crate::cache::{Cache, Turn, hash_file};
use crate::command::{self, Ran};
use crate::progress::Progress;
use config::{config_text, dump_config, source_lists};
pub use error::Error;
pub use pool::{PoolFile, pool_file};

/// How often the size of a file in download is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// One version of a package in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Size of its file.
    pub len_bytes: u64,
    /// SHA-256 of its file by the archive's signed list, in hex.
    pub sha256: String,
}

/// Suites of the Debian archive, with fresh lists.
#[derive(Debug)]
pub struct Archive {
    config: PathBuf,
    dir: PathBuf,
    _turn: Turn,
}

impl Archive {
    /// Fetches the lists of `suites` (such as `trixie-backports`,
    /// `bookworm-security`), trying each mirror that the machine knows.
    ///
    /// # Errors
    /// Without apt, a mirror or network.
    pub fn open(cache: &Cache, suites: &[&str], progress: &Progress) -> Result<Self, Error> {
        for program in ["apt-get", "apt-cache", "dpkg"] {
            if !command::exists(program) {
                return Err(Error::NoApt { program });
            }
        }
        let turn = cache.turn("apt", progress)?;
        let dir = cache.folder("apt")?.join(suites.join("+"));
        for sub in ["lists/partial", "archives/partial"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(at("make folder", &path))?;
        }
        let archive = Self {
            config: dir.join("apt.conf"),
            dir,
            _turn: turn,
        };
        archive.write(&archive.config, &config_text(&archive.dir, &dump_config()))?;
        archive.update(suites, progress)?;
        Ok(archive)
    }

    fn update(&self, suites: &[&str], progress: &Progress) -> Result<(), Error> {
        let all = suites.join(", ");
        let step = progress.step(format!("package lists of {all}"), None);
        let mut tried = Vec::new();
        let mut output = String::new();
        for lines in source_lists(suites)? {
            self.write(&self.dir.join("sources.list"), &lines.text)?;
            step.message(lines.mirrors.clone());
            let mut update = self.apt("apt-get");
            // By default some failures to fetch are warnings only.
            update.args(["--quiet", "update", "-o", "APT::Update::Error-Mode=any"]);
            let ran = self.run(&mut update)?;
            if ran.status.success() {
                step.done(format!("from {}", lines.mirrors));
                return Ok(());
            }
            tried.push(lines.mirrors);
            output = ran.tail;
        }
        tried.dedup();
        Err(Error::Update {
            suites: all,
            tried: tried.join(", "),
            output,
        })
    }

    /// The packages whose name matches `pattern` (an extended regular expression
    /// that has to match the whole name), newest version first.
    ///
    /// # Errors
    /// When apt-cache cannot be run.
    pub fn find(&self, pattern: &str) -> Result<Vec<Package>, Error> {
        let mut search = self.apt("apt-cache");
        search.args(["search", "--names-only", &format!("^({pattern})$")]);
        let names = self.stdout(&mut search)?;
        let names: Vec<&str> = names
            .lines()
            .filter_map(|line| line.split_once(" - "))
            .map(|(name, _)| name)
            .collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut show = self.apt("apt-cache");
        show.arg("show").args(&names);
        let mut packages = parse_packages(&self.stdout(&mut show)?);
        packages.sort_by(|a, b| compare_versions(&b.version, &a.version));
        Ok(packages)
    }

    /// Downloads the package's file into the folder `into`, and checks its hash.
    ///
    /// # Errors
    /// When it cannot be fetched or is not what the archive's list says.
    pub fn download(
        &self,
        package: &Package,
        into: &Path,
        progress: &Progress,
    ) -> Result<PathBuf, Error> {
        let Package { name, version, .. } = package;
        let step = progress.step_bytes(
            format!("download {name} {version}"),
            Some(package.len_bytes),
        );
        let scratch = self.dir.join("download");
        remove_dir(&scratch)?;
        fs::create_dir_all(&scratch).map_err(at("make folder", &scratch))?;
        let mut fetch = self.apt("apt-get");
        fetch
            .current_dir(&scratch)
            .args(["--quiet", "download", &format!("{name}={version}")]);
        let ran = self.run_watching(&mut fetch, || step.set_position(len_bytes_in(&scratch)))?;
        let file = files_in(&scratch).into_iter().next();
        let Some(file) = file.filter(|_| ran.status.success()) else {
            // Half a file is of no use, and the disk may be full of it.
            let _ = remove_dir(&scratch);
            return Err(Error::Download {
                package: name.clone(),
                version: version.clone(),
                status: ran.status.to_string(),
                output: ran.tail,
            });
        };
        check_hash(&file, &package.sha256)?;
        let target = into.join(format!("{name}.deb"));
        // The download folder may be on another file system than `into`.
        fs::rename(&file, &target)
            .or_else(|_| fs::copy(&file, &target).map(|_| ()))
            .map_err(at("move the download to", &target))?;
        remove_dir(&scratch)?;
        step.done("hash is right");
        Ok(target)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C.UTF-8");
        command
    }

    fn run(&self, command: &mut Command) -> Result<Ran, Error> {
        let program = PathBuf::from(command.get_program());
        command::run(command, |_| true).map_err(at("run", &program))
    }

    /// As `run`, while `look` is called every now and then.
    fn run_watching(
        &self,
        command: &mut Command,
        look: impl Fn() + Send + Sync,
    ) -> Result<Ran, Error> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(atomic::Ordering::Relaxed) {
                    look();
                    std::thread::park_timeout(LOOK_INTERVAL);
                }
            });
            let ran = self.run(command);
            done.store(true, atomic::Ordering::Relaxed);
            watcher.thread().unpark();
            ran
        })
    }

    fn stdout(&self, command: &mut Command) -> Result<String, Error> {
        let program = PathBuf::from(command.get_program());
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(at("run", &program))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        fs::write(path, text).map_err(at("write", path))
    }
}

fn parse_packages(text: &str) -> Vec<Package> {
    let stanzas = text.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| {
            let mut lines = stanza.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned)
        };
        Some(Package {
            name: field("Package")?,
            version: field("Version")?,
            len_bytes: field("Size")?.parse().ok()?,
            sha256: field("SHA256")?,
        })
    });
    stanzas.collect()
}

/// Debian's order of versions.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let is = |relation: &str| {
        let mut dpkg = Command::new("dpkg");
        dpkg.args(["--compare-versions", a, relation, b]);
        command::output_of(&mut dpkg).is_some()
    };
    if a == b {
        Ordering::Equal
    } else if is("lt") {
        Ordering::Less
    } else if is("gt") {
        Ordering::Greater
    } else {
        Ordering::Equal
    }
}

fn check_hash(file: &Path, expected: &str) -> Result<(), Error> {
    let found = hash_file(file).map_err(at("read", file))?;
    if found == expected {
        return Ok(());
    }
    fs::remove_file(file).map_err(at("remove", file))?;
    Err(Error::Hash {
        path: file.to_owned(),
        found,
        expected: expected.to_owned(),
    })
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(dir).into_iter().flatten();
    listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect()
}

fn len_bytes_in(dir: &Path) -> u64 {
    let files = files_in(dir).into_iter();
    files
        .filter_map(|file| Some(fs::metadata(file).ok()?.len()))
        .sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_of_the_list_become_packages() {
        let text = "Package: linux-source-7.3\nVersion: 7.3.4-1\nFilename: pool/x.deb\n\
                    Size: 166780612\nSHA256: 00ff\nDescription: text\n more: text\n\n\
                    Package: half\nVersion: 1\n";
        let packages = parse_packages(text);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].name, "linux-source-7.3");
        assert_eq!(packages[0].len_bytes, 166_780_612);
        assert_eq!(packages[0].sha256, "00ff");
    }

    #[test]
    fn a_file_with_another_hash_is_refused_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.deb");
        fs::write(&file, "abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check_hash(&file, right).unwrap();
        let error = check_hash(&file, "00ff").unwrap_err();
        assert!(matches!(error, Error::Hash { .. }), "{error}");
        assert!(!file.exists());
    }
}
