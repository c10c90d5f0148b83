//! A test program whose tests are divided among several software hosts.
//!
//! A software host has one CPU (see `keeper/machine.rs`); the machine below it mostly has
//! more. The tests are cut into parts, and whichever host is free runs the program with the
//! next part.

use std::ffi::{OsStr, OsString};
use std::io;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::client::put_out;
use super::{Carrier, RunError, doing};
use crate::messages::{Command, Stream};

/// More hosts than this start more than they run.
const MOST_LANES: usize = 4;
/// Tests that run together at most, in one process: enough to share what is made once for
/// them, and few enough to end at about the same time as those on other hosts.
const MOST_TOGETHER: usize = 8;

/// The command lines among which the tests that `argv` runs are divided.
///
/// Tests of one module stay together as far as [`MOST_TOGETHER`] allows; few are not divided.
pub fn command_lines(argv: &[OsString]) -> Result<Vec<Vec<OsString>>, RunError> {
    let tests = list(argv)?;
    let parts = parts(&tests);
    Ok(match parts.len() {
        0 | 1 => vec![argv.to_vec()],
        _ => parts.iter().map(|names| exactly(argv, names)).collect(),
    })
}

/// The names of the tests that a command line runs, as the program tells them itself.
fn list(argv: &[OsString]) -> Result<Vec<OsString>, RunError> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(RunError::Nothing);
    };
    let shown = Path::new(program).display();
    let listed = process::Command::new(program)
        .args(["--list", "--format", "terse"])
        .args(arguments)
        .output()
        .map_err(doing(format!("start {shown}")))?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr);
        let source = io::Error::other(format!("it ended with {}: {said}", listed.status));
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

/// Neighbours of one module together, in parts of about the same length.
fn parts(tests: &[OsString]) -> Vec<&[OsString]> {
    let modules = tests.chunk_by(|one, next| module(one) == module(next));
    modules
        .flat_map(|tests| {
            let parts = tests.len().div_ceil(MOST_TOGETHER);
            tests.chunks(tests.len().div_ceil(parts))
        })
        .collect()
}

/// The first part of a test's path, if it has several.
fn module(test: &OsStr) -> &[u8] {
    let name = test.as_bytes();
    let end = name.windows(2).position(|two| two == b"::");
    name.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// A command line that runs these of its tests: names that are meant as a beginning mean
/// nothing beside them.
fn exactly(argv: &[OsString], names: &[OsString]) -> Vec<OsString> {
    let exact = OsString::from("--exact");
    let given = argv.contains(&exact);
    let exact = (!given).then_some(exact);
    argv.iter().chain(&exact).chain(names).cloned().collect()
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

/// Runs each command once, on whichever host is free next. What one says is put out when it
/// has ended; of a single one, at once. The status is that of one that failed, if any did.
pub fn run_side_by_side(carrier: &Carrier<'_>, commands: &[Command]) -> Result<i32, RunError> {
    if let [only] = commands {
        return carrier.carry(0, only, &put_out);
    }
    let waiting = Mutex::new(commands.iter());
    let said = Mutex::new(());
    let lane = |lane| {
        let mut outcome = Ok(0);
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next();
            let Some(command) = next else {
                return outcome;
            };
            let held = Held::default();
            let status = carrier.carry(lane, command, &|to, bytes| {
                held.put(to, bytes);
                Ok(())
            });
            let _turn = said.lock().unwrap_or_else(PoisonError::into_inner);
            held.show().map_err(doing("write the program's output"))?;
            outcome = worse(outcome, status);
        }
    };
    thread::scope(|scope| {
        let lane = &lane;
        let lanes: Vec<_> = (0..lanes().min(commands.len()))
            .map(|number| scope.spawn(move || lane(number)))
            .collect();
        let mut outcome = Ok(0);
        for lane in lanes {
            let ended = lane.join().unwrap_or_else(|panic| resume_unwind(panic));
            outcome = worse(outcome, ended);
        }
        outcome
    })
}

fn lanes() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST_LANES)
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
    fn tests_of_a_module_stay_together_in_parts_that_are_not_long() {
        let mut tests = tests_of(&["a::x", "b::x", "b::y", "single"]);
        let many = (0..MOST_TOGETHER * 2 + 1).map(|index| format!("c::{index}").into());
        tests.extend(many);
        let parts = parts(&tests);
        let lens: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lens, [1, 2, 1, 6, 6, 5]);
        assert_eq!(parts.concat(), tests);
    }

    #[test]
    fn tests_are_listed_by_name() {
        let listed = b"case::with_1: test\nother: test\nslow: benchmark\n\n";
        assert_eq!(names(listed), tests_of(&["case::with_1", "other"]));
    }

    #[test]
    fn options_are_kept_beside_names() {
        let line = exactly(
            &tests_of(&["/program", "c", "--nocapture"]),
            &tests_of(&["c::1"]),
        );
        let expected = ["/program", "c", "--nocapture", "--exact", "c::1"];
        assert_eq!(line, tests_of(&expected));
        let line = exactly(&tests_of(&["/program", "--exact"]), &tests_of(&["c::1"]));
        assert_eq!(line, tests_of(&["/program", "--exact", "c::1"]));
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
