//! Where the processor of a software host stands, by QEMU's own monitor.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rundir;

/// QEMU answers at once, unless it stands still itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// A processor that still runs is somewhere else after this.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// What is asked, in the words of QEMU's monitor. Registers first and last: they tell
/// whether anything moves.
const QUESTIONS: [&str; 4] = [
    "info registers",
    "info lapic 0",
    "x/6i $pc",
    "info registers",
];

/// A question in the format of QEMU's machine protocol (docs/interop/qmp-spec).
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Question<'q> {
    execute: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Arguments<'q>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Arguments<'q> {
    command_line: &'q str,
}

/// Of an answer, which may as well be an event, what is looked for.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    said: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
}

/// What QEMU tells of the processor; why not, if it does not.
pub fn tell(run_dir: &Path) -> String {
    match ask(run_dir) {
        Ok(text) => text,
        Err(error) => format!("QEMU does not tell where its processor stands: {error}"),
    }
}

fn ask(run_dir: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(run_dir.join(rundir::MONITOR))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut monitor = Monitor {
        answers: BufReader::new(stream.try_clone()?),
        questions: stream,
    };
    monitor.exchange(&Question {
        execute: "qmp_capabilities",
        arguments: None,
    })?;
    let mut text = String::new();
    for question in QUESTIONS {
        let said = monitor.exchange(&Question {
            execute: "human-monitor-command",
            arguments: Some(Arguments {
                command_line: question,
            }),
        })?;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{question}\n{}", said.trim_end());
        thread::sleep(BETWEEN_LOOKS);
    }
    Ok(text)
}

struct Monitor {
    answers: BufReader<UnixStream>,
    questions: UnixStream,
}

impl Monitor {
    fn exchange(&mut self, question: &Question<'_>) -> io::Result<String> {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        self.questions.write_all(&line)?;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer: Answer = serde_json::from_str(&line)?;
            if let Some(error) = answer.error {
                return Err(io::Error::other(error.to_string()));
            }
            if let Some(said) = answer.said {
                return Ok(said.as_str().unwrap_or_default().to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Answers as QEMU does, with an event in between.
    fn speak_as_qemu(listener: &UnixListener) {
        let (stream, _) = listener.accept().expect("somebody asks");
        let mut out = stream.try_clone().expect("a copy");
        out.write_all(b"{\"QMP\": {}}\n").expect("greeted");
        for line in BufReader::new(stream).lines() {
            let said = match line.expect("text").contains("registers") {
                true => "RIP=ffffffff81000000\\r\\nHLT=1",
                false => "other",
            };
            let answers = format!("{{\"event\": \"RESUME\"}}\n{{\"return\": \"{said}\"}}\n");
            out.write_all(answers.as_bytes()).expect("answered");
        }
    }

    #[test]
    fn what_qemu_says_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let listener = UnixListener::bind(folder.path().join(rundir::MONITOR)).expect("bound");
        let qemu = thread::spawn(move || speak_as_qemu(&listener));
        let text = tell(folder.path());
        assert_eq!(text.matches("RIP=ffffffff81000000").count(), 2, "{text}");
        assert_eq!(text.matches("other").count(), 2, "{text}");
        qemu.join().expect("it spoke");
    }

    #[test]
    fn a_qemu_that_is_gone_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(tell(folder.path()).starts_with("QEMU does not tell"));
    }
}
