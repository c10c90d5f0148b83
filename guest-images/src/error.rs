//! Why an image could not be made.

use std::io;
use std::path::{Path, PathBuf};

use provision::{cache, debian, packages};

use crate::{agent, initramfs};

/// Why a kernel, module or initramfs could not be made; every text says what to
/// do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project's sources are not where they were.
    #[error(
        "the project's sources are not in {root}: guest images are built from them. \
         Set MAPWITNESS_SOURCE to the folder of the clone"
    )]
    NoSource {
        /// Where they should be.
        root: PathBuf,
    },
    /// The file of versions is malformed.
    #[error("{path} does not say what it should")]
    Versions {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The compiler does not describe types.
    #[error(
        "{object} has no .BTF section: gcc 12 or newer makes one for -gbtf, so install Debian's \
         own gcc"
    )]
    NoTypes {
        /// What it compiled.
        object: PathBuf,
    },
    /// Nothing of a folder was found in the kernel that was linked.
    #[error(
        "{vmlinux} has no function of the object files in {dir}: the kernel's tree is not what \
         this builds on, and coverage of that folder cannot be told apart"
    )]
    NoFunctions {
        /// Where the object files are.
        dir: PathBuf,
        /// The kernel.
        vmlinux: PathBuf,
    },
    /// `--kernel-src` names something that is no kernel tree.
    #[error(
        "{path} is no kernel source tree: {missing} is not in it. --kernel-src takes the top \
         folder of an unpacked kernel"
    )]
    NoKernelTree {
        /// The folder given.
        path: PathBuf,
        /// A file that every tree has.
        missing: &'static str,
    },
    /// The pinned source file is on the mirror with other content.
    #[error(
        "the mirror's {package} {version} has SHA-256 {found}, but guest-images/versions.toml \
         pins {pinned}: one of the two was tampered with or is out of date"
    )]
    PinnedHash {
        /// Package name.
        package: String,
        /// Its version.
        version: String,
        /// Hash in the mirror's signed list.
        found: String,
        /// Hash in the file of versions.
        pinned: String,
    },
    /// No kernel source that would do.
    #[error(
        "suite {suite} of the mirror has neither {package} nor a package that matches \
         {successors}; update guest-images/versions.toml, or give a kernel tree with \
         --kernel-src DIR"
    )]
    NoKernelSource {
        /// The suite searched.
        suite: String,
        /// The pinned package.
        package: String,
        /// The pattern of its successors.
        successors: String,
    },
    /// An option that was asked for is not in the kernel's configuration.
    #[error(
        "the kernel's configuration does not come out as asked: {details}. A dependency is \
         missing or the option is gone in this kernel: see its `depends on` in the tree's Kconfig \
         files, and add to or correct the fragment"
    )]
    DroppedOption {
        /// Each option with its fragment, wanted and found.
        details: String,
    },
    /// The kernel's build cannot use the Rust toolchain.
    #[error("the kernel's build refuses the Rust toolchain: {advice}\n{output}")]
    RustAvailable {
        /// What to do.
        advice: String,
        /// What `make rustavailable` said.
        output: String,
    },
    /// No usable Rust compiler with library sources.
    #[error(
        "no Rust compiler from {minimum} on with its library's sources is found (tried: {tried}). \
         Install Debian's {packages}, or, where rustup is in use: rustup component add rust-src"
    )]
    NoRust {
        /// Oldest version that will do.
        minimum: String,
        /// What was looked at.
        tried: String,
        /// The packages that bring it.
        packages: String,
    },
    /// Packages are missing, the Rust compiler among them.
    #[error(
        "the tools that build the guest's kernel could not be installed. (Debian's own package \
         rustup excludes rustc-web and rust-web-src: where it is installed, `rustup component add \
         rust-src` makes its compiler do.)"
    )]
    RustPackages {
        /// Why not.
        source: packages::Error,
    },
    /// No usable libclang.
    #[error("no libclang of LLVM {releases} is found; install Debian's {packages}")]
    NoLibclang {
        /// Releases that will do.
        releases: String,
        /// The packages that bring it.
        packages: String,
    },
    /// There is no clang, or not all of what belongs to it.
    #[error(
        "a kernel of this flavour is compiled by clang of LLVM {releases}, with its linker and \
         tools, and there is none; install {packages}"
    )]
    NoClang {
        /// Releases that will do.
        releases: String,
        /// The packages that bring it.
        packages: String,
    },
    /// bindgen could not be built.
    #[error(
        "`cargo install bindgen-cli` failed ({status}). Without network it needs the crate in \
         cargo's own cache; when the network is up, try again\n{output}"
    )]
    Bindgen {
        /// How cargo ended.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// make failed.
    #[error("{what} failed ({status}); the whole output is in {log}\n{output}")]
    Make {
        /// What was built.
        what: String,
        /// How make ended.
        status: String,
        /// File with the whole output.
        log: PathBuf,
        /// The part of it that matters.
        output: String,
    },
    /// A folder without a module.
    #[error(
        "no module comes out of {dir}: its Kbuild must say which, such as `obj-m := example.o` \
         for example.c or example.rs beside it", dir = dir.display()
    )]
    NoModule {
        /// The folder.
        dir: PathBuf,
    },
    /// A file that was given as a module.
    #[error(
        "{path} is no kernel module: build one with `mapwitness images module DIR`",
        path = path.display()
    )]
    NotModule {
        /// The file.
        path: PathBuf,
    },
    /// There is no such variant of the driver.
    #[error("there is no driver variant {variant:?}; there are: {known}")]
    UnknownVariant {
        /// The one asked for.
        variant: String,
        /// Those in guest-module/variants.txt.
        known: String,
    },
    /// The kernel's sources could not be unpacked.
    #[error("unpacking {package} failed: {reason}; remove it with `mapwitness images clean`")]
    Unpack {
        /// The package's file.
        package: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A program could not be started.
    #[error("run {program}: is it installed and in PATH?")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or folder could not be used.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A package is missing and could not be installed.
    #[error(transparent)]
    Packages(#[from] packages::Error),
    /// The Debian archive could not be used.
    #[error(transparent)]
    Debian(#[from] debian::Error),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The agent could not be built.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// The initramfs could not be packed.
    #[error(transparent)]
    Initramfs(#[from] initramfs::Error),
}

impl Error {
    /// Turns a system's answer about `path` into an error.
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
