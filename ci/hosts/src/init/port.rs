//! The line out of the software host: a virtio-serial port, or a port of the processor.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
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

/// A port of the processor, to which bytes are written one by one.
#[derive(Debug)]
pub struct ProcessorPort {
    number: u16,
}

impl ProcessorPort {
    /// The port with this number, for this thread and those that it makes later.
    ///
    /// There is no /dev/port in a kernel for clouds.
    pub fn open(number: u16) -> io::Result<Self> {
        // SAFETY: the call changes which ports this thread may use and no memory.
        let result = unsafe { libc::ioperm(number.into(), 1, 1) };
        if result == 0 {
            Ok(Self { number })
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Write for ProcessorPort {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the instruction reads `bytes.len()` bytes from `bytes` on and writes
        // them to a port that `open` has enabled; what listens there is the emulator,
        // which only copies them or ends.
        unsafe {
            std::arch::asm!(
                "rep outsb",
                in("dx") self.number,
                inout("rsi") bytes.as_ptr() => _,
                inout("rcx") bytes.len() => _,
                options(nostack, preserves_flags, readonly),
            );
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sending side, shared by all sessions.
pub struct Line {
    port: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    /// The sending side of an open port.
    pub fn new(port: impl Write + Send + 'static) -> Self {
        Self {
            port: Mutex::new(Box::new(port)),
        }
    }

    /// Sends one message, whole.
    pub fn send(&self, message: &FromHost) -> io::Result<()> {
        // A thread that panicked while sending would have ended the process.
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut *port, message)
    }
}
