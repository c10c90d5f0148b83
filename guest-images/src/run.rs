//! Running the tools of a build: their whole output goes to a log file, and each
//! line of it to whoever shows the progress.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::Error;

/// Lines shown of a failed build; the log has them all.
const SHOWN_LINES: usize = 60;

/// How a tool ended, and where its output is.
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// File with its whole output.
    pub log: PathBuf,
}

/// Runs `command` without input, standard output and error together into the
/// file `log`; `line` sees every line.
pub fn logged(command: &mut Command, log: &Path, mut line: impl FnMut(&str)) -> Result<Ran, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| Error::Start { program, source };
    let mut file = File::create(log).map_err(Error::at("write", log))?;
    // Should this process die, the tools get EPIPE and end, too.
    let (reader, writer) = io::pipe().map_err(Error::at("make a pipe for", log))?;
    let twin = writer
        .try_clone()
        .map_err(Error::at("make a pipe for", log))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer))
        .stderr(Stdio::from(twin));
    let child = command.spawn();
    // The command holds the pipe's writing ends: the reader would wait for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.map_err(start)?;
    for bytes in BufReader::new(reader).split(b'\n') {
        let text = bytes.map_err(Error::at("read the output for", log))?;
        let text = String::from_utf8_lossy(&text);
        writeln!(file, "{text}").map_err(Error::at("write", log))?;
        line(&text);
    }
    let status = child
        .wait()
        .map_err(Error::at("wait for the writer of", log))?;
    Ok(Ran {
        status,
        log: log.to_owned(),
    })
}

/// The part of a log that says why a build failed: from its first error on, or
/// else its end.
pub fn excerpt(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let is_error = |line: &&str| line.contains("error:") || line.contains("error[");
    let first = lines.iter().position(is_error);
    let from = first.unwrap_or_else(|| lines.len().saturating_sub(SHOWN_LINES));
    let shown: Vec<&str> = lines.iter().skip(from).take(SHOWN_LINES).copied().collect();
    shown.join("\n")
}

/// All of a log.
pub fn whole(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// Takes out of `command`'s environment what an outer cargo, make or shell may
/// have left there and what would change what a build makes.
pub fn clean_environment(command: &mut Command) {
    const FOREIGN: [&str; 22] = [
        "ARCH",
        "AR",
        "AS",
        "CC",
        "CFLAGS",
        "CPP",
        "CROSS_COMPILE",
        "CXX",
        "HOSTCC",
        "HOSTCFLAGS",
        "HOSTCXX",
        "HOSTLDFLAGS",
        "HOSTRUSTC",
        "LD",
        "LDFLAGS",
        "LLVM",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "O",
        "RUSTC_WRAPPER",
        "V",
    ];
    const PREFIXES: [&str; 6] = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "KBUILD_",
        "KCFLAGS",
    ];
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else {
            continue;
        };
        let foreign = FOREIGN.contains(&text)
            || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
            || text.starts_with("KRUST");
        if foreign && text != "CARGO_HOME" {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_arrive_in_the_log_and_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let ran = logged(&mut command, &log, |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(ran.status.code(), Some(3));
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(whole(&log), "one\ntwo\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let ran = logged(&mut Command::new("no-such-program"), &log, |_| ());
        let error = ran.err().unwrap().to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }

    #[test]
    fn an_excerpt_begins_at_the_first_error() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "  CC a.o\na.c:1: error: no\nmake: *** [x] Error 1\n").unwrap();
        assert_eq!(excerpt(&log), "a.c:1: error: no\nmake: *** [x] Error 1");
        let long: String = (0..100).map(|n| format!("{n}\n")).collect();
        std::fs::write(&log, long).unwrap();
        assert!(excerpt(&log).starts_with("40\n"));
    }
}
