//! Drives the crate by itself: `host host-run [--for-parent] -- PROGRAM...`,
//! `host probe`, `host doctor`. It is its own keeper and its own init.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let Some(status) = hosts::hidden_command(&arguments, &|_| Ok(hosts::Prepared::default())) {
        return u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    match arguments.first().and_then(|word| word.to_str()) {
        Some("probe") => println!("{}", hosts::probe()),
        Some("doctor") => print!("{}", hosts::doctor::examine()),
        _ => {
            eprintln!("usage: host host-run [--for-parent] -- PROGRAM... | probe | doctor");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
