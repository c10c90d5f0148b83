//! What the runner, the keeper and the software host's init say to each other.
//!
//! A frame is a length (u32, little endian) and that many bytes of postcard. All
//! parties are the same program, so there is no version to negotiate: the run
//! folder is keyed by the program's contents.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest frame; a command with a large environment fits by far.
const MAX_FRAME_LEN_BYTES: u32 = 16 * 1024 * 1024;
/// Output of one session that may be under way before the runner has taken it, so
/// that one stalled terminal neither stops the others nor fills memory.
pub const WINDOW_LEN_BYTES: u32 = 256 * 1024;
/// Bytes of output in one frame.
pub const CHUNK_LEN_BYTES: usize = 16 * 1024;

/// How often a host says that it is alive.
pub const ALIVE_EVERY: Duration = Duration::from_secs(2);

/// A process to carry. Paths and strings are bytes, as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// umask.
    pub umask: u32,
    /// Folders that the process may write and whose contents come back.
    pub writable: Vec<Vec<u8>>,
}

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// From the runner to the keeper. The end of the connection ends the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRunner {
    /// First and only command of a connection.
    Start(Command),
}

/// From the keeper to the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRunner {
    /// The host is up and the command was handed to it.
    Started,
    /// Output.
    Output(Stream, Vec<u8>),
    /// The process ended with this status; 128 + n for signal n. Last message.
    Ended(i32),
    /// The process could not be started. Last message.
    Failed(String),
    /// The host is gone, and the process with it. Last message.
    HostLost(String),
}

/// From the keeper to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// First message: load these modules, in this order.
    Setup {
        /// Paths.
        modules: Vec<Vec<u8>>,
    },
    /// Start a process.
    Start {
        /// Number of the session, never used twice.
        session: u64,
        /// What to start.
        command: Command,
    },
    /// Kill a process and all that it started.
    Kill {
        /// Session.
        session: u64,
    },
    /// So much output was taken by the runner.
    Taken {
        /// Session.
        session: u64,
        /// Bytes.
        len_bytes: u32,
    },
    /// Nothing is to be done: what counts is the interrupt by which it arrives.
    Wake,
}

/// From init to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHost {
    /// Processes may be started.
    Ready,
    /// Said every [`ALIVE_EVERY`], so that a host which stands still is noticed.
    Alive,
    /// The host cannot be used; it powers off after this.
    Unusable(String),
    /// Output of a process.
    Output {
        /// Session.
        session: u64,
        /// Which output.
        stream: Stream,
        /// Bytes.
        bytes: Vec<u8>,
    },
    /// A process ended and all its output was sent.
    Ended {
        /// Session.
        session: u64,
        /// Status; 128 + n for signal n.
        status: i32,
    },
    /// A process could not be started.
    Failed {
        /// Session.
        session: u64,
        /// Why.
        reason: String,
    },
}

/// Writes one frame.
pub fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let len = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|len| *len <= MAX_FRAME_LEN_BYTES)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message too large"))?;
    frame
        .iter_mut()
        .zip(len.to_le_bytes())
        .for_each(|(to, from)| *to = from);
    // In one piece: several threads share the way to the host under a lock, and one
    // write is one exit from the emulated machine.
    to.write_all(&frame)?;
    to.flush()
}

/// Reads one frame; `None` at the end of the stream.
pub fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = u32::from_le_bytes(len);
    if len > MAX_FRAME_LEN_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("frame of {len} bytes"),
        ));
    }
    let mut payload = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut payload)?;
    if payload.len() != len as usize {
        return Ok(None);
    }
    match postcard::take_from_bytes(&payload) {
        Ok((message, [])) => Ok(Some(message)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the frame does not decode",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other() {
        let mut wire = Vec::new();
        let first = ToHost::Kill { session: 7 };
        let second = ToHost::Taken {
            session: u64::MAX,
            len_bytes: 3,
        };
        send(&mut wire, &first).expect("written");
        send(&mut wire, &second).expect("written");
        let mut rest = wire.as_slice();
        assert_eq!(receive(&mut rest).expect("valid"), Some(first));
        assert_eq!(receive(&mut rest).expect("valid"), Some(second));
        assert_eq!(receive::<ToHost>(&mut rest).expect("end"), None);
    }

    #[test]
    fn a_frame_cut_short_is_the_end() {
        let mut wire = Vec::new();
        send(&mut wire, &ToRunner::Failed("half".into())).expect("written");
        wire.pop();
        assert_eq!(receive::<ToRunner>(wire.as_slice()).expect("end"), None);
    }

    #[test]
    fn hostile_frames_are_errors() {
        assert!(receive::<ToHost>([0xff; 8].as_slice()).is_err());
        assert!(receive::<ToHost>([1, 0, 0, 0, 99].as_slice()).is_err());
        let trailing = [2, 0, 0, 0, 0, 0];
        assert!(receive::<FromHost>(trailing.as_slice()).is_err());
    }
}
