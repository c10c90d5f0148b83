//! Running a program on the chosen host.

mod client;
mod command;
mod cpu;
mod divided;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use provision::{Cache, Consent, Progress, cache, packages};

use crate::emulator::{self, Emulator};
use crate::kernel::{self, StockKernel};
use crate::messages::Command;
use crate::needs;
use crate::owner::{Owner, Process};
use crate::rundir;
use crate::select::{Choice, HostKind, SelectError, Wish, choose};
use crate::soft_ept::{self, Flavour};

pub(crate) use client::{Sink, put_out};

/// How to run a program.
#[derive(Clone, Debug)]
pub struct Options {
    /// The host wished for; `None` leaves it to the environment.
    pub wish: Option<Wish>,
    /// For whom a software host is kept.
    pub owner: Owner,
    /// Whether packages may be installed.
    pub consent: Consent,
    /// Folders that the program may write, besides the working directory, its own
    /// build folder and the cache.
    pub writable: Vec<PathBuf>,
    /// Files that the program reads besides its libraries: a host that shares no file
    /// system with this machine gets them, and no others.
    pub files: Vec<PathBuf>,
    /// Variables that the program gets besides this process's own.
    pub environment: Vec<(OsString, OsString)>,
    /// Commands for the debugger of the emulator, one a line, where there is one: a
    /// file. What it answers goes to standard error.
    pub debugger: Option<PathBuf>,
    /// The program is one of Rust's test programs, whose tests may be divided among several
    /// software hosts.
    pub is_test_program: bool,
    /// How often the program is run again from its start, on a new software host, when
    /// the one it ran on broke and left no result. A result is never asked for twice.
    pub reruns: u32,
}

/// What a software host is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftwareHost {
    /// Emulator.
    pub qemu: PathBuf,
    /// File server.
    pub virtiofsd: PathBuf,
    /// Kernel.
    pub kernel: StockKernel,
    /// QEMU's name for the CPU, with what is taken from it.
    pub cpu: String,
}

/// Why a program was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No host.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// No cache.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// Packages are missing.
    #[error("the software host needs packages that are not there")]
    Packages(#[from] packages::Error),
    /// The kernel is missing.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The environment asks for a CPU that is not there.
    #[error(transparent)]
    Cpu(#[from] cpu::UnknownLevels),
    /// What soft-ept is made of is missing.
    #[error(transparent)]
    SoftEpt(#[from] soft_ept::Error),
    /// QEMU is missing.
    #[error(transparent)]
    Emulator(#[from] emulator::Error),
    /// A debugger was asked for where there is none.
    #[error("the host {0} has no debugger; ask for soft-ept")]
    NoDebugger(HostKind),
    /// Nothing to run.
    #[error("no program was given")]
    Nothing,
    /// The program could not be started in place.
    #[error("cannot start {program}")]
    Start {
        /// Program.
        program: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The keeper could not be started.
    #[error("cannot start the software host: {what}")]
    Keeper {
        /// What is wrong.
        what: String,
    },
    /// A call of the operating system failed on the way.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Cause.
        source: io::Error,
    },
    /// The program could not be started inside.
    #[error("{0}")]
    Carried(String),
    /// The software host broke, and there is no result.
    #[error("{0}")]
    HostLost(String),
    /// The keeper went away without a word.
    #[error(
        "the software host went away (its keeper was killed?); run the command again \
         to start a new one"
    )]
    KeeperGone,
}

fn doing(action: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let action = action.into();
    move |source| RunError::Io { action, source }
}

/// Runs `argv` on the chosen host and returns its exit status, 128 + n for signal n.
///
/// On this machine's KVM the program replaces the calling process, and nothing is
/// returned but an error. Says once for each owner on standard error which host was
/// chosen and why.
///
/// # Errors
/// [`RunError`], when there is no host or the program could not be run on it.
pub fn run(argv: &[OsString], options: &Options, progress: &Progress) -> Result<i32, RunError> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(RunError::Nothing);
    };
    let owner = options
        .owner
        .process()
        .map_err(doing("look up the process to keep a host for"))?;
    let choice = choose(options.wish)?;
    if options.debugger.is_some() && choice.kind != HostKind::SoftEpt {
        return Err(RunError::NoDebugger(choice.kind));
    }
    match choice.kind {
        HostKind::Kvm => {
            announce(&choice, owner);
            Err(run_in_place(program, arguments, options))
        }
        HostKind::SoftNpt => {
            let cache = Cache::open()?;
            let host = ensure(&cache, options.consent, progress)?;
            announce(&choice, owner);
            let writable = writable_folders(Path::new(program), &cache, &options.writable)?;
            let lines = if options.is_test_program {
                divided::command_lines(argv)?
            } else {
                vec![argv.to_vec()]
            };
            let commands = lines
                .iter()
                .map(|line| command::build(line, &options.environment, choice.kind, &writable))
                .collect::<Result<Vec<_>, _>>()?;
            let carrier = Carrier {
                owner,
                host: &host,
                reruns: options.reruns,
                progress,
            };
            divided::run_side_by_side(&carrier, &commands)
        }
        HostKind::SoftEpt => {
            let flavour = match options.debugger {
                Some(_) => Flavour::Debugger,
                None => Flavour::Fast,
            };
            let cache = Cache::open()?;
            let parts = soft_ept::ensure(flavour, &cache, options.consent, progress)?;
            announce(&choice, owner);
            let command = command::build(argv, &options.environment, choice.kind, &[])?;
            with_reruns(options.reruns, progress, || {
                soft_ept::run(&parts, argv, &command, options, progress)
            })
        }
    }
}

