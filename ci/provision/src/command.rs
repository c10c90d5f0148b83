//! Running other programs.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

/// What a program said and how it ended.
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// The end of what it wrote to both outputs.
    pub tail: String,
}

/// Lines kept of a program's output: enough for the reason of a failure.
const TAIL_LINES: usize = 40;

/// Runs `command` without input; `line` sees every line of standard output, and
/// says whether it belongs to the text to keep for a failure.
pub fn run(command: &mut Command, mut line: impl FnMut(&str) -> bool) -> std::io::Result<Ran> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take();
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            // What was read up to an error is still the best account there is.
            let _ = stderr.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut kept = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for bytes in BufReader::new(stdout).split(b'\n') {
            let text = String::from_utf8_lossy(&bytes?).into_owned();
            if line(&text) {
                kept.push(text);
            }
        }
    }
    let status = child.wait()?;
    let errors = errors.join().unwrap_or_default();
    kept.extend(errors.lines().map(str::to_owned));
    let from = kept.len().saturating_sub(TAIL_LINES);
    let tail = kept.get(from..).unwrap_or_default().join("\n");
    Ok(Ran { status, tail })
}

/// Standard output of a program that succeeds, else nothing.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of this name is found in PATH.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
