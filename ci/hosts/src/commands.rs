//! The hidden commands that the calling program has to offer, for it is itself what
//! runs as keeper and as init.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use provision::{Consent, Progress};

use crate::init::World;
use crate::{Options, Owner, init, keeper, run};

/// Brings together what has to be there before a program is run.
pub type Prepare<'a> = &'a dyn Fn(&Progress) -> Result<Prepared, Box<dyn Error>>;

/// What is there for a program.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Variables by which it is told.
    pub environment: Vec<(OsString, OsString)>,
    /// Files that it reads.
    pub files: Vec<PathBuf>,
}

/// A software host that breaks twice in a row is worth a look.
const RERUNS: u32 = 1;

/// Exit status when a program could not be run.
const NOT_RUN: i32 = 2;

/// Carries out a hidden command and returns its exit status; `None` when
/// `arguments` (without the program's name) are none of them.
///
/// `prepare` runs once before a program is run; the variables that it gives go along
/// with the program.
///
/// - `host-run [--for-parent] -- PROGRAM ARGUMENTS...` runs a program on the chosen
///   host; with `--for-parent` a software host is kept for the calling process.
/// - `host-run --debugger SCRIPT -- PROGRAM ARGUMENTS...` has the emulator's debugger
///   carry out a script meanwhile, in soft-ept.
/// - `host-keep RUN_DIR` is a keeper.
/// - `host-init` is process 1 of soft-npt, `host-init-packed` that of soft-ept.
pub fn hidden_command(arguments: &[OsString], prepare: Prepare<'_>) -> Option<i32> {
    let (command, rest) = arguments.split_first()?;
    match (command.to_str()?, rest) {
        ("host-init", []) => Some(init::main(World::Shared)),
        (init::PACKED_COMMAND, []) => Some(init::main(World::Packed)),
        ("host-keep", [run_dir]) => Some(keeper::main(Path::new(run_dir))),
        ("host-run", [parent, dashes, argv @ ..]) if parent == "--for-parent" && dashes == "--" => {
            Some(host_run(argv, Owner::Parent, None, prepare))
        }
        ("host-run", [debugger, script, dashes, argv @ ..])
            if debugger == "--debugger" && dashes == "--" =>
        {
            Some(host_run(argv, Owner::Current, Some(script.into()), prepare))
        }
        ("host-run", [dashes, argv @ ..]) if dashes == "--" => {
            Some(host_run(argv, Owner::Current, None, prepare))
        }
        _ => None,
    }
}

fn host_run(
    argv: &[OsString],
    owner: Owner,
    debugger: Option<PathBuf>,
    prepare: Prepare<'_>,
) -> i32 {
    let progress = Progress::stderr();
    let ran = prepare(&progress).and_then(|prepared| {
        let options = Options {
            wish: None,
            owner,
            consent: Consent::Ask,
            writable: Vec::new(),
            environment: prepared.environment,
            files: prepared.files,
            debugger,
            reruns: RERUNS,
        };
        Ok(run(argv, &options, &progress)?)
    });
    match ran {
        Ok(status) => status,
        Err(error) => {
            eprintln!("mapwitness: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            NOT_RUN
        }
    }
}
