//! Builds the guest's /init: the `agent` package as one static program.
//!
//! A nested cargo does it, with a target folder of its own and without what an outer
//! cargo left in the environment, so that the program is the same whether it is built
//! from a test, from a released binary or by hand.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::LittleEndian;
use object::elf::{EM_X86_64, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use provision::{Key, Progress};
use thiserror::Error;

/// The C library inside, fixed addresses, no symbols: what an initramfs can run.
/// glibc's static form is in the package that any linking on Debian needs.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const RUSTFLAGS: [&str; 6] = [
    "-C",
    "target-feature=+crt-static",
    "-C",
    "relocation-model=static",
    "-C",
    "strip=symbols",
];
/// Sources of the program, from the workspace's root.
const TREES: [&str; 2] = ["guest-images/agent", "vmm/wire"];
const FILES: [&str; 2] = ["Cargo.toml", "Cargo.lock"];

/// Why there is no agent.
#[derive(Debug, Error)]
pub enum Error {
    /// A part of what the agent is built from.
    #[error("cannot take the agent's sources into account")]
    Inputs(#[source] provision::cache::Error),
    /// cargo or rustc does not start.
    #[error("cannot run `{program}`; install Rust (rustup or Debian's cargo), or put it in PATH")]
    Start {
        /// What was to be run.
        program: String,
        /// Why it does not start.
        source: io::Error,
    },
    /// rustc does not say its version.
    #[error("`rustc -vV` in {root} ended with {status}: {text}", root = root.display())]
    Compiler {
        /// Where it ran.
        root: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        text: String,
    },
    /// cargo failed.
    #[error(
        "cargo could not build the guest's agent ({status}); a linker that misses static \
         libraries wants the packages gcc and libc6-dev. cargo said:\n{text}"
    )]
    Build {
        /// How cargo ended.
        status: std::process::ExitStatus,
        /// Everything that it said.
        text: String,
    },
    /// A file or folder of the build.
    #[error("cannot {what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program that came out cannot be an /init.
    #[error("{path} cannot be the guest's /init: {why}", path = path.display())]
    NotStatic {
        /// The program.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
}

/// `key` with everything that shapes the agent: its sources and those of the
/// messages, the workspace's manifest and lock file, compiler and flags.
///
/// # Errors
/// When a source cannot be read or rustc does not say its version.
pub fn add_to_key(key: Key, workspace_root: &Path) -> Result<Key, Error> {
    let mut key = key.text("agent rustflags", &RUSTFLAGS.join(" "));
    for tree in TREES {
        let dir = workspace_root.join(tree);
        key = key.tree(tree, &dir).map_err(Error::Inputs)?;
    }
    for file in FILES {
        let path = workspace_root.join(file);
        key = key.file(file, &path).map_err(Error::Inputs)?;
    }
    Ok(key.text("agent rustc", &compiler_version(workspace_root)?))
}

/// Builds the agent of the workspace at `workspace_root` into the file `out`.
///
/// # Errors
/// [`Error`]; `out` is then untouched.
pub fn build(workspace_root: &Path, out: &Path, progress: &Progress) -> Result<(), Error> {
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let target = tempfile::Builder::new()
        .prefix("agent-build-")
        .tempdir_in(folder)
        .map_err(file_error("make a build folder in", folder))?;
    build_in(workspace_root, target.path(), out, progress)
}

/// As [`build`], in a target folder that a later build may go on from.
///
/// # Errors
/// As [`build`].
pub fn build_in(
    workspace_root: &Path,
    target_dir: &Path,
    out: &Path,
    progress: &Progress,
) -> Result<(), Error> {
    run_cargo(workspace_root, target_dir, progress)?;
    let program = target_dir.join(TARGET).join("release/agent");
    check_static(&program)?;
    // By way of a second name: whoever looks at `out` finds a whole program.
    let part = out.with_extension("part");
    fs::copy(&program, &part).map_err(file_error("write", &part))?;
    fs::rename(&part, out).map_err(file_error("write", out))
}

fn run_cargo(workspace_root: &Path, target_dir: &Path, progress: &Progress) -> Result<(), Error> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let step = progress.step("Building the guest's agent", None);
    let mut child = clean(Command::new(&program))
        .current_dir(workspace_root)
        .args(["build", "--locked", "--release", "--color=never"])
        .args(["--package", "agent", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
    let mut text = String::new();
    for line in child.stderr.take().into_iter().flat_map(lines) {
        step.message(line.trim());
        if line.trim_start().starts_with("Compiling") {
            step.inc(1);
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child
        .wait()
        .map_err(file_error("wait for", Path::new(&program)))?;
    if !status.success() {
        return Err(Error::Build { status, text });
    }
    step.done("static program");
    Ok(())
}

/// Lines of cargo's output, whatever bytes a compiler error quotes.
fn lines(output: impl io::Read) -> impl Iterator<Item = String> {
    BufReader::new(output)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

fn compiler_version(workspace_root: &Path) -> Result<String, Error> {
    let output = clean(Command::new("rustc"))
        .current_dir(workspace_root)
        .arg("-vV")
        .output()
        .map_err(|source| Error::Start {
            program: "rustc -vV".into(),
            source,
        })?;
    if !output.status.success() {
        return Err(Error::Compiler {
            root: workspace_root.into(),
            status: output.status,
            text: String::from_utf8_lossy(&output.stderr).trim().into(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `command` without what an outer cargo, or a kernel build, has set for itself.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        if shapes_a_build(&name) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether this variable changes what cargo builds or where, rather than how it
/// reaches its registry and toolchain.
fn shapes_a_build(name: &OsStr) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    let name = name.to_string_lossy();
    let shapes = name.starts_with("CARGO")
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTFLAGS")
        || name.starts_with("RUSTDOC");
    shapes && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// # Errors
/// [`Error::NotStatic`] unless `path` is an x86-64 program that needs no loader.
fn check_static(path: &Path) -> Result<(), Error> {
    let bytes = fs::read(path).map_err(file_error("read", path))?;
    let no = |why: String| Error::NotStatic {
        path: path.into(),
        why,
    };
    let header = FileHeader64::<LittleEndian>::parse(bytes.as_slice())
        .map_err(|error| no(format!("no 64-bit ELF program ({error})")))?;
    let machine = header.e_machine.get(LittleEndian);
    if machine != EM_X86_64 {
        return Err(no(format!("built for ELF machine {machine}, not x86-64")));
    }
    let segments = header
        .program_headers(LittleEndian, bytes.as_slice())
        .map_err(|error| no(format!("unreadable program headers ({error})")))?;
    let is_interpreter = |segment: &_| ProgramHeader::p_type(segment, LittleEndian) == PT_INTERP;
    if segments.iter().any(is_interpreter) {
        return Err(no("it asks for a dynamic loader".into()));
    }
    Ok(())
}

fn file_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

#[cfg(test)]
mod tests;
