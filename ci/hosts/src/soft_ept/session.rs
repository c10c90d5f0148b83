//! A program's run in a machine of its own: what comes out, and when to give up.

use std::io::{BufReader, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use provision::Progress;
use provision::progress::Step;

use super::machine::{Files, Machine};
use super::{Error, Parts};
use crate::keeper::explain_ending;
use crate::messages::{FromHost, receive};
use crate::run::{RunError, put_out};

/// How long the machine may say nothing at all. Inside, it says every few seconds of
/// its own clock that it is alive; on a busy machine such a second takes many.
const SILENCE: Duration = Duration::from_secs(300);
/// How long a program may run. The slowest ones take some minutes.
const LONGEST: Duration = Duration::from_secs(45 * 60);
/// Between the last message and the end of Bochs.
const EXIT_PATIENCE: Duration = Duration::from_secs(20);
/// How Bochs says that it was told to end, and when: the tick stands first in a line.
const TOLD_TO_END: &str = "shutdown requested";

/// Runs a machine until its program has ended, and gives the program's status.
///
/// # Errors
/// [`RunError::HostLost`] when there is no result, [`RunError::Carried`] when the
/// program could not be started.
pub fn run(parts: &Parts, files: Files, progress: &Progress) -> Result<i32, RunError> {
    let (mut machine, output) = Machine::start(&parts.bochs, files).map_err(Error::Machine)?;
    let (events, inbox) = mpsc::channel();
    thread::spawn(move || read(output, &events));
    let boot = progress.step("start the software host soft-ept", None);
    match follow(&inbox, Some(boot)) {
        Ok(status) => {
            machine.stop(EXIT_PATIENCE);
            if let Some(tick) = last_tick(&machine.log()) {
                progress.say(format!("mapwitness: soft-ept ended at tick {tick}"));
            }
            Ok(status)
        }
        Err(Ending::NotStarted(what)) => Err(RunError::Carried(what)),
        Err(Ending::Lost(reason)) => {
            machine.stop(Duration::ZERO);
            let (console, log) = (machine.console(), machine.log());
            let sources = [("its console", console), ("Bochs", log)];
            Err(RunError::HostLost(explain_ending(
                &format!("the software host soft-ept {reason}"),
                &sources,
            )))
        }
    }
}

/// What comes out of the machine.
enum Event {
    Said(FromHost),
    /// Its output ended, or is not what it should be.
    Ended(String),
}

enum Ending {
    NotStarted(String),
    Lost(String),
}

fn read(output: impl Read, events: &Sender<Event>) {
    let mut output = BufReader::new(output);
    if let Some(ended) = pass_on(&mut output, events) {
        // Nobody waits any more once there is a result.
        let _ = events.send(Event::Ended(ended));
    }
}

/// Sends all messages, and says why there are no more; nothing once nobody listens.
fn pass_on(output: &mut impl Read, events: &Sender<Event>) -> Option<String> {
    loop {
        match receive::<FromHost>(&mut *output) {
            Ok(Some(message)) => events.send(Event::Said(message)).ok()?,
            Ok(None) => return Some("ended".to_owned()),
            Err(error) => return Some(format!("cannot be understood: {error}")),
        }
    }
}

/// Passes on what the program says until it ends.
fn follow(inbox: &Receiver<Event>, mut boot: Option<Step>) -> Result<i32, Ending> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let message = match inbox.recv_timeout(SILENCE.min(left)) {
            Ok(Event::Said(message)) => message,
            Ok(Event::Ended(how)) => return Err(Ending::Lost(how)),
            Err(RecvTimeoutError::Timeout) => return Err(Ending::Lost(too_long(left))),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Ending::Lost("lost its reader".to_owned()));
            }
        };
        match message {
            FromHost::Ready => {
                if let Some(step) = boot.take() {
                    step.done("ready");
                }
            }
            FromHost::Alive => {}
            FromHost::Output { stream, bytes, .. } => {
                // A reader that is gone is told by the end of this process.
                put_out(stream, &bytes)
                    .map_err(|error| Ending::Lost(format!("speaks to nobody any more: {error}")))?;
            }
            FromHost::Ended { status, .. } => return Ok(status),
            FromHost::Failed { reason, .. } => return Err(Ending::NotStarted(reason)),
            FromHost::Unusable(reason) => {
                return Err(Ending::Lost(format!("cannot be used: {reason}")));
            }
        }
    }
}

fn too_long(left: Duration) -> String {
    if left < SILENCE {
        format!("took longer than {} min", LONGEST.as_secs() / 60)
    } else {
        format!("was silent for {} s: it hangs", SILENCE.as_secs())
    }
}

/// The tick at which the machine was told to end.
fn last_tick(log: &str) -> Option<u64> {
    let line = log.lines().rev().find(|line| line.contains(TOLD_TO_END))?;
    let digits = line.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Stream, send};

    fn spoken(messages: &[FromHost]) -> Receiver<Event> {
        let mut bytes = Vec::new();
        for message in messages {
            send(&mut bytes, message).expect("written");
        }
        let (events, inbox) = mpsc::channel();
        read(bytes.as_slice(), &events);
        inbox
    }

    #[test]
    fn a_status_comes_through() {
        let ended = FromHost::Ended {
            session: 1,
            status: 3,
        };
        let quiet = FromHost::Output {
            session: 1,
            stream: Stream::Stdout,
            bytes: Vec::new(),
        };
        let inbox = spoken(&[FromHost::Ready, FromHost::Alive, quiet, ended]);
        assert!(matches!(follow(&inbox, None), Ok(3)));
    }

    #[test]
    fn an_end_without_a_status_is_no_result() {
        for messages in [
            vec![],
            vec![FromHost::Ready],
            vec![FromHost::Unusable("x".into())],
        ] {
            let inbox = spoken(&messages);
            assert!(matches!(follow(&inbox, None), Err(Ending::Lost(_))));
        }
        let (events, inbox) = mpsc::channel();
        read([0xff; 9].as_slice(), &events);
        let Err(Ending::Lost(how)) = follow(&inbox, None) else {
            panic!("that was no message");
        };
        assert!(how.starts_with("cannot be understood"), "{how}");
    }

    #[test]
    fn the_tick_is_read_from_the_log() {
        let log = "00000000000e[CPU0  ] x\n\
                   02790631557p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested\n";
        assert_eq!(last_tick(log), Some(2_790_631_557));
        assert_eq!(last_tick("00000000000e[CPU0  ] x\n"), None);
    }
}
