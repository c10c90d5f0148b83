//! Drives the crate by itself: `host run [--parent] -- PROGRAM ARGUMENTS...`,
//! `host probe`, `host doctor`. It is its own keeper and its own init.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use hosts::{Options, Owner};
use provision::{Consent, Progress};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.to_string_lossy().into_owned(), rest),
        None => (String::new(), arguments.as_slice()),
    };
    let status = match (command.as_str(), rest) {
        ("host-init", _) => hosts::init::main(),
        ("host-keep", [run_dir]) => hosts::keeper::main(Path::new(run_dir)),
        ("run", [parent, rest @ ..]) if parent == "--parent" => run(rest, Owner::Parent),
        ("run", rest) => run(rest, Owner::Current),
        ("probe", []) => {
            println!("{}", hosts::probe());
            0
        }
        ("doctor", []) => {
            println!("{}", hosts::doctor::examine());
            0
        }
        _ => {
            eprintln!("usage: host run [--parent] -- PROGRAM ARGUMENTS... | probe | doctor");
            2
        }
    };
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(words: &[OsString], owner: Owner) -> i32 {
    let argv = match words {
        [dashes, argv @ ..] if dashes == "--" => argv,
        argv => argv,
    };
    let options = Options {
        wish: None,
        owner,
        consent: Consent::Ask,
        writable: Vec::new(),
    };
    match hosts::run(argv, &options, &Progress::stderr()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("host: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            2
        }
    }
}
