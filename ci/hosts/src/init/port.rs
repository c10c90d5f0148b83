//! The line to the keeper: a virtio-serial port.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::messages::{FromHost, send};

const CLASS: &str = "/sys/class/virtio-ports";

/// Opens the port of that name, for reading.
pub fn open(name: &str) -> io::Result<File> {
    let device = find(Path::new(CLASS), name)?;
    OpenOptions::new().read(true).write(true).open(device)
}

fn find(class: &Path, name: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir(class)? {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == name {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio-serial port is called {name}"),
    ))
}

/// The sending side, shared by all sessions.
#[derive(Debug)]
pub struct Line {
    port: Mutex<File>,
}

impl Line {
    /// The sending side of an open port.
    pub fn new(port: File) -> Self {
        Self {
            port: Mutex::new(port),
        }
    }

    /// Sends one message, whole.
    pub fn send(&self, message: &FromHost) -> io::Result<()> {
        // A thread that panicked while sending would have ended the process.
        let port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*port, message)
    }
}