/// Takes commands into the software hosts of one owner, which are told apart by a number.
struct Carrier<'a> {
    owner: Process,
    host: &'a SoftwareHost,
    reruns: u32,
    progress: &'a Progress,
}

impl Carrier<'_> {
    /// Runs a command on the host of this lane; what it says goes to `sink`.
    fn carry(&self, lane: usize, command: &Command, sink: Sink<'_>) -> Result<i32, RunError> {
        with_reruns(self.reruns, self.progress, || {
            let connection = client::connect(self.owner, lane, self.host)?;
            client::converse(&connection, command.clone(), self.progress, sink)
        })
    }
}

/// The program takes the place of this process. Returns only when that fails.
fn run_in_place(program: &OsString, arguments: &[OsString], options: &Options) -> RunError {
    let environment = options.environment.iter();
    let source = std::process::Command::new(program)
        .args(arguments)
        .envs(environment.map(|(name, value)| (name, value)))
        .exec();
    RunError::Start {
        program: program.into(),
        source,
    }
}

/// Runs something again that was lost with its software host.
fn with_reruns(
    mut reruns: u32,
    progress: &Progress,
    run: impl Fn() -> Result<i32, RunError>,
) -> Result<i32, RunError> {
    loop {
        match run() {
            Err(error @ RunError::HostLost(_)) if reruns > 0 => {
                reruns -= 1;
                progress.say(format!("mapwitness: {error}"));
                progress.say("mapwitness: there is no result: running it again from its start");
            }
            outcome => return outcome,
        }
    }
}

/// Brings together what the software host is made of, installing and fetching what
/// is missing.
///
/// # Errors
/// [`RunError`], when something can neither be found nor had.
pub fn ensure(
    cache: &Cache,
    consent: Consent,
    progress: &Progress,
) -> Result<SoftwareHost, RunError> {
    let Emulator { qemu, virtiofsd } = emulator::ensure(cache, consent, progress)?;
    packages::require(&needs::tools(), consent, progress)?;
    let kernel = kernel::ensure(cache, progress)?;
    Ok(SoftwareHost {
        qemu,
        virtiofsd,
        kernel,
        cpu: cpu::wished()?.to_owned(),
    })
}

fn announce(choice: &Choice, owner: Process) {
    // A note that cannot be kept only means that it is said again.
    let first = rundir::base().map_or(true, |base| rundir::first_time(&base, &owner.file_name()));
    if first {
        eprintln!("mapwitness: host {}: {}", choice.kind, choice.reason);
    }
}

/// The folders that a carried program may write: the working directory, the build
/// folder that it stands in, the cache, and what else was asked for.
fn writable_folders(
    program: &Path,
    cache: &Cache,
    more: &[PathBuf],
) -> Result<Vec<PathBuf>, RunError> {
    let cwd = std::env::current_dir().map_err(doing("find the working directory"))?;
    let cache_root = cache.root().to_owned();
    fs::create_dir_all(&cache_root)
        .map_err(doing(format!("make the folder {}", cache_root.display())))?;
    let build = program_folder(&cwd.join(program));
    let mut folders = vec![cwd, cache_root];
    folders.extend(build);
    folders.extend(more.iter().cloned());
    let mut resolved = Vec::new();
    for folder in folders {
        // Bound at the place that it really has: mount(2) follows links anyway.
        let real = fs::canonicalize(&folder)
            .map_err(doing(format!("find the folder {}", folder.display())))?;
        if !resolved.contains(&real) {
            resolved.push(real);
        }
    }
    Ok(resolved)
}

/// The folder to hand through for the program's own sake: the build folder above
/// cargo's `PROFILE/deps/PROGRAM`, or whatever folder of /tmp or /run it lies in,
/// for those are others inside.
fn program_folder(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    if folder.file_name()? == "deps" {
        return Some(folder.parent()?.parent()?.to_owned());
    }
    let hidden = ["/tmp", "/run"]
        .iter()
        .any(|fresh| folder.starts_with(fresh));
    hidden.then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_folder_is_that_of_cargo() {
        let program = Path::new("/src/target/debug/deps/check-0123");
        assert_eq!(program_folder(program), Some("/src/target".into()));
        assert_eq!(program_folder(Path::new("/usr/bin/true")), None);
        assert_eq!(program_folder(Path::new("/")), None);
    }

    #[test]
    fn a_program_that_would_be_hidden_is_handed_through() {
        let program = Path::new("/tmp/target/release/mapwitness");
        assert_eq!(program_folder(program), Some("/tmp/target/release".into()));
    }
}
