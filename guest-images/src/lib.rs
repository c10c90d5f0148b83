//! Builds what the guest boots: its kernel, the driver under test, its initramfs.
//!
//! Everything is kept in the cache, keyed by all that shapes it; [`ensure`] builds
//! what is not there yet and is quick when everything is. A warm run needs neither
//! network nor apt.
#![forbid(unsafe_code)]

pub mod agent;
mod config;
mod error;
mod flavour;
pub mod handover;
pub mod initramfs;
mod kernel;
mod module;
mod prune;
mod run;
mod source;
mod text;
mod toolchain;
mod types;
mod versions;
pub mod workspace;

use std::path::{Path, PathBuf};

use provision::cache::{Cleaned, Entry, Keep};
use provision::{Cache, Consent, Key, Progress};
use serde::{Deserialize, Serialize};

pub use error::Error;
pub use flavour::{Flavour, UnknownFlavour};
pub use module::{build_module, ensure_modules};

use module::Driver;
use toolchain::Toolchain;
use versions::Versions;

/// Where the module is in the guest.
pub const MODULE_PATH: &str = "/lib/modules/mapwitness.ko";

/// What is to be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// A kernel tree to build instead of the pinned source; it is not changed.
    pub kernel_src: Option<PathBuf>,
    /// What the kernel is built to tell, besides being right.
    pub flavour: Flavour,
    /// Variant of the driver, as listed in `guest-module/variants.txt`.
    pub driver_variant: String,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            kernel_src: None,
            flavour: Flavour::Plain,
            driver_variant: "good".to_owned(),
        }
    }
}

/// A bootable guest. All paths lead into the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImage {
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The kernel: an uncompressed ELF image with a PVH entry point.
    pub vmlinux: PathBuf,
    /// Where its functions and variables lie.
    pub system_map: PathBuf,
    /// How the structures lie that the host reads in its memory, in BTF.
    pub types: PathBuf,
    /// Where the code of its mm/ lies, in a kernel that tells which of its code ran: lines
    /// of two addresses in hexadecimal, the second one behind the last byte.
    pub mm_text: Option<PathBuf>,
    /// The kernel's final configuration.
    pub config: PathBuf,
    /// What is needed to build modules for this kernel.
    pub kernel_tree: PathBuf,
    /// The agent as /init, and the module at [`MODULE_PATH`].
    pub initramfs: PathBuf,
    /// The driver under test.
    pub module: PathBuf,
}

/// The image that `request` asks for, built as far as it is not there yet.
///
/// # Errors
/// When a tool, a source or the network is missing, or a build fails.
pub fn ensure(
    request: &Request,
    consent: Consent,
    progress: &Progress,
) -> Result<GuestImage, Error> {
    let root = workspace::root()?;
    let versions = Versions::read(&root)?;
    let driver_dir = root.join("guest-module");
    module::check_variant(&driver_dir, &request.driver_variant)?;
    let compiler = request.flavour.compiler();
    toolchain::require(&versions, compiler, consent, progress)?;
    let toolchain = Toolchain::find(&versions, compiler)?;
    let cache = Cache::open()?;
    let kernel = kernel::Builder {
        root: &root,
        versions: &versions,
        toolchain: &toolchain,
        flavour: request.flavour,
        cache: &cache,
        progress,
    }
    .ensure(request.kernel_src.as_deref())?;
    let types = types::ensure(&root, &kernel, &toolchain, &cache, progress)?;
    let driver = Driver {
        dir: driver_dir,
        kernel: &kernel,
        toolchain: &toolchain,
    };
    let (module, module_key) = driver.ensure(&request.driver_variant, &cache, progress)?;
    let initramfs = initramfs_with(&root, &module, &module_key, &cache, progress)?;
    Ok(GuestImage {
        release: kernel.release()?,
        vmlinux: kernel.vmlinux(),
        system_map: kernel.system_map(),
        types,
        mm_text: request.flavour.has_coverage().then(|| kernel.mm_text()),
        config: kernel.config(),
        kernel_tree: kernel.tree(),
        initramfs,
        module,
    })
}

/// The driver's variants: `guest-module/variants.txt` as it is.
///
/// # Errors
/// When it cannot be read.
pub fn variants() -> Result<String, Error> {
    let path = workspace::root()?.join("guest-module/variants.txt");
    std::fs::read_to_string(&path).map_err(Error::at("read", &path))
}

fn initramfs_with(
    root: &Path,
    module: &Path,
    module_key: &Key,
    cache: &Cache,
    progress: &Progress,
) -> Result<PathBuf, Error> {
    let agent_key = agent::add_to_key(Key::new(), root)?;
    let key = Key::new()
        .text("module", &module_key.hex())
        .text("agent", &agent_key.hex());
    let file = |entry: PathBuf| entry.join("initramfs.cpio");
    if let Some(entry) = cache.get("initramfs", &key) {
        return Ok(file(entry));
    }
    let agent = cache.get_or_build("agent", &agent_key, progress, |dir| {
        Ok::<(), Error>(agent::build(root, &dir.join("agent"), progress)?)
    })?;
    let mut entries = initramfs::Entry::of_agent(agent.join("agent"));
    entries.push(initramfs::Entry::file(MODULE_PATH, 0o644, module));
    let entry = cache.get_or_build("initramfs", &key, progress, |dir| {
        Ok::<(), Error>(initramfs::write(&entries, &file(dir.to_owned()))?)
    })?;
    Ok(file(entry))
}

/// The image with `modules` besides its own; gives their paths in the guest, too.
///
/// # Errors
/// When one of them is no module, or the image cannot be written.
pub fn with_modules(
    image: &GuestImage,
    modules: &[PathBuf],
    progress: &Progress,
) -> Result<(GuestImage, Vec<String>), Error> {
    let mut key = Key::new().file("initramfs", &image.initramfs)?;
    let mut entries = Vec::new();
    let mut paths = Vec::new();
    for module in modules {
        let name = module::file_name(module)?;
        let path = format!("/lib/modules/{name}");
        key = key.file(&path, module)?;
        entries.push(initramfs::Entry::file(path.clone(), 0o644, module));
        paths.push(path);
    }
    let file = |entry: PathBuf| entry.join("initramfs.cpio");
    let cache = Cache::open()?;
    let entry = cache.get_or_build("initramfs", &key, progress, |dir| {
        let out = file(dir.to_owned());
        Ok::<(), Error>(initramfs::append(&image.initramfs, &entries, &out)?)
    })?;
    let image = GuestImage {
        initramfs: file(entry),
        ..image.clone()
    };
    Ok((image, paths))
}

/// Everything that was built and is kept.
///
/// # Errors
/// When there is no cache folder or it cannot be read.
pub fn list() -> Result<Vec<Entry>, Error> {
    Ok(Cache::open()?.list()?)
}

/// Removes what `keep` does not cover.
///
/// # Errors
/// When there is no cache folder or something in it cannot be removed.
pub fn clean(keep: Keep) -> Result<Cleaned, Error> {
    Ok(Cache::open()?.clean(keep)?)
}
