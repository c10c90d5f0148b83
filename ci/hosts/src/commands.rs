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
/// - `host-run [--for-parent] --tests -- PROGRAM ARGUMENTS...` runs a test program, its
///   tests divided among as many software hosts as this machine has processors for.
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
        ("host-run", rest) => Some(host_run(&Run::parse(rest)?, prepare)),
        _ => None,
    }
}

/// A `host-run` as it is asked for.
struct Run<'a> {
    argv: &'a [OsString],
    owner: Owner,
    debugger: Option<PathBuf>,
    is_test_program: bool,
}

impl<'a> Run<'a> {
    /// `None` when the arguments have another form.
    fn parse(mut arguments: &'a [OsString]) -> Option<Self> {
        let mut run = Self {
            argv: &[],
            owner: Owner::Current,
            debugger: None,
            is_test_program: false,
        };
        loop {
            let (option, rest) = arguments.split_first()?;
            arguments = rest;
            match option.to_str()? {
                "--" => break,
                "--for-parent" => run.owner = Owner::Parent,
                "--tests" => run.is_test_program = true,
                "--debugger" => {
                    let (script, rest) = arguments.split_first()?;
                    (run.debugger, arguments) = (Some(script.into()), rest);
                }
                _ => return None,
            }
        }
        run.argv = arguments;
        Some(run)
    }
}

fn host_run(asked: &Run<'_>, prepare: Prepare<'_>) -> i32 {
    let progress = Progress::stderr();
    let ran = prepare(&progress).and_then(|prepared| {
        let options = Options {
            wish: None,
            owner: asked.owner,
            consent: Consent::Ask,
            writable: Vec::new(),
            environment: prepared.environment,
            files: prepared.files,
            debugger: asked.debugger.clone(),
            is_test_program: asked.is_test_program,
            reruns: RERUNS,
        };
        Ok(run(asked.argv, &options, &progress)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs_own() {
        let asked = words(&["--for-parent", "--tests", "--", "program", "--tests", "--"]);
        let run = Run::parse(&asked).expect("a run");
        assert_eq!(run.argv, words(&["program", "--tests", "--"]));
        assert_eq!((run.owner, run.is_test_program), (Owner::Parent, true));
        assert_eq!(run.debugger, None);
    }

    #[test]
    fn a_script_follows_the_debugger() {
        let asked = words(&["--debugger", "script", "--", "program"]);
        let run = Run::parse(&asked).expect("a run");
        assert_eq!(run.debugger, Some("script".into()));
        assert!(Run::parse(&words(&["--debugger"])).is_none());
        assert!(Run::parse(&words(&["--other", "--", "program"])).is_none());
        assert!(Run::parse(&words(&["program"])).is_none());
    }
}
