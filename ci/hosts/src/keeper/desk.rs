//! The desk: one thread that knows every session and decides.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::config::Config;
use crate::messages::{ALIVE_EVERY, Command, FromHost, ToHost, ToRunner, send};

/// How long a runner may take for the last message before it is given up.
const FAREWELL: Duration = Duration::from_secs(5);
/// The host answers within some seconds; on a machine that is busy with other
/// things, within some tens.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);
/// How long the end of QEMU may become known after that of virtiofsd.
const FOLLOW: Duration = Duration::from_millis(500);
/// How long the host may leave a message unread before it is given up. Init reads
/// at once; only a host that stands still lets the line fill up.
const HOST_PATIENCE: Duration = Duration::from_secs(60);
/// How long a host that is ready may say nothing at all. Init says that it is alive
/// every [`ALIVE_EVERY`].
const SILENCE: Duration = Duration::from_secs(60);
/// When a host that says nothing is woken. QEMU's processor notes at each exit of a nested
/// guest that no virtual interrupt is pending, in a word in which its timer notes meanwhile
/// that a real one is; the two do not exclude each other (`do_vmexit`, svm_helper.c), and
/// now and then the timer's note is lost. A host that only waits for that interrupt then
/// waits until another one comes.
const WAKE_AFTER: Duration = ALIVE_EVERY.saturating_mul(2);

/// What can happen.
pub enum Event {
    /// A runner came with a command.
    Start {
        /// Its session.
        session: u64,
        /// Its command.
        command: Command,
        /// Where its output goes.
        output: UnixStream,
    },
    /// A runner went away.
    RunnerGone {
        /// Its session.
        session: u64,
    },
    /// A runner took output.
    Taken {
        /// Its session.
        session: u64,
        /// How much.
        len_bytes: u32,
    },
    /// Init spoke.
    FromHost(FromHost),
    /// The line to init ended, and with it the host.
    LinkEnded,
    /// virtiofsd ended, as it does when QEMU does.
    FilesEnded,
    /// QEMU had the time to follow, and the line to init would have ended with it.
    FilesEndedAlone,
    /// The process that the host is kept for ended.
    OwnerEnded,
    /// A host that is not ready by now never will be.
    BootPatienceEnded,
}

/// Why a host can be kept no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it did, as the end of a sentence about it.
    pub reason: String,
    /// It stands still: QEMU is there, and can tell where.
    pub hangs: bool,
}

struct Session {
    to_runner: Sender<ToRunner>,
    writer: JoinHandle<()>,
}

/// The state of a keeper.
pub struct Desk {
    link: UnixStream,
    events: Sender<Event>,
    modules: Vec<PathBuf>,
    sessions: HashMap<u64, Session>,
    /// Writers that still have a last message to write.
    leaving: Vec<JoinHandle<()>>,
    /// Commands that came before the host was ready; `None` once it is.
    waiting: Option<Vec<(u64, Command)>>,
    owner_ended: bool,
    failure: Option<Failure>,
}

impl Desk {
    /// A desk whose line to init is `link`.
    pub fn new(config: &Config, link: UnixStream, events: Sender<Event>) -> Self {
        Self {
            link,
            events,
            modules: config.modules.clone(),
            sessions: HashMap::new(),
            leaving: Vec::new(),
            waiting: Some(Vec::new()),
            owner_ended: false,
            failure: None,
        }
    }

