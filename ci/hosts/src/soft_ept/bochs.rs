//! The emulator, built from source: what distributions package is built with its
//! debugger, which makes it two to three times slower. That debugger is of use, too,
//! as a judge of what is found in page tables.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use provision::debian::{self, PoolFile};
use provision::{Cache, Key, Progress, cache, command};

/// Kind of the cache entry.
const KIND: &str = "bochs";
/// The program in the cache entry.
const PROGRAM: &str = "bochs";
/// A source archive to build instead of the pinned one.
pub const SOURCE_VARIABLE: &str = "MAPWITNESS_BOCHS_SRC";
/// Debian's source archive of the version that was tried. It is upstream's without
/// firmware binaries, none of which is used here.
const SOURCE: PoolFile = PoolFile {
    path: "pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz",
    sha256: "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b",
    len_bytes: 3_896_488,
};
/// Common to both flavours. Level 6 is the newest; version 2 of VMX has EPT. AVX-512
/// stands there because version 3.0 does not compile with AVX alone.
const OPTIONS: [&str; 8] = [
    "--with-nogui",
    "--enable-cpu-level=6",
    "--enable-x86-64",
    "--enable-vmx=2",
    "--enable-avx",
    "--enable-evex",
    "--disable-plugins",
    "--disable-docbook",
];
const FAST: [&str; 3] = [
    "--enable-all-optimizations",
    "--enable-handlers-chaining",
    "--disable-debugger",
];
const WITH_DEBUGGER: [&str; 3] = [
    "--enable-repeat-speedups",
    "--enable-debugger",
    "--disable-debugger-gui",
];
const FLAGS: &str = "-O3 -g0";
/// What is mended in the source, which is also part of the key: when a guest is entered
/// with its interrupts off, version 3.0 holds the host's back as well, though they are
/// to end the guest's run (SDM volume 3C, 27.4.1, external-interrupt exiting). A guest
/// that waits so for its host would wait for ever.
const MENDED: (&str, &str, &str) = (
    "cpu/vmx.cc",
    "  BX_CPU_THIS_PTR in_vmx_guest = true;\n",
    "  BX_CPU_THIS_PTR in_vmx_guest = true;\n  handleInterruptMaskChange();\n",
);
/// Files that are compiled: what progress is measured by.
const COMPILED: u64 = 472;

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The source could not be fetched.
    #[error(
        "the source of Bochs cannot be fetched; download bochs_3.0+dfsg.orig.tar.xz from any \
         Debian mirror (pool/main/b/bochs) and name it in {SOURCE_VARIABLE}"
    )]
    Source(#[from] debian::Error),
    /// A step of the build failed.
    #[error("building Bochs: {step} ended with {status}\n{tail}")]
    Build {
        /// Which.
        step: String,
        /// How.
        status: String,
        /// The end of what it said.
        tail: String,
    },
    /// The source is another than the one that is to be mended.
    #[error(
        "building Bochs: {file} does not enter a guest in the one place that is known; use \
         the source of version 3.0"
    )]
    Foreign {
        /// File in the source.
        file: &'static str,
    },
    /// A file could not be used or a program not started.
    #[error("building Bochs: cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Cause.
        source: io::Error,
    },
}

fn doing(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    move |source| Error::Io { action, source }
}

/// What the emulator is built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// To be quick.
    #[default]
    Fast,
    /// To stop at breakpoints and tell of the processor's state.
    Debugger,
}

impl Flavour {
    fn options(self) -> Vec<&'static str> {
        let more = match self {
            Self::Fast => FAST,
            Self::Debugger => WITH_DEBUGGER,
        };
        OPTIONS.into_iter().chain(more).collect()
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Fast => "build Bochs for soft-ept",
            Self::Debugger => "build Bochs with its debugger",
        }
    }
}

/// Where the source comes from.
enum Source {
    Pinned,
    Given(PathBuf),
}

impl Source {
    fn wished() -> Self {
        match env::var_os(SOURCE_VARIABLE) {
            Some(path) if !path.is_empty() => Self::Given(path.into()),
            _ => Self::Pinned,
        }
    }

    fn add_to_key(&self, key: Key) -> Result<Key, Error> {
        Ok(match self {
            Self::Pinned => key.text("source", SOURCE.sha256),
            Self::Given(path) => key.file("source", path)?,
        })
    }
}

fn key(source: &Source, flavour: Flavour) -> Result<Key, Error> {
    let compiler = command::output_of(Command::new("g++").arg("--version"));
    let key = Key::new()
        .text("options", &flavour.options().join(" "))
        .text("flags", FLAGS)
        .text("mended", MENDED.2)
        .text("compiler", compiler.unwrap_or_default().trim());
    source.add_to_key(key)
}

