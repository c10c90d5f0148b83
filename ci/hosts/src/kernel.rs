//! The software host's kernel: a distribution's own, unpacked from its packages and
//! never installed.

mod early;
mod known;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use guest_images::initramfs;
use provision::debian::{self, Archive, Package};
use provision::{Cache, Key, Progress, cache};

pub use early::{INIT_VARIABLE, ROOT_VARIABLE};
pub use known::KERNEL_VARIABLE;
use known::{KNOWN, Known, wished};

/// Kind of the cache entry.
const KIND: &str = "soft-npt-kernel";
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
/// Parameters for the kernel of any software host. Nobody but ourselves is in there from whom
/// something would have to be kept, and no module whose signature counts; an emulator takes
/// as long over each such protection as over the work itself. Where things lie in memory is
/// still left to chance.
pub const ALONE: &str = "mitigations=off hardened_usercopy=off init_on_alloc=0 \
     randomize_kstack_offset=off audit=0 lsm=lockdown \
     initcall_blacklist=jent_mod_init,load_system_certificate_list";

/// Changes when what is made of the package changes.
const RECIPE: &str =
    "3: vmlinuz, uncompressed irqbypass, kvm, kvm-amd, kvm-intel, and early user space";
/// In the cache entry: early user space, where the kernel needs one.
const EARLY: &str = "early.cpio";

/// A kernel to boot the software host with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockKernel {
    /// Package and version.
    pub origin: String,
    /// bzImage.
    pub image: PathBuf,
    /// Modules in the order of loading, for an AMD CPU.
    pub modules: Vec<PathBuf>,
    /// Early user space, where the kernel cannot reach its root file system by itself.
    pub initramfs: Option<PathBuf>,
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
        "none of the suites {suites} has a package {pattern}; look for a newer version of \
             this program"
    )]
    None {
        /// What was looked for.
        pattern: String,
        /// Where.
        suites: String,
    },
    /// The environment asks for a kernel that is not known.
    #[error(
        "{KERNEL_VARIABLE}: no kernel `{series}`; there are {}",
        KNOWN.each_ref().map(|known| known.series).join(", ")
    )]
    Unknown {
        /// What it asks for.
        series: String,
    },
    /// Early user space could not be packed.
    #[error("early user space for the software host")]
    Early(#[source] initramfs::Error),
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

fn key(known: &Known) -> Key {
    Key::new()
        .text("packages", &known.packages.join(" "))
        .text("version", known.pinned)
        .text("or else", known.pattern)
        .text("suites", &known.all_suites())
        .text("early modules", &known.early_modules.join(" "))
        .text("recipe", RECIPE)
}

/// The kernel that is asked for if the cache has it; no network, no waiting.
pub fn cached(cache: &Cache) -> Option<StockKernel> {
    let known = wished().ok()?;
    cache
        .get(KIND, &key(known))
        .map(|entry| in_entry(known, &entry))
}

/// The kernel that is asked for, fetched if the cache does not have it.
///
/// # Errors
/// [`Error`], when it can neither be found nor fetched.
pub fn ensure(cache: &Cache, progress: &Progress) -> Result<StockKernel, Error> {
    let known = wished()?;
    let entry = cache.get_or_build(KIND, &key(known), progress, |dir| {
        let packages = fetch(known, cache, dir, progress)?;
        unpack(known, &packages, dir)
    })?;
    Ok(in_entry(known, &entry))
}

fn in_entry(known: &Known, entry: &Path) -> StockKernel {
    let origin = fs::read_to_string(entry.join(ORIGIN)).unwrap_or_default();
    StockKernel {
        origin: origin.trim_end().to_owned(),
        image: entry.join(KERNEL),
        modules: MODULES.map(|module| entry.join(file_name(module))).into(),
        initramfs: (!known.early_modules.is_empty()).then(|| entry.join(EARLY)),
        intel_modules: [MODULES[0], MODULES[1], INTEL]
            .map(|module| entry.join(file_name(module)))
            .into(),
    }
}

/// The last part of a module's path.
fn file_name(module: &str) -> &str {
    module.rsplit('/').next().unwrap_or(module)
}

fn fetch(
    known: &Known,
    cache: &Cache,
    dir: &Path,
    progress: &Progress,
) -> Result<Vec<PathBuf>, Error> {
    let mut failure = None;
    for suites in known.suites {
        let found = Archive::open(cache, suites, progress)
            .and_then(|archive| Ok((archive.find(&known.name_pattern())?, archive)));
        let (packages, archive) = match found {
            Ok(found) => found,
            Err(error) => {
                failure.get_or_insert(error);
                continue;
            }
        };
        let pinned = known.pinned_name();
        let Some(package) = best(&pinned, &packages) else {
            continue;
        };
        if package.name != pinned {
            progress.say(format!(
                "{pinned} has left {}; the software host gets {} instead",
                suites.join(", "),
                package.name
            ));
        }
        let origin = dir.join(ORIGIN);
        fs::write(&origin, format!("{} {}\n", package.name, package.version))
            .map_err(io_at(&origin))?;
        let mut files = vec![archive.download(package, dir, progress)?];
        for name in others(known, &package.name) {
            let found = archive.find(&regex_of(&name))?;
            let other = found.first().ok_or_else(|| Error::None {
                pattern: name,
                suites: suites.join(", "),
            })?;
            files.push(archive.download(other, dir, progress)?);
        }
        return Ok(files);
    }
    Err(failure.map_or_else(
        || Error::None {
            pattern: known.name_pattern(),
            suites: known.all_suites(),
        },
        Error::Archive,
    ))
}

/// What is needed besides the package with the image.
fn others(known: &Known, image_package: &str) -> Vec<String> {
    let mut names = known.companions(image_package);
    if !known.early_modules.is_empty() {
        names.push(early::SHELL_PACKAGE.to_owned());
    }
    names
}

/// A regular expression that matches a package's name and nothing else.
fn regex_of(name: &str) -> String {
    name.replace('.', r"\.").replace('+', r"\+")
}

/// The pinned one, else the newest; the archive lists the newest first.
fn best<'p>(pinned: &str, packages: &'p [Package]) -> Option<&'p Package> {
    let found = packages.iter().find(|package| package.name == pinned);
    found.or_else(|| packages.first())
}