    /// Serves until nobody needs the host any more, or until it fails: then says why.
    pub fn serve(&mut self, inbox: &Receiver<Event>) -> Option<Failure> {
        // Without the limit a host that stands still would outlive its owner.
        if let Err(error) = self.link.set_write_timeout(Some(HOST_PATIENCE)) {
            self.fail(&format!("cannot be spoken to: {error}"));
        }
        let setup = ToHost::Setup {
            modules: self
                .modules
                .iter()
                .map(|path| path.as_os_str().as_bytes().to_vec())
                .collect(),
        };
        // Lies in the line until init reads it.
        self.tell_host(&setup);
        self.later(BOOT_PATIENCE, Event::BootPatienceEnded);
        let mut heard = Instant::now();
        while !self.is_over() {
            match inbox.recv_timeout(WAKE_AFTER) {
                Ok(event) => {
                    if matches!(event, Event::FromHost(_)) {
                        heard = Instant::now();
                    }
                    self.handle(event);
                }
                // Until it is ready, the patience for its boot decides.
                Err(RecvTimeoutError::Timeout) if self.waiting.is_some() => {}
                Err(RecvTimeoutError::Timeout) if heard.elapsed() < SILENCE => {
                    self.tell_host(&ToHost::Wake);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.hang(&format!("was silent for {} s: it hangs", SILENCE.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => self.fail("lost its keeper's threads"),
            }
        }
        self.failure.take()
    }

    fn is_over(&self) -> bool {
        self.failure.is_some() || (self.owner_ended && self.sessions.is_empty())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start {
                session,
                command,
                output,
            } => self.start(session, command, output),
            Event::RunnerGone { session } => self.runner_gone(session),
            Event::Taken { session, len_bytes } => {
                if self.sessions.contains_key(&session) {
                    self.tell_host(&ToHost::Taken { session, len_bytes });
                }
            }
            Event::FromHost(message) => self.host_said(message),
            Event::LinkEnded => self.fail("ended"),
            Event::FilesEnded => self.later(FOLLOW, Event::FilesEndedAlone),
            Event::FilesEndedAlone => self.fail("lost its file system: virtiofsd ended"),
            Event::OwnerEnded => self.owner_ended = true,
            Event::BootPatienceEnded => {
                if self.waiting.is_some() {
                    self.hang("did not become ready in time");
                }
            }
        }
    }

    fn later(&self, delay: Duration, event: Event) {
        let events = self.events.clone();
        thread::spawn(move || {
            thread::sleep(delay);
            // The desk may have closed by then.
            let _ = events.send(event);
        });
    }

    fn fail(&mut self, reason: &str) {
        self.end(reason, false);
    }

    fn hang(&mut self, reason: &str) {
        self.end(reason, true);
    }

    fn end(&mut self, reason: &str, hangs: bool) {
        // The first reason is the one that explains the others.
        self.failure.get_or_insert_with(|| Failure {
            reason: reason.to_owned(),
            hangs,
        });
    }

    fn tell_host(&mut self, message: &ToHost) {
        if let Err(error) = send(&self.link, message) {
            self.fail(&format!("does not listen any more: {error}"));
        }
    }

    fn start(&mut self, session: u64, command: Command, output: UnixStream) {
        let (to_runner, messages) = mpsc::channel();
        let events = self.events.clone();
        let writer = thread::spawn(move || write_to_runner(session, &output, &messages, &events));
        self.sessions.insert(session, Session { to_runner, writer });
        match &mut self.waiting {
            Some(waiting) => waiting.push((session, command)),
            None => self.hand_over(session, command),
        }
    }

    fn hand_over(&mut self, session: u64, command: Command) {
        if let Some(found) = self.sessions.get(&session) {
            let _ = found.to_runner.send(ToRunner::Started);
        }
        self.tell_host(&ToHost::Start { session, command });
    }

    fn runner_gone(&mut self, session: u64) {
        if let Some(waiting) = &mut self.waiting {
            waiting.retain(|(number, _)| *number != session);
        }
        if self.close(session, None) && self.waiting.is_none() {
            self.tell_host(&ToHost::Kill { session });
        }
    }

    fn host_said(&mut self, message: FromHost) {
        match message {
            FromHost::Ready => {
                for (session, command) in self.waiting.take().unwrap_or_default() {
                    self.hand_over(session, command);
                }
            }
            // That it came is all that it says.
            FromHost::Alive => {}
            FromHost::Unusable(reason) => self.fail(&format!("cannot be used: {reason}")),
            FromHost::Output {
                session,
                stream,
                bytes,
            } => {
                if let Some(found) = self.sessions.get(&session) {
                    // Its writer is gone when its runner is, which is told separately.
                    let _ = found.to_runner.send(ToRunner::Output(stream, bytes));
                }
            }
            FromHost::Ended { session, status } => {
                self.close(session, Some(ToRunner::Ended(status)));
            }
            FromHost::Failed { session, reason } => {
                self.close(session, Some(ToRunner::Failed(reason)));
            }
        }
    }

    /// Ends a session with a last message; false when there is no such session.
    fn close(&mut self, session: u64, last: Option<ToRunner>) -> bool {
        let Some(found) = self.sessions.remove(&session) else {
            return false;
        };
        if let Some(last) = last {
            let _ = found.to_runner.send(last);
        }
        self.leaving.retain(|writer| !writer.is_finished());
        self.leaving.push(found.writer);
        true
    }

    /// Tells every runner that its process is lost.
    pub fn fail_all(&mut self, text: &str) {
        let sessions: Vec<u64> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close(session, Some(ToRunner::HostLost(text.to_owned())));
        }
    }

    /// Waits for the last messages.
    pub fn finish(self) {
        for writer in self.leaving {
            // Its panic, if any, has no one left to hurt.
            let _ = writer.join();
        }
    }
}

fn write_to_runner(
    session: u64,
    output: &UnixStream,
    messages: &Receiver<ToRunner>,
    events: &Sender<Event>,
) {
    let result = messages.iter().try_for_each(|message| {
        let len_bytes = match &message {
            ToRunner::Output(_, bytes) => bytes.len(),
            _ => {
                output.set_write_timeout(Some(FAREWELL))?;
                0
            }
        };
        send(output, &message)?;
        if let Ok(len_bytes) = u32::try_from(len_bytes)
            && len_bytes > 0
        {
            let _ = events.send(Event::Taken { session, len_bytes });
        }
        io::Result::Ok(())
    });
    // Either way the conversation is over; the reader of this stream notices.
    let _ = result;
    let _ = output.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::messages::receive;
    use crate::owner::Owner;

    fn config() -> Config {
        Config {
            owner: Owner::Current.process().expect("this process"),
            init: PathBuf::new(),
            kernel: PathBuf::new(),
            initramfs: None,
            cpu: String::new(),
            modules: Vec::new(),
            qemu: PathBuf::new(),
            virtiofsd: PathBuf::new(),
        }
    }

    #[test]
    fn a_host_that_says_nothing_is_woken() {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let (events, inbox) = mpsc::channel();
        events.send(Event::FromHost(FromHost::Ready)).expect("open");
        let mut desk = Desk::new(&config(), near, events.clone());
        // Before there is a desk that waits: the host's thread may begin late.
        let start = Instant::now();
        let host = thread::spawn(move || {
            while !matches!(receive(&mut far), Ok(Some(ToHost::Wake) | None)) {}
            events.send(Event::LinkEnded).expect("open");
            start.elapsed()
        });
        let failure = desk.serve(&inbox).expect("the line ended");
        assert_eq!(failure.reason, "ended");
        assert!(!failure.hangs);
        assert!(host.join().expect("it ran") >= WAKE_AFTER);
    }
}
