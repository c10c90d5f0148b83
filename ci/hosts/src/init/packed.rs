//! Inside a software host that runs one program out of a packed root file system.
//!
//! What to run stands in a file of that file system; what comes of it goes out by a
//! printer, which the emulator has write to a pipe.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::port::{Line, Printer, ProcessorPort};
use super::process::{Process, Window};
use super::server::{prepare, say_alive};
use crate::messages::{Command, FromHost};

/// Where the task stands.
pub const TASK_PATH: &str = "/.mapwitness/task";
/// There is one session, with this number.
pub const SESSION: u64 = 1;

/// The emulator ends when this port is told so, by the word: Bochs,
/// iodev/unmapped.cc.
const SWITCH_PORT: u16 = 0x8900;
const SWITCH_WORD: &[u8] = b"Shutdown";

/// What the host is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Modules to load, in this order: paths.
    pub modules: Vec<Vec<u8>>,
    /// The one program to run.
    pub command: Command,
}

/// Does the task and tells of it.
pub fn serve() -> io::Result<()> {
    let line = Arc::new(Line::new(Printer::open()?));
    let task = read_task(Path::new(TASK_PATH));
    let prepared = task.and_then(|task| {
        let modules = task.modules.into_iter();
        prepare(modules.map(|path| PathBuf::from(OsString::from_vec(path))))?;
        Ok(task.command)
    });
    let command = match prepared {
        Ok(command) => command,
        Err(error) => return line.send(&FromHost::Unusable(error.to_string())),
    };
    line.send(&FromHost::Ready)?;
    say_alive(Arc::clone(&line));
    let last = match start(command) {
        Ok(process) => FromHost::Ended {
            session: SESSION,
            status: process.attend(&line, &Window::without_limit()),
        },
        Err(error) => FromHost::Failed {
            session: SESSION,
            reason: error.to_string(),
        },
    };
    line.send(&last)
}

fn read_task(path: &Path) -> io::Result<Task> {
    let bytes = fs::read(path)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

/// The working directory exists outside; here only what was packed does.
fn start(command: Command) -> io::Result<Process> {
    fs::create_dir_all(PathBuf::from(OsString::from_vec(command.cwd.clone())))?;
    Process::spawn(SESSION, command)
}

/// Ends the emulator. Returns when that did not work.
pub fn switch_off() {
    match ProcessorPort::open(SWITCH_PORT) {
        Ok(port) => SWITCH_WORD.iter().for_each(|byte| port.put(*byte)),
        Err(error) => eprintln!("mapwitness: cannot end the emulator: {error}"),
    }
}
