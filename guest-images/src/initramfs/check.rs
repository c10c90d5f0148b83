//! Reads an initramfs back, before a guest is booted with half of one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use cpio::newc::Reader;

use super::{Error, archive_error};

/// Name of the entry that ends an archive.
pub(super) const TRAILER_NAME: &str = "TRAILER!!!";
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const ANY_EXECUTABLE: u32 = 0o111;

/// One entry that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Path in the guest, absolute.
    pub path: String,
    /// Type and permissions, as st_mode of stat(2).
    pub mode: u32,
    /// Bytes of its content.
    pub len_bytes: u32,
}

/// Reads the initramfs at `path` to its end, all its archives, and gives what is in
/// it, in the order in which the kernel unpacks it.
///
/// # Errors
/// [`Error::Truncated`], [`Error::Foreign`], or [`Error::NoInit`] when the kernel
/// would find no program to start.
pub fn check(path: &Path) -> Result<Vec<Listed>, Error> {
    let file = File::open(path).map_err(archive_error("read", path))?;
    let mut reader = Counting {
        inner: BufReader::new(file),
        offset_bytes: 0,
    };
    let mut found = Vec::new();
    // An empty file is cut off too: hence at least one archive.
    loop {
        if let Err(error) = read_archive(&mut reader, &mut found) {
            return Err(classify(path, &reader, &found, error));
        }
        let more = reader.skip_zeros().map_err(archive_error("read", path))?;
        if !more {
            break;
        }
    }
    let is_init = |entry: &Listed| {
        entry.path == "/init"
            && entry.mode & TYPE_MASK == REGULAR
            && entry.mode & ANY_EXECUTABLE != 0
            && entry.len_bytes > 0
    };
    if !found.iter().any(is_init) {
        let paths: Vec<_> = found.iter().map(|entry| entry.path.as_str()).collect();
        return Err(Error::NoInit {
            path: path.into(),
            found: paths.join(" "),
        });
    }
    Ok(found)
}

/// One archive up to and with its trailer.
fn read_archive(mut reader: &mut Counting, found: &mut Vec<Listed>) -> io::Result<()> {
    loop {
        let entry = Reader::new(reader)?;
        let header = entry.entry();
        let is_trailer = header.is_trailer();
        if !is_trailer {
            found.push(Listed {
                path: format!("/{}", header.name()),
                mode: header.mode(),
                len_bytes: header.file_size(),
            });
        }
        reader = entry.finish()?;
        if is_trailer {
            return Ok(());
        }
    }
}

fn classify(path: &Path, reader: &Counting, found: &[Listed], error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::Truncated {
            path: path.into(),
            len_bytes: reader.offset_bytes,
            last: found
                .last()
                .map_or_else(|| "its first entry".into(), |entry| entry.path.clone()),
        },
        ErrorKind::InvalidData => Error::Foreign {
            path: path.into(),
            offset_bytes: reader.offset_bytes,
            why: error.to_string(),
        },
        _ => archive_error("read", path)(error),
    }
}

/// A reader that knows where it is.
struct Counting {
    inner: BufReader<File>,
    offset_bytes: u64,
}

impl Counting {
    /// Skips the zeros between two archives; false at the end of the file.
    fn skip_zeros(&mut self) -> io::Result<bool> {
        loop {
            let buffer = self.inner.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
            let more = zeros < buffer.len();
            self.inner.consume(zeros);
            self.offset_bytes = self.offset_bytes.saturating_add(zeros as u64);
            if more {
                return Ok(true);
            }
        }
    }
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.offset_bytes = self.offset_bytes.saturating_add(got as u64);
        Ok(got)
    }
}
