//! The kernel's log, and with it the console, for what cannot go over the wire.
//!
//! A thread of the kernel's writes the console once it gets to run; before the guest ends all
//! is out. The tty of the same console would lose what is under way.

use std::ffi::CStr;
use std::panic;

use wire::{MAX_IO_LEN_BYTES, Value};

use crate::outcome::Outcome;
use crate::sys::{self, Errno};

const KMSG: &CStr = c"/dev/kmsg";
/// Error level: shown on the console even when the guest boots `quiet`.
const PREFIX: &[u8] = b"<3>mapwitness-agent: ";
/// Longest text of one record; printk refuses records above 1024 bytes with their
/// prefix (`PRINTKRB_RECORD_MAX` of kernel/printk/internal.h).
const MAX_RECORD_LEN_BYTES: usize = 960;

/// Writes `text`, one record a line, longer lines in pieces.
///
/// # Errors
/// Why /dev/kmsg cannot be opened or written.
pub fn log(text: &str) -> Result<(), Errno> {
    for line in text.lines() {
        let mut rest = line;
        loop {
            let (piece, remainder) = rest.split_at(floor_boundary(rest, MAX_RECORD_LEN_BYTES));
            write_record(piece.as_bytes())?;
            rest = remainder;
            if rest.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

/// As [`log`], and to standard error where there is no /dev/kmsg.
pub fn report(text: &str) {
    if log(text).is_err() {
        eprintln!("mapwitness-agent: {text}");
    }
}

/// Lets panics of the agent reach the console.
pub fn report_panics() {
    panic::set_hook(Box::new(|info| report(&info.to_string())));
}

/// Writes one record. Allocates nothing: signal handlers call it too.
///
/// # Errors
/// Why /dev/kmsg cannot be opened or written.
pub fn write_record(text: &[u8]) -> Result<(), Errno> {
    let mut record = [0; PREFIX.len() + MAX_RECORD_LEN_BYTES + 1];
    let text = text.get(..MAX_RECORD_LEN_BYTES).unwrap_or(text);
    let (prefix, body) = record.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    body[..text.len()].copy_from_slice(text);
    // A record without an end stays open for more, and nobody gets to read it before
    // another one comes (`vprintk_store` of kernel/printk/printk.c).
    body[text.len()] = b'\n';
    let len = PREFIX.len() + text.len() + 1;

    // Opened anew each time: the kernel limits the rate of each open file.
    // SAFETY: KMSG is a NUL-terminated string.
    let fd = unsafe { libc::open(KMSG.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: `record` is live and at least `len` bytes long.
    let written = unsafe { libc::write(fd, record.as_ptr().cast(), len) };
    let result = if written < 0 {
        Err(Errno::last())
    } else {
        Ok(())
    };
    // SAFETY: `fd` was opened above and nobody else knows it.
    unsafe { libc::close(fd) };
    result
}

/// Notices what comes to the kernel's log; forked processes share what they have noticed.
#[derive(Debug)]
pub struct Watch {
    fd: i32,
}

impl Watch {
    /// From here on.
    ///
    /// # Errors
    /// Why /dev/kmsg cannot be opened.
    pub fn start() -> Result<Self, Errno> {
        let fd = sys::open_apart(KMSG, libc::O_RDONLY | libc::O_NONBLOCK)?;
        let watch = Self { fd };
        watch.has_news();
        Ok(watch)
    }

    /// Whether anything has come since this was asked last.
    pub fn has_news(&self) -> bool {
        let mut asked = libc::pollfd {
            fd: self.fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `asked` is the one live pollfd; at a timeout of 0 nothing is waited for.
        let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
        if ready == 0 {
            return false;
        }
        // SAFETY: lseek(2) takes numbers; this file knows no positions but those of
        // Documentation/ABI/testing/dev-kmsg.
        unsafe { libc::lseek(self.fd, 0, libc::SEEK_END) };
        true
    }
}

/// What the kernel's log holds; the last of it where it holds more than fits a reply.
pub fn read_all() -> Outcome {
    /// `SYSLOG_ACTION_READ_ALL` of syslog(2).
    const READ_ALL: i32 = 3;
    let mut bytes = vec![0_u8; MAX_IO_LEN_BYTES];
    let most = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: `bytes` is live and `most` bytes long or longer.
    let len = unsafe { libc::klogctl(READ_ALL, bytes.as_mut_ptr().cast(), most) };
    let len = usize::try_from(len).map_err(|_| Errno::last())?;
    bytes.truncate(len);
    Ok(Value::Bytes(bytes))
}

/// Largest character boundary of `text` at or below `limit`.
fn floor_boundary(text: &str, limit: usize) -> usize {
    let mut at = limit.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_never_falls_into_a_character() {
        assert_eq!(floor_boundary("aé", 2), 1);
        assert_eq!(floor_boundary("aé", 3), 3);
        assert_eq!(floor_boundary("aé", 9), 3);
        assert_eq!(floor_boundary("", 9), 0);
    }
}