fn unpack(known: &Known, packages: &[PathBuf], dir: &Path) -> Result<(), Error> {
    let tree = dir.join("tree");
    let first = packages.first().cloned().unwrap_or_default();
    let wrong = |what| Error::Unpack {
        package: first.clone(),
        what,
    };
    for package in packages {
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree)).map_err(wrong)?;
    }
    // Debian 13 may have merged /lib into /usr/lib in its packages.
    let modules = [tree.join("lib/modules"), tree.join("usr/lib/modules")]
        .iter()
        .find_map(|folder| only_entry(folder, "").ok())
        .ok_or_else(|| wrong("it holds no modules".to_owned()))?;
    let image = only_entry(&tree.join("boot"), "vmlinuz-")
        .or_else(|_| only_entry(&modules, "vmlinuz"))
        .map_err(wrong)?;
    rename(&image, &dir.join(KERNEL))?;
    for module in MODULES.into_iter().chain([INTEL]) {
        take_module(&modules.join(module), &dir.join(file_name(module))).map_err(wrong)?;
    }
    if !known.early_modules.is_empty() {
        pack_early(known, &tree, &modules, dir, wrong)?;
    }
    fs::remove_dir_all(&tree).map_err(io_at(&tree))?;
    for package in packages {
        fs::remove_file(package).map_err(io_at(package))?;
    }
    Ok(())
}

/// Early user space out of the unpacked packages.
fn pack_early(
    known: &Known,
    tree: &Path,
    modules: &Path,
    dir: &Path,
    wrong: impl Fn(String) -> Error,
) -> Result<(), Error> {
    let shell = early::SHELL
        .map(|place| tree.join(place))
        .into_iter()
        .find(|place| place.is_file())
        .ok_or_else(|| wrong("there is no shell among the packages".to_owned()))?;
    let mut taken = Vec::new();
    for module in known.early_modules {
        let target = tree.join(file_name(module));
        take_module(&modules.join(module), &target).map_err(&wrong)?;
        taken.push(target);
    }
    early::pack(&shell, &taken, &dir.join(EARLY))
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
    fs::rename(from, to).map_err(io_at(to))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
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
        let pinned = KNOWN[0].pinned_name();
        let newer = package("linux-image-6.12.200+deb12-cloud-amd64");
        let both = [newer.clone(), package(&pinned)];
        assert_eq!(best(&pinned, &both), Some(&both[1]));
        assert_eq!(best(&pinned, &both[..1]), Some(&newer));
        assert_eq!(best(&pinned, &[]), None);
    }

    #[test]
    fn a_package_without_a_kernel_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("empty.deb");
        fs::write(&file, "!<arch>\n").expect("written");
        let error = unpack(&KNOWN[0], &[file], folder.path()).expect_err("no kernel");
        assert!(error.to_string().contains("empty.deb"), "{error}");
    }
}