/// The emulator if the cache has it.
pub fn cached(cache: &Cache) -> Option<PathBuf> {
    let key = key(&Source::wished(), Flavour::Fast).ok()?;
    Some(cache.get(KIND, &key)?.join(PROGRAM))
}

/// The emulator, built if the cache does not have it.
///
/// # Errors
/// [`Error`], when its source cannot be had or does not build.
pub fn ensure(flavour: Flavour, cache: &Cache, progress: &Progress) -> Result<PathBuf, Error> {
    let source = Source::wished();
    let entry = cache.get_or_build(KIND, &key(&source, flavour)?, progress, |dir| {
        let archive = match &source {
            Source::Pinned => debian::pool_file(&SOURCE, dir, progress)?,
            Source::Given(path) => path.clone(),
        };
        build(flavour, &archive, dir, progress)
    })?;
    Ok(entry.join(PROGRAM))
}

fn build(flavour: Flavour, archive: &Path, dir: &Path, progress: &Progress) -> Result<(), Error> {
    let tree = dir.join("tree");
    fs::create_dir(&tree).map_err(doing("make a folder for its source"))?;
    let mut unpack = Command::new("tar");
    unpack.args(["--strip-components=1", "-xf"]).arg(archive);
    run(unpack.arg("-C").arg(&tree), "tar", |_| ())?;
    mend(&tree)?;
    let step = progress.step(flavour.title(), Some(COMPILED));
    let mut configure = Command::new("./configure");
    configure
        .args(flavour.options())
        .args([format!("CFLAGS={FLAGS}"), format!("CXXFLAGS={FLAGS}")]);
    run(configure.current_dir(&tree), "configure", |_| ())?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.arg(format!("-j{jobs}")).current_dir(&tree);
    run(&mut make, "make", |line| {
        if line.contains(" -c ") {
            step.inc(1);
        }
    })?;
    step.done("built");
    let built = tree.join(PROGRAM);
    fs::rename(&built, dir.join(PROGRAM)).map_err(doing("find the program that was built"))?;
    fs::remove_dir_all(&tree).map_err(doing("remove its source"))?;
    // One that was given is another's.
    if archive.starts_with(dir) {
        fs::remove_file(archive).map_err(doing("remove its source archive"))?;
    }
    Ok(())
}

fn mend(tree: &Path) -> Result<(), Error> {
    let (file, wrong, right) = MENDED;
    let path = tree.join(file);
    let text = fs::read_to_string(&path).map_err(doing(format!("read {file}")))?;
    if text.matches(wrong).count() != 1 {
        return Err(Error::Foreign { file });
    }
    fs::write(&path, text.replace(wrong, right)).map_err(doing(format!("write {file}")))
}

fn run(command: &mut Command, step: &str, mut line: impl FnMut(&str)) -> Result<(), Error> {
    // An outer make or cargo must not reach into this build.
    for name in [
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "CC",
        "CXX",
        "LDFLAGS",
        "CPPFLAGS",
    ] {
        command.env_remove(name);
    }
    let ran = command::run(command.env("LC_ALL", "C"), |text| {
        line(text);
        true
    })
    .map_err(doing(format!("start {step}")))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(Error::Build {
        step: step.to_owned(),
        status: ran.status.to_string(),
        tail: ran.tail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_source_is_told_with_the_step_that_failed() {
        let folder = tempfile::tempdir().expect("folder");
        let archive = folder.path().join("source.tar");
        fs::write(&archive, "no archive").expect("written");
        let dir = folder.path().join("entry");
        fs::create_dir(&dir).expect("made");
        let error =
            build(Flavour::Fast, &archive, &dir, &Progress::hidden()).expect_err("no source");
        assert!(error.to_string().contains("tar ended with"), "{error}");
        assert!(archive.exists());
    }

    #[test]
    fn a_source_that_cannot_be_mended_is_not_built() {
        let tree = tempfile::tempdir().expect("folder");
        let path = tree.path().join(MENDED.0);
        fs::create_dir(path.parent().expect("a folder")).expect("made");
        fs::write(&path, format!("{{\n{}}}\n", MENDED.1)).expect("written");
        mend(tree.path()).expect("mended");
        let mended = fs::read_to_string(&path).expect("there");
        assert_eq!(mended, format!("{{\n{}}}\n", MENDED.2));
        fs::write(&path, "another version\n").expect("written");
        let error = mend(tree.path()).expect_err("foreign");
        assert!(error.to_string().contains("version 3.0"), "{error}");
    }

    #[test]
    fn another_source_or_flavour_is_another_program() {
        let given = Source::Given("/proc/self/exe".into());
        let hex = |source: &Source, flavour| key(source, flavour).expect("readable").hex();
        let pinned = hex(&Source::Pinned, Flavour::Fast);
        assert_ne!(hex(&given, Flavour::Fast), pinned);
        assert_ne!(hex(&Source::Pinned, Flavour::Debugger), pinned);
    }
}
