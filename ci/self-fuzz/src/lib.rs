//! Builds and runs the fuzz targets of `fuzz/`: every parser of bytes that come from a
//! guest, a file or a kernel, led by coverage, for a bounded time.
//!
//! The targets are those of cargo-fuzz, which runs them as well, with a nightly compiler.
//! A stable one can instrument them for libFuzzer too, by the flags below; it lacks only
//! the address sanitizer, and the parsers are safe Rust.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use provision::packages::{self, Consent, Need};
use provision::{Progress, command};

/// Counters for each edge, and the operands of comparisons, as libFuzzer reads them.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];
/// Named, so that build scripts are built without those flags.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// Longest time for one input, in seconds: a parser that takes it hangs.
const LONGEST_SECONDS: u32 = 10;
/// Most memory of a target, in MiB: a parser that takes it can be made to.
const MOST_MEMORY_MIB: u32 = 1024;

/// Why no target can be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that is needed is missing.
    #[error(transparent)]
    Packages(#[from] packages::Error),
    /// A folder or file.
    #[error("cannot use {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Cargo did not build the targets.
    #[error("the fuzz targets were not built:\n{output}")]
    Build {
        /// What it printed last.
        output: String,
    },
}

/// The targets, built.
pub struct Targets {
    /// The folder `fuzz`.
    folder: PathBuf,
    built: PathBuf,
}

/// What a target came to.
#[derive(Debug)]
pub struct Outcome {
    /// No input made it fail.
    pub passed: bool,
    /// What it printed.
    pub output: String,
    /// The input that made it fail.
    pub input: Option<PathBuf>,
}

impl Targets {
    /// Builds the targets in `folder`, below `target`.
    ///
    /// # Errors
    /// [`Error`], when they cannot be built.
    pub fn build(folder: &Path, target: &Path, progress: &Progress) -> Result<Self, Error> {
        // libFuzzer is C++.
        let needs = [Need::package("g++").or_program("g++")];
        packages::require(&needs, Consent::Ask, progress)?;
        let step = progress.step("build the fuzz targets", None);
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--release", "--locked", "--bins"])
            .args(["--target", PLATFORM])
            .arg("--manifest-path")
            .arg(folder.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(target)
            .env("RUSTFLAGS", FLAGS.join(" "));
        let ran = command::run(&mut cargo, |_| true).map_err(|source| Error::File {
            path: env!("CARGO").into(),
            source,
        })?;
        if !ran.status.success() {
            return Err(Error::Build { output: ran.tail });
        }
        step.done("built");
        Ok(Self {
            folder: folder.to_owned(),
            built: target.join(PLATFORM).join("release"),
        })
    }

    /// Their names, in order.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let path = self.folder.join("fuzz_targets");
        let fail = |source| Error::File {
            path: path.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(fail)? {
            let name = PathBuf::from(entry.map_err(fail)?.file_name());
            names.extend(
                name.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
        names.sort();
        Ok(names)
    }

    /// Runs one for `seconds`: first the inputs that the repository keeps for it, then
    /// what it makes of them. What it finds worth keeping goes with `scratch`, a folder.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be started.
    pub fn run(&self, name: &str, seconds: u32, scratch: &Path) -> Result<Outcome, Error> {
        let grown = scratch.join(name);
        fs::create_dir_all(&grown).map_err(|source| Error::File {
            path: grown.clone(),
            source,
        })?;
        let input = scratch.join(format!("{name}-failed"));
        let kept = self.folder.join("corpus").join(name);
        let mut target = Command::new(self.built.join(name));
        target
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={LONGEST_SECONDS}"))
            .arg(format!("-rss_limit_mb={MOST_MEMORY_MIB}"))
            .arg(format!("-exact_artifact_path={}", input.display()))
            .arg("-print_final_stats=1")
            .arg(&grown)
            .args(kept.is_dir().then_some(kept));
        let output = target.output().map_err(|source| Error::File {
            path: self.built.join(name),
            source,
        })?;
        Ok(Outcome {
            passed: output.status.success(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
            input: input.is_file().then_some(input),
        })
    }
}
