//! QEMU and its file server: the system's own, or unpacked where they cannot be
//! installed.
//!
//! Debian's QEMU does not install beside some packages of newer releases (its tools from
//! backports, for one), and nothing is ever removed for it. It runs from a folder as
//! well, with the libraries that came along.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use provision::{Cache, Consent, Key, Progress, cache, packages};

use crate::needs::{self, QEMU, find_program};
use crate::virtiofsd;

/// Kind of the cache entry.
const KIND: &str = "qemu";
/// What is unpacked, by the names of the release that has them. Debian 12 ships
/// virtiofsd with QEMU, Debian 13 on its own.
const PACKAGES: [&[&str]; 2] = [
    &["qemu-system-x86", "virtiofsd"],
    &["qemu-system-x86", "qemu-system-common"],
];
/// Changes when what is made of the packages changes.
const RECIPE: &str = "1: tree, and a script for each program";
/// Folders of firmware that QEMU looks for at fixed places.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];
/// Folders of libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// The two programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// Emulator.
    pub qemu: PathBuf,
    /// File server.
    pub virtiofsd: PathBuf,
}

/// Why they are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They can neither be installed nor unpacked.
    #[error("the software host needs packages that are not there")]
    Packages(#[from] packages::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A program is missing although its package is there.
    #[error("{program} is not in the packages {list}")]
    Program {
        /// Which.
        program: &'static str,
        /// Where it should be.
        list: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// The system's own, or those that were unpacked earlier.
pub fn found(cache: Option<&Cache>) -> Option<Emulator> {
    let system = || {
        Some(Emulator {
            qemu: find_program(QEMU)?,
            virtiofsd: virtiofsd::find()?,
        })
    };
    system().or_else(|| Some(in_entry(&cache?.get(KIND, &key())?)))
}

/// The QEMU that software hosts run in, if there is one: the system's or an unpacked one.
pub fn qemu(cache: &Cache) -> Option<PathBuf> {
    let program = found(Some(cache))?.qemu;
    program.exists().then_some(program)
}

/// Installs them; where that fails, unpacks them into the cache.
///
/// # Errors
/// [`Error`], when they are to be had neither way.
pub fn ensure(cache: &Cache, consent: Consent, progress: &Progress) -> Result<Emulator, Error> {
    if let Some(emulator) = found(Some(cache)) {
        return Ok(emulator);
    }
    match packages::require(&needs::emulator(), consent, progress) {
        Ok(()) => {}
        Err(error @ packages::Error::Install { .. }) => {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default();
            progress.say(format!(
                "QEMU cannot be installed here ({why}); it is unpacked into the cache instead"
            ));
            let entry = cache.get_or_build(KIND, &key(), progress, |dir| make(dir, progress))?;
            return Ok(in_entry(&entry));
        }
        Err(error) => return Err(error.into()),
    }
    found(Some(cache)).ok_or_else(|| missing(QEMU))
}

fn missing(program: &'static str) -> Error {
    let needs = needs::emulator();
    let names: Vec<String> = needs.iter().map(ToString::to_string).collect();
    Error::Program {
        program,
        list: names.join(", "),
    }
}

fn key() -> Key {
    // Another release has other libraries below the unpacked ones.
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    Key::new()
        .text(
            "packages",
            &PACKAGES.map(|names| names.join(" ")).join(", or "),
        )
        .text("release", &release)
        .text("recipe", RECIPE)
}

fn in_entry(entry: &Path) -> Emulator {
    Emulator {
        qemu: entry.join("bin").join(QEMU),
        virtiofsd: entry.join("bin/virtiofsd"),
    }
}

fn make(dir: &Path, progress: &Progress) -> Result<(), Error> {
    let tree = dir.join("tree");
    fs::create_dir_all(dir.join("bin")).map_err(at(&dir.join("bin")))?;
    let [first, second] = PACKAGES;
    packages::unpack(first, &tree, progress)
        .or_else(|_| packages::unpack(second, &tree, progress))?;
    let firmware = FIRMWARE.map(|folder| format!(r#"-L "$tree/{folder}""#));
    let qemu = format!("usr/bin/{QEMU}");
    script(dir, QEMU, &qemu, &firmware.join(" "))?;
    let server = virtiofsd::PLACES
        .iter()
        .map(|place| place.trim_start_matches('/'))
        .find(|place| tree.join(place).exists())
        .ok_or_else(|| missing("virtiofsd"))?;
    script(dir, "virtiofsd", server, "")
}

/// A script that finds the tree beside itself: the folder is moved when it is complete.
fn script(dir: &Path, name: &str, program: &str, options: &str) -> Result<(), Error> {
    let libraries = LIBRARIES.map(|folder| format!("$tree/{folder}")).join(":");
    let text = format!(
        "#!/bin/sh\n\
         tree=$(dirname -- \"$(dirname -- \"$0\")\")/tree\n\
         export LD_LIBRARY_PATH=\"{libraries}\"\n\
         exec \"$tree/{program}\" {options} \"$@\"\n"
    );
    let path = dir.join("bin").join(name);
    fs::write(&path, text).map_err(at(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(at(&path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn an_unpacked_program_finds_its_tree_wherever_it_was_moved() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("made");
        fs::create_dir_all(dir.join("bin")).expect("made");
        fs::create_dir_all(dir.join("tree/usr/bin")).expect("made");
        std::os::unix::fs::symlink("/bin/echo", dir.join("tree/usr/bin/say")).expect("linked");
        script(&dir, "say", "usr/bin/say", r#"-n "$tree""#).expect("written");
        let moved = folder.path().join("moved");
        fs::rename(&dir, &moved).expect("moved");
        let said = Command::new(moved.join("bin/say"))
            .arg("word")
            .output()
            .expect("run");
        let expected = format!("{}/tree word", moved.display());
        assert_eq!(String::from_utf8_lossy(&said.stdout), expected);
    }
}
