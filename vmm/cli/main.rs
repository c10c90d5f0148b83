//! The `mapwitness` command: parses, calls, prints.

mod args;
mod atlas;
mod bench;
mod carried;
mod check;
mod costs;
mod doctor;
mod exit;
mod fuzz;
mod gallery;
mod images;
mod mutants;
mod picture;
mod replay;
mod subject;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use exit::Exit;
use provision::Progress;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let prepare = |progress: &Progress| images::for_tests(&arguments, progress);
    // The same program is what runs as the software host's keeper and first process.
    if let Some(status) = hosts::hidden_command(&arguments, &prepare) {
        return Exit::from_status(status);
    }
    if let Some(status) = ::bench::hidden_command(&arguments) {
        return Exit::from_status(status);
    }
    let outcome = match Args::parse().command {
        Command::Check(options) => check::run(&options),
        Command::Atlas(options) => atlas::run(&options),
        Command::Mutants(options) => mutants::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Replay(options) => replay::run(&options, replay::Task::Replay),
        Command::Minimize(options) => replay::run(&options, replay::Task::Minimize),
        Command::Bench(options) => bench::run(&options),
        Command::Doctor(options) => doctor::run(options.json),
        Command::Images(command) => images::run(&command),
    };
    outcome
        .unwrap_or_else(|error| {
            eprintln!("mapwitness: {}", exit::chain(&error));
            Exit::NotChecked
        })
        .into()
}
