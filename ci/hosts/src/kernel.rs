//! The software host's kernel: a distribution's own, unpacked from its package and
//! never installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use provision::debian::{self, Archive, Package};
use provision::{Cache, Key, Progress, cache};

/// Kind of the cache entry.
const KIND: &str = "soft-npt-kernel";
/// The version that the software host was tried with.
const PINNED: &str = "linux-image-6.12.117+deb12-cloud-amd64";
/// What is taken when the archive has moved on.
const PATTERN: &str = r"linux-image-6\.12\.[0-9]+\+deb1[23](\.[0-9]+)?-cloud-amd64";
/// Where to look, in this order: one suite may have left the archive.
const SUITES: [&str; 3] = ["bookworm-security", "trixie-security", "trixie"];
/// What the host needs beyond what is built in, in the order of loading.
const MODULES: [&str; 3] = [
    "kernel/virt/lib/irqbypass.ko",
    "kernel/arch/x86/kvm/kvm.ko",
    "kernel/arch/x86/kvm/kvm-amd.ko",
];
/// Of soft-ept's, the last one is another.
const INTEL: &str = "kernel/arch/x86/kvm/kvm-intel.ko";
/// In the cache entry: the kernel, and the name of its package.
const KERNEL: &str = "vmlinuz";
const ORIGIN: &str = "package.txt";
/// Changes when what is made of the package changes.
const RECIPE: &str = "2: vmlinuz and uncompressed irqbypass, kvm, kvm-amd, kvm-intel";

/// A kernel to boot the software host with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockKernel {
    /// Package and version.
    pub origin: String,
    /// bzImage.
    pub image: PathBuf,
    /// Modules in the order of loading, for an AMD CPU.
    pub modules: Vec<PathBuf>,
    /// Modules in the order of loading, for an Intel CPU.
    pub intel_modules: Vec<PathBuf>,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The archive failed.
    #[error("the software host's kernel could not be fetched")]
    Archive(#[from] debian::Error),
    /// No suite has one.
    #[error(
        "none of the suites {} has a package {PATTERN}; \
         look for a newer version of this program",
        SUITES.join(", ")
    )]
    None,
    /// The package is not as expected.
    #[error("unpack {package}: {what}")]
    Unpack {
        /// File.
        package: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file could not be written or moved.
    #[error("cannot make {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

fn key() -> Key {
    Key::new()
        .text("package", PINNED)
        .text("or else", PATTERN)
        .text("suites", &SUITES.join(" "))
        .text("recipe", RECIPE)
}

/// The kernel if the cache has it; no network, no waiting.
pub fn cached(cache: &Cache) -> Option<StockKernel> {
    cache.get(KIND, &key()).map(|entry| in_entry(&entry))
}

/// The kernel, fetched if the cache does not have it.
///
/// # Errors
/// [`Error`], when it can neither be found nor fetched.
pub fn ensure(cache: &Cache, progress: &Progress) -> Result<StockKernel, Error> {
    let entry = cache.get_or_build(KIND, &key(), progress, |dir| {
        let package = fetch(cache, dir, progress)?;
        unpack(&package, dir)
    })?;
    Ok(in_entry(&entry))
}

fn in_entry(entry: &Path) -> StockKernel {
    let origin = fs::read_to_string(entry.join(ORIGIN)).unwrap_or_default();
    StockKernel {
        origin: origin.trim_end().to_owned(),
        image: entry.join(KERNEL),
        modules: MODULES.map(|module| entry.join(file_name(module))).into(),
        intel_modules: [MODULES[0], MODULES[1], INTEL]
            .map(|module| entry.join(file_name(module)))
            .into(),
    }
}

/// The last part of a module's path.
fn file_name(module: &str) -> &str {
    module.rsplit('/').next().unwrap_or(module)
}

fn fetch(cache: &Cache, dir: &Path, progress: &Progress) -> Result<PathBuf, Error> {
    let mut failure = None;
    for suite in SUITES {
        let found = Archive::open(cache, &[suite], progress)
            .and_then(|archive| Ok((archive.find(PATTERN)?, archive)));
        let (packages, archive) = match found {
            Ok(found) => found,
            Err(error) => {
                failure.get_or_insert(error);
                continue;
            }
        };
        let Some(package) = best(&packages) else {
            continue;
        };
        if package.name != PINNED {
            progress.say(format!(
                "{PINNED} has left {suite}; the software host gets {} instead",
                package.name
            ));
        }
        let file = archive.download(package, dir, progress)?;
        let origin = dir.join(ORIGIN);
        fs::write(&origin, format!("{} {}\n", package.name, package.version)).map_err(
            |source| Error::Io {
                path: origin,
                source,
            },
        )?;
        return Ok(file);
    }
    Err(failure.map_or(Error::None, Error::Archive))
}

/// The pinned one, else the newest; the archive lists the newest first.
fn best(packages: &[Package]) -> Option<&Package> {
    let pinned = packages.iter().find(|package| package.name == PINNED);
    pinned.or_else(|| packages.first())
}

fn unpack(package: &Path, dir: &Path) -> Result<(), Error> {
    let tree = dir.join("tree");
    let wrong = |what: String| Error::Unpack {
        package: package.to_owned(),
        what,
    };
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree)).map_err(wrong)?;
    let image = only_entry(&tree.join("boot"), "vmlinuz-").map_err(wrong)?;
    rename(&image, &dir.join(KERNEL))?;
    // Debian 13 may have merged /lib into /usr/lib in its packages.
    let modules = [tree.join("lib/modules"), tree.join("usr/lib/modules")]
        .iter()
        .find_map(|folder| only_entry(folder, "6.").ok())
        .ok_or_else(|| wrong("it holds no modules".to_owned()))?;
    for module in MODULES.into_iter().chain([INTEL]) {
        take_module(&modules.join(module), &dir.join(file_name(module))).map_err(wrong)?;
    }
    let remove = |path: &Path, result: io::Result<()>| {
        result.map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })
    };
    remove(&tree, fs::remove_dir_all(&tree))?;
    remove(package, fs::remove_file(package))
}

/// Modules are compressed in the package. Uncompressed they load faster in an
/// emulated CPU.
fn take_module(module: &Path, target: &Path) -> Result<(), String> {
    let mut compressed = module.as_os_str().to_owned();
    compressed.push(".xz");
    if module.exists() {
        return fs::rename(module, target).map_err(|error| error.to_string());
    }
    run(Command::new("xz").arg("-d").arg(&compressed))?;
    fs::rename(module, target).map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{}: {}: {}",
        command.get_program().to_string_lossy(),
        output.status,
        said.trim_end()
    ))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::Io {
        path: to.to_owned(),
        source,
    })
}

/// The one entry of a folder whose name starts so.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| format!("{} holds no {prefix}*", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: String::new(),
            len_bytes: 0,
            sha256: String::new(),
        }
    }

    #[test]
    fn the_pinned_kernel_goes_before_a_newer_one() {
        let newer = package("linux-image-6.12.200+deb12-cloud-amd64");
        let both = [newer.clone(), package(PINNED)];
        assert_eq!(best(&both).map(|found| found.name.as_str()), Some(PINNED));
        assert_eq!(best(&both[..1]), Some(&newer));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn a_package_without_a_kernel_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("empty.deb");
        fs::write(&file, "!<arch>\n").expect("written");
        let error = unpack(&file, folder.path()).expect_err("no kernel");
        assert!(error.to_string().contains("empty.deb"), "{error}");
    }
}
