//! Starts and ends processes as the keeper says.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::mounts::{self, Writable};
use super::port::{self, Line};
use super::process::{Process, Window};
use crate::keeper::PORT_NAME;
use crate::messages::{ALIVE_EVERY, Command, FromHost, ToHost, receive};
use crate::probe::{Probe, probe};

type Windows = Arc<Mutex<HashMap<u64, Arc<Window>>>>;

/// Serves until the line to the keeper ends.
pub fn serve() -> io::Result<()> {
    let mut port = port::open(PORT_NAME)?;
    let line = Arc::new(Line::new(port.try_clone()?));
    let Some(ToHost::Setup { modules }) = receive(&mut port)? else {
        return Err(io::Error::other("the keeper did not say what to load"));
    };
    let modules = modules
        .iter()
        .map(|module| mounts::outer(Path::new(OsStr::from_bytes(module))));
    let readiness = match prepare(modules) {
        Ok(()) => FromHost::Ready,
        Err(error) => FromHost::Unusable(error.to_string()),
    };
    line.send(&readiness)?;
    if let FromHost::Unusable(reason) = readiness {
        return Err(io::Error::other(reason));
    }
    say_alive(Arc::clone(&line));
    let windows = Windows::default();
    let mut writable = Writable::default();
    while let Some(message) = receive::<ToHost>(&mut port)? {
        match message {
            ToHost::Setup { .. } | ToHost::Wake => {}
            ToHost::Start { session, command } => {
                start(session, command, &mut writable, &line, &windows)?;
            }
            ToHost::Kill { session } => {
                if let Some(window) = lookup(&windows, session) {
                    window.close();
                    super::process::kill_session(session);
                }
            }
            ToHost::Taken { session, len_bytes } => {
                if let Some(window) = lookup(&windows, session) {
                    window.give_back(len_bytes);
                }
            }
        }
    }
    Ok(())
}

/// Until the line ends, and the host with it.
pub(super) fn say_alive(line: Arc<Line>) {
    thread::spawn(move || {
        while line.send(&FromHost::Alive).is_ok() {
            thread::sleep(ALIVE_EVERY);
        }
    });
}

fn lookup(windows: &Windows, session: u64) -> Option<Arc<Window>> {
    let windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
    windows.get(&session).cloned()
}

/// Loads the modules and sees that this really is a host.
pub(super) fn prepare(modules: impl IntoIterator<Item = PathBuf>) -> io::Result<()> {
    for path in modules {
        let context =
            |error: io::Error| io::Error::other(format!("cannot load {}: {error}", path.display()));
        let file = File::open(&path).map_err(context)?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(context(error.into())),
        }
    }
    match probe() {
        Probe::Usable { .. } => Ok(()),
        other => Err(io::Error::other(other.to_string())),
    }
}

fn start(
    session: u64,
    command: Command,
    writable: &mut Writable,
    line: &Arc<Line>,
    windows: &Windows,
) -> io::Result<()> {
    let folders = command.writable.iter().cloned();
    let bound = folders
        .map(|folder| PathBuf::from(OsString::from_vec(folder)))
        .try_for_each(|folder| writable.add(&folder));
    let window = Arc::new(Window::default());
    let spawned = bound.and_then(|()| Process::spawn(session, command));
    let process = match spawned {
        Ok(process) => process,
        Err(error) => {
            return line.send(&FromHost::Failed {
                session,
                reason: error.to_string(),
            });
        }
    };
    windows
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(session, Arc::clone(&window));
    let (line, windows) = (Arc::clone(line), Arc::clone(windows));
    thread::spawn(move || {
        let status = process.attend(&line, &window);
        windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&session);
        // Without a line the main thread ends the host.
        let _ = line.send(&FromHost::Ended { session, status });
    });
    Ok(())
}
