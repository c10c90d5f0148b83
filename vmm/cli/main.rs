//! The `mapwitness` command: parses, calls, prints.

mod args;
mod check;
mod exit;
mod images;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use exit::Exit;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // The same program is what runs as the software host's keeper and first process.
    if let Some(status) = hosts::hidden_command(&arguments, &images::for_tests) {
        return Exit::from_status(status);
    }
    let outcome = match Args::parse().command {
        Command::Check(options) => check::run(&options),
        Command::Doctor(options) => doctor(options.json),
        Command::Images(command) => images::run(&command),
    };
    outcome
        .unwrap_or_else(|error| {
            eprintln!("mapwitness: {}", exit::chain(&error));
            Exit::NotChecked
        })
        .into()
}

fn doctor(json: bool) -> anyhow::Result<Exit> {
    let found = hosts::doctor::examine();
    if json {
        let findings: Vec<_> = found
            .findings()
            .into_iter()
            .map(|finding| {
                serde_json::json!({
                    "subject": finding.subject,
                    "good": finding.good,
                    "found": finding.found,
                    "help": finding.help,
                })
            })
            .collect();
        println!("{:#}", serde_json::json!({ "findings": findings }));
    } else {
        print!("{found}");
    }
    Ok(match found.choice {
        Ok(_) => Exit::Pass,
        Err(_) => Exit::NotChecked,
    })
}
