//! Framing of one message in the area: a fixed header, then postcard bytes.

use alloc::vec::Vec;
use core::fmt;
use serde::{Serialize, de::DeserializeOwned};

use crate::{AREA_LEN_BYTES, Answer, Request, VERSION};

/// Who wrote a message. Each has its own magic, so that a side which finds its
/// own message at its turn knows that the other one has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The VMM, with a [`Request`].
    Host,
    /// The guest's agent, with an [`Answer`].
    Agent,
}

impl Sender {
    const fn magic(self) -> u32 {
        match self {
            Self::Host => u32::from_le_bytes(*b"MWRQ"),
            Self::Agent => u32::from_le_bytes(*b"MWRP"),
        }
    }

    fn of_magic(magic: u32) -> Option<Self> {
        [Self::Host, Self::Agent]
            .into_iter()
            .find(|sender| sender.magic() == magic)
    }
}

/// A type that travels in a frame of its own.
pub trait Message: Serialize + DeserializeOwned {
    /// Which side sends it.
    const SENDER: Sender;
}

impl Message for Request {
    const SENDER: Sender = Sender::Host;
}

impl Message for Answer {
    const SENDER: Sender = Sender::Agent;
}

/// Fixed layout at the start of the area, all fields little endian u32: magic of
/// the sender, version, payload bytes. Never changes between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who wrote the message.
    pub sender: Sender,
    /// [`crate::VERSION`] of the sender.
    pub version: u32,
    /// Bytes after the header.
    pub payload_len_bytes: u32,
}

