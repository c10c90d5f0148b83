//! The line out of the software host: a virtio-serial port, or a printer.

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

/// A port of the processor.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorPort {
    number: u16,
}

impl ProcessorPort {
    /// The port with this number, for this thread and those that it makes later.
    ///
    /// A kernel for clouds has no /dev/port.
    pub fn open(number: u16) -> io::Result<Self> {
        // SAFETY: the call changes which ports this thread may use and no memory.
        let result = unsafe { libc::ioperm(number.into(), 1, 1) };
        if result == 0 {
            Ok(Self { number })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Writes a byte to it.
    pub fn put(self, byte: u8) {
        // SAFETY: the instruction touches no memory; `open` has enabled the port for
        // this thread or its maker, and what listens there is an emulated device.
        unsafe {
            std::arch::asm!(
                "out dx, al",
                in("dx") self.number,
                in("al") byte,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

/// A printer at the first parallel port (IEEE 1284, compatibility mode), which takes
/// each byte at once: an emulated one.
#[derive(Debug)]
pub struct Printer {
    data: ProcessorPort,
    control: ProcessorPort,
}

impl Printer {
    const DATA: u16 = 0x378;
    const CONTROL: u16 = 0x37a;
    const STROBE: u8 = 1 << 0;
    const SELECT: u8 = 1 << 3;

    /// Selects it.
    pub fn open() -> io::Result<Self> {
        let control = ProcessorPort::open(Self::CONTROL)?;
        control.put(Self::SELECT);
        Ok(Self {
            data: ProcessorPort::open(Self::DATA)?,
            control,
        })
    }
}

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.data.put(*byte);
            self.control.put(Self::SELECT | Self::STROBE);
            self.control.put(Self::SELECT);
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
