//! The keeper: a process of its own that owns one software host.
//!
//! It lives in its own session, so that Ctrl-C does not reach it, and ends when the
//! process that it keeps the host for has ended and nobody is connected. QEMU and
//! virtiofsd die with it, however it dies.

pub(crate) mod config;
mod console;
mod desk;
mod machine;
mod processor;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::messages::{FromHost, FromRunner, receive};
use crate::rundir;
use config::Config;
pub(crate) use console::explain_ending;
use desk::{Desk, Event};
use machine::Machine;
pub(crate) use machine::PORT_NAME;

/// What the keeper says on its standard output once it may be connected to.
pub(crate) const LISTENING: &str = "listening";
/// Between the end of the line to init and the end of QEMU.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the software host that the run folder describes; returns the exit status.
///
/// The first word on standard output is `listening`, or the reason why not.
pub fn main(run_dir: &Path) -> i32 {
    // Refused only to the leader of a process group, which is as good.
    let _ = rustix::process::setsid();
    match keep(run_dir) {
        Ok(()) => 0,
        Err(error) => {
            // Whoever started the keeper reads this; later it is gone.
            let _ = writeln!(io::stdout(), "{error}");
            log(run_dir, &error.to_string());
            2
        }
    }
}

fn log(run_dir: &Path, text: &str) {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(run_dir.join(rundir::LOG));
    if let Ok(mut file) = file {
        // The folder may be gone with everything else.
        let _ = writeln!(file, "keeper: {text}");
    }
}

fn keep(run_dir: &Path) -> io::Result<()> {
    let config = Config::read(run_dir)?;
    let _alive = rundir::mark_alive(run_dir)?;
    let Some(owner) = config.owner.open()? else {
        return Err(io::Error::other("the process to keep the host for is gone"));
    };
    let listener = UnixListener::bind(run_dir.join(rundir::SOCKET))?;
    // From the main thread: the machine's processes die with it.
    let (machine, link) = Machine::start(&config, run_dir)?;
    let (events, inbox) = mpsc::channel();
    watch(owner, Event::OwnerEnded, events.clone());
    watch(machine.virtiofsd_end()?, Event::FilesEnded, events.clone());
    read_link(link.try_clone()?, events.clone());
    accept(listener, events.clone());
    say_listening()?;
    let mut desk = Desk::new(&config, link, events);
    let failure = desk.serve(&inbox);
    let stands = failure.as_ref().filter(|failure| failure.hangs);
    let stands = stands.map(|_| processor::tell(run_dir));
    // No more connections; who comes now starts a new host.
    let _ = fs::remove_file(run_dir.join(rundir::SOCKET));
    let patience = if failure.is_some() {
        EXIT_PATIENCE
    } else {
        Duration::ZERO
    };
    let status = machine.stop(patience);
    if let Some(failure) = failure {
        let mut text = console::explain(run_dir, &failure.reason, status.as_deref());
        if let Some(stands) = stands {
            console::append_lines(&mut text, "where its processor stands", stands.lines());
        }
        log(run_dir, &text);
        desk.fail_all(&text);
    }
    desk.finish();
    fs::remove_dir_all(run_dir)
}

/// Says so and lets go of standard output, for whose end the starter may wait.
fn say_listening() -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{LISTENING}")?;
    stdout.flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}

/// Sends `event` when the process behind the descriptor has ended.
fn watch(process: OwnedFd, event: Event, events: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let mut fds = [PollFd::new(&process, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                // An error counts as the end: a host that nobody watches over must
                // not stay behind.
                Ok(_) | Err(_) => break,
            }
        }
        let _ = events.send(event);
    });
}

fn read_link(mut link: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        while let Ok(Some(message)) = receive::<FromHost>(&mut link) {
            if events.send(Event::FromHost(message)).is_err() {
                return;
            }
        }
        let _ = events.send(Event::LinkEnded);
    });
}

fn accept(listener: UnixListener, events: Sender<Event>) {
    thread::spawn(move || {
        for (session, stream) in (1..).zip(listener.incoming()) {
            let Ok(stream) = stream else { return };
            let events = events.clone();
            thread::spawn(move || serve_runner(session, stream, &events));
        }
    });
}

/// Hands a runner's command to the desk, then waits for the runner's end.
fn serve_runner(session: u64, mut stream: UnixStream, events: &Sender<Event>) {
    let Ok(Some(FromRunner::Start(command))) = receive(&mut stream) else {
        return;
    };
    let Ok(output) = stream.try_clone() else {
        return;
    };
    let start = Event::Start {
        session,
        command,
        output,
    };
    if events.send(start).is_err() {
        return;
    }
    wait_for_hangup(&stream);
    let _ = events.send(Event::RunnerGone { session });
}

/// A runner says nothing after its command; anything readable is its end.
fn wait_for_hangup(stream: &UnixStream) {
    loop {
        let fd = stream.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}