impl Header {
    /// Bytes of the header in the area.
    pub const LEN_BYTES: usize = 12;

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::Magic`], [`FrameError::Version`] or [`FrameError::Length`]
    /// when it is not one that this side can go on with.
    pub fn parse(bytes: [u8; Self::LEN_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let Some(sender) = Sender::of_magic(word(0)) else {
            return Err(FrameError::Magic { found: word(0) });
        };
        let header = Self {
            sender,
            version: word(4),
            payload_len_bytes: word(8),
        };
        if header.version != VERSION {
            return Err(FrameError::Version {
                found: header.version,
            });
        }
        if header.payload_len_bytes as usize > AREA_LEN_BYTES - Self::LEN_BYTES {
            return Err(FrameError::Length {
                found: header.payload_len_bytes as usize,
            });
        }
        Ok(header)
    }
}

/// Why a message cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No message stands in the area.
    Magic {
        /// What stands where the magic should.
        found: u32,
    },
    /// The other side speaks another version.
    Version {
        /// Its version.
        found: u32,
    },
    /// The payload does not fit the area.
    Length {
        /// Its length in bytes.
        found: usize,
    },
    /// The payload is not a message of this version.
    Payload,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { found } => {
                write!(f, "no message in the area (magic {found:#010x})")
            }
            Self::Version { found } => write!(
                f,
                "the other side speaks version {found} of the messages, this side {VERSION}; \
                 rebuild the guest image with `mapwitness images build`"
            ),
            Self::Length { found } => write!(
                f,
                "message of {found} bytes does not fit the area of {AREA_LEN_BYTES}"
            ),
            Self::Payload => f.write_str("the message does not decode"),
        }
    }
}

impl core::error::Error for FrameError {}

/// A whole frame, header and payload, ready to be copied to the area's start.
///
/// # Errors
/// [`FrameError::Length`] when it does not fit.
pub fn encode<T: Message>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = alloc::vec![0; Header::LEN_BYTES];
    frame = postcard::to_extend(message, frame).map_err(|_| FrameError::Payload)?;
    let payload_len_bytes = frame.len() - Header::LEN_BYTES;
    if frame.len() > AREA_LEN_BYTES {
        return Err(FrameError::Length {
            found: payload_len_bytes,
        });
    }
    let payload_len_bytes = u32::try_from(payload_len_bytes).map_err(|_| FrameError::Length {
        found: payload_len_bytes,
    })?;
    frame[0..4].copy_from_slice(&T::SENDER.magic().to_le_bytes());
    frame[4..8].copy_from_slice(&VERSION.to_le_bytes());
    frame[8..12].copy_from_slice(&payload_len_bytes.to_le_bytes());
    Ok(frame)
}

/// The message in `payload`, the bytes that follow the header.
///
/// # Errors
/// [`FrameError::Payload`] when the bytes are no such message, or not only one.
pub fn decode<T: Message>(payload: &[u8]) -> Result<T, FrameError> {
    whole(payload)
}

/// The bytes of a part of a message, which travel in it as bytes.
///
/// # Errors
/// [`FrameError::Payload`] when it cannot be written so.
pub fn part<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    postcard::to_allocvec(value).map_err(|_| FrameError::Payload)
}

/// What [`part`] was given.
///
/// # Errors
/// [`FrameError::Payload`] when the bytes are no such thing, or not only one.
pub fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_IO_LEN_BYTES, MAX_WORDS, OpenMode, Reply, Value};
    use alloc::string::String;

    fn done(value: Value) -> Answer {
        Answer {
            pid: 1,
            log_has_news: true,
            reply: Reply::Done(value),
        }
    }

    fn split(frame: &[u8]) -> (Result<Header, FrameError>, &[u8]) {
        let (head, payload) = frame.split_first_chunk().expect("a header");
        (Header::parse(*head), payload)
    }

    #[test]
    fn a_message_survives_the_area() {
        let reply = done(Value::Words(alloc::vec![u64::MAX; 3]));
        let frame = encode(&reply).expect("fits");
        let (header, payload) = split(&frame);
        let header = header.expect("valid");
        assert_eq!(header.sender, Sender::Agent);
        assert_eq!(header.payload_len_bytes as usize, payload.len());
        assert_eq!(decode(payload), Ok(reply));
    }

    /// Without the sender these two would be the same bytes.
    #[test]
    fn an_unanswered_reply_is_no_request() {
        let reply = encode(&done(Value::Unit)).expect("fits");
        let request = encode(&Request::Open {
            path: String::from("\u{1}"),
            mode: OpenMode::ReadOnly,
        })
        .expect("fits");
        assert_eq!(split(&reply).1, split(&request).1);
        assert_eq!(
            split(&reply).0.map(|header| header.sender),
            Ok(Sender::Agent)
        );
        assert_eq!(
            split(&request).0.map(|header| header.sender),
            Ok(Sender::Host)
        );
    }

    #[test]
    fn another_version_is_told_before_decoding() {
        let mut frame = encode(&Request::Fork).expect("fits");
        frame[4..8].copy_from_slice(&(VERSION + 1).to_le_bytes());
        assert_eq!(
            split(&frame).0,
            Err(FrameError::Version { found: VERSION + 1 })
        );
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert_eq!(
            Header::parse([0; Header::LEN_BYTES]),
            Err(FrameError::Magic { found: 0 })
        );
        let mut frame = encode(&Request::Fork).expect("fits");
        frame[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(split(&frame).0, Err(FrameError::Length { .. })));
        // A length prefix far beyond the bytes that follow.
        assert_eq!(
            decode::<Answer>(&[2, 1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            Err(FrameError::Payload)
        );
        let mut trailing = encode(&Request::Fork).expect("fits");
        trailing.push(0);
        assert_eq!(
            decode::<Request>(&trailing[Header::LEN_BYTES..]),
            Err(FrameError::Payload)
        );
    }

    #[test]
    fn the_longest_file_fits() {
        let reply = done(Value::Bytes(alloc::vec![0; MAX_IO_LEN_BYTES]));
        assert!(encode(&reply).is_ok());
        let words = alloc::vec![u64::MAX; MAX_WORDS as usize];
        assert!(encode(&done(Value::Words(words))).is_ok());
    }

    #[test]
    fn an_oversized_message_is_refused() {
        let reply = done(Value::Bytes(alloc::vec![0; AREA_LEN_BYTES]));
        assert!(matches!(encode(&reply), Err(FrameError::Length { .. })));
    }
}
