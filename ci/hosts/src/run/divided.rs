//! A test program whose tests are divided among several software hosts.
//!
//! A software host has one CPU (see `keeper/machine.rs`); the machine below it mostly has
//! more. Each host runs the program with a part of its tests, and none of them twice.

use std::ffi::{OsStr, OsString};
use std::io;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::client::put_out;
use super::{Carrier, RunError, doing};
use crate::messages::{Command, Stream};

/// More hosts than this start more than they run.
const MOST_LANES: usize = 4;
/// Options of libtest that say nothing of which tests are run.
const HARMLESS: [&str; 4] = ["--nocapture", "--no-capture", "--show-output", "--quiet"];

/// One command line for each host. All tests stay together where some are chosen by name.
pub fn command_lines(argv: &[OsString]) -> Result<Vec<Vec<OsString>>, RunError> {
    divide(argv, lanes())
}

fn lanes() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST_LANES)
}

fn divide(argv: &[OsString], lanes: usize) -> Result<Vec<Vec<OsString>>, RunError> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(RunError::Nothing);
    };
    let chooses = |word: &OsString| !HARMLESS.iter().any(|known| word == known);
    if lanes < 2 || arguments.iter().any(chooses) {
        return Ok(vec![argv.to_vec()]);
    }
    let dealt = deal(&list(program)?, lanes);
    if dealt.is_empty() {
        return Ok(vec![argv.to_vec()]);
    }
    let lines = dealt.into_iter().map(|names| {
        let exact = OsString::from("--exact");
        argv.iter().cloned().chain([exact]).chain(names).collect()
    });
    Ok(lines.collect())
}

/// The names of a test program's tests, as it tells them itself.
fn list(program: &OsStr) -> Result<Vec<OsString>, RunError> {
    let shown = Path::new(program).display();
    let listed = process::Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .map_err(doing(format!("start {shown}")))?;
    if !listed.status.success() {
        let source = io::Error::other(format!("it ended with {}", listed.status));
        return Err(doing(format!("list the tests of {shown}"))(source));
    }
    Ok(names(&listed.stdout))
}

fn names(listed: &[u8]) -> Vec<OsString> {
    listed
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b": test"))
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect()
}

/// Neighbours go to different hosts: cases of one test take alike.
fn deal(tests: &[OsString], lanes: usize) -> Vec<Vec<OsString>> {
    let lanes = lanes.min(tests.len());
    (0..lanes)
        .map(|lane| tests.iter().skip(lane).step_by(lanes).cloned().collect())
        .collect()
}

/// Output that waits until it is its turn.
#[derive(Default)]
struct Held(Mutex<Vec<(Stream, Vec<u8>)>>);

impl Held {
    fn put(&self, to: Stream, bytes: &[u8]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.push((to, bytes.to_vec()));
    }

    fn show(self) -> io::Result<()> {
        let held = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        held.into_iter()
            .try_for_each(|(to, bytes)| put_out(to, &bytes))
    }
}

/// Runs each command on a host of its own. The first speaks at once, the others when those
/// before them have ended. The status is that of the first that failed.
pub fn run_side_by_side(carrier: &Carrier<'_>, commands: &[Command]) -> Result<i32, RunError> {
    let Some((first, others)) = commands.split_first() else {
        return Err(RunError::Nothing);
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..)
            .zip(others)
            .map(|(lane, command)| {
                scope.spawn(move || {
                    let held = Held::default();
                    let status = carrier.carry(lane, command, &|to, bytes| {
                        held.put(to, bytes);
                        Ok(())
                    });
                    (held, status)
                })
            })
            .collect();
        let mut outcome = carrier.carry(0, first, &put_out);
        for other in others {
            let (held, status) = match other.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            held.show().map_err(doing("write the program's output"))?;
            outcome = worse(outcome, status);
        }
        outcome
    })
}

/// A result that is missing outweighs a failure.
fn worse(earlier: Result<i32, RunError>, later: Result<i32, RunError>) -> Result<i32, RunError> {
    match (earlier, later) {
        (Ok(0), later) => later,
        (Ok(_), Err(lost)) => Err(lost),
        (earlier, _) => earlier,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests_of(names: &[&str]) -> Vec<OsString> {
        names.iter().map(OsString::from).collect()
    }

    #[test]
    fn each_test_is_dealt_once() {
        let tests = tests_of(&["a", "b", "c", "d", "e"]);
        let dealt = deal(&tests, 2);
        assert_eq!(dealt, [tests_of(&["a", "c", "e"]), tests_of(&["b", "d"])]);
        assert_eq!(deal(&tests[..1], 2), [tests_of(&["a"])]);
        assert!(deal(&[], 2).is_empty());
    }

    #[test]
    fn tests_are_listed_by_name() {
        let listed = b"case::with_1: test\nother: test\nslow: benchmark\n\n";
        assert_eq!(names(listed), tests_of(&["case::with_1", "other"]));
    }

    #[test]
    fn a_choice_of_tests_is_left_alone() {
        let chosen = tests_of(&["/program", "name"]);
        let together = divide(&chosen, 2).expect("nothing is started");
        assert_eq!(together, [chosen]);
        let skipping = tests_of(&["/program", "--skip", "name"]);
        let together = divide(&skipping, 2).expect("nothing is started");
        assert_eq!(together, [skipping]);
    }

    #[test]
    fn no_failure_is_lost() {
        let lost = || Err(RunError::HostLost("it went away".to_owned()));
        assert!(matches!(worse(Ok(0), Ok(101)), Ok(101)));
        assert!(matches!(worse(Ok(101), Ok(0)), Ok(101)));
        assert!(worse(lost(), Ok(0)).is_err());
        assert!(worse(Ok(101), lost()).is_err());
        assert!(worse(Ok(0), lost()).is_err());
    }

    #[test]
    fn held_output_keeps_its_order() {
        let held = Held::default();
        held.put(Stream::Stdout, b"one");
        held.put(Stream::Stderr, b"two");
        let kept = held.0.into_inner().expect("nobody panicked");
        assert_eq!(
            kept,
            [
                (Stream::Stdout, b"one".to_vec()),
                (Stream::Stderr, b"two".to_vec())
            ]
        );
    }
}
