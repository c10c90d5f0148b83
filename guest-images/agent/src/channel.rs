//! The message area: frames in and out, by volatile words.

use std::ptr::NonNull;

use thiserror::Error;
use wire::{AREA_LEN_BYTES, Answer, FrameError, Header, Reply, Request, Sender};

const WORD_LEN_BYTES: usize = size_of::<u64>();

/// The message area as mapped into this process. The host writes it while the
/// vCPU stands still, so nothing here ever holds a reference into it.
#[derive(Debug)]
pub struct Area {
    start: NonNull<u64>,
}

impl Area {
    /// The area that begins at `start`.
    ///
    /// # Safety
    /// [`AREA_LEN_BYTES`] bytes from `start` must stay mapped, readable and
    /// writable for as long as the area lives, and nobody may hold a reference
    /// into them.
    pub const unsafe fn new(start: NonNull<u64>) -> Self {
        Self { start }
    }

    /// Copies `frame` to the area's start. What does not fit is left out; `wire`
    /// makes no such frame.
    fn write(&mut self, frame: &[u8]) {
        let words = frame
            .chunks(WORD_LEN_BYTES)
            .take(AREA_LEN_BYTES / WORD_LEN_BYTES);
        for (index, chunk) in words.enumerate() {
            let mut word = [0; WORD_LEN_BYTES];
            word[..chunk.len()].copy_from_slice(chunk);
            // SAFETY: `index` is below the area's number of words, all of which are
            // mapped (Area::new), so the address stays inside it.
            let at = unsafe { self.start.add(index) };
            // SAFETY: as above; aligned because the area starts at a word.
            unsafe { at.write_volatile(u64::from_le_bytes(word)) };
        }
    }

    /// Copies the area's first `len_bytes` out, at most the whole of it.
    fn read(&self, len_bytes: usize) -> Vec<u8> {
        let len_bytes = len_bytes.min(AREA_LEN_BYTES);
        let mut bytes = Vec::with_capacity(len_bytes.next_multiple_of(WORD_LEN_BYTES));
        for index in 0..len_bytes.div_ceil(WORD_LEN_BYTES) {
            // SAFETY: `index` is below the area's number of words, see `write`.
            let at = unsafe { self.start.add(index) };
            // SAFETY: as above; aligned because the area starts at a word.
            let word = unsafe { at.read_volatile() };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.truncate(len_bytes);
        bytes
    }

    fn read_request(&self) -> Result<Result<Request, FrameError>, NoHost> {
        let head = self.read(Header::LEN_BYTES);
        let header = match head.first_chunk().map(|head| Header::parse(*head)) {
            Some(Ok(header)) => header,
            Some(Err(error)) => return Ok(Err(error)),
            None => return Ok(Err(FrameError::Payload)),
        };
        if header.sender == Sender::Agent {
            return Err(NoHost::Unanswered);
        }
        let frame = self.read(Header::LEN_BYTES + header.payload_len_bytes as usize);
        let payload = frame.get(Header::LEN_BYTES..).unwrap_or_default();
        Ok(wire::decode(payload))
    }
}

/// Why there is no host to talk to.
#[derive(Debug, Error)]
pub enum NoHost {
    /// Nothing is behind the area's addresses.
    #[error(
        "the message area does not keep what is written to it; `{parameter}` must be the \
         guest physical address of memory that the host shares",
        parameter = wire::AREA_PARAMETER
    )]
    NoMemory,
    /// Nobody stands behind the doorbell.
    #[error(
        "no request came in answer to the doorbell at I/O port {port:#06x}; boot this guest \
         with `mapwitness`, whose monitor answers it",
        port = wire::DOORBELL_PORT
    )]
    Unanswered,
}

/// Hands `answer` to the host and gives its next request, which may be garbled.
///
/// # Errors
/// [`NoHost`] when the area is none, or still holds the answer after the doorbell.
pub fn exchange(
    area: &mut Area,
    answer: &Answer,
    ring: impl FnOnce(),
) -> Result<Result<Request, FrameError>, NoHost> {
    let frame = wire::encode(answer).or_else(|error| {
        wire::encode(&Answer {
            pid: answer.pid,
            log_has_news: answer.log_has_news,
            reply: Reply::Rejected {
                reason: format!("the reply cannot be sent: {error}"),
            },
        })
    });
    // The second frame is a few words, which always fit.
    let frame = frame.unwrap_or_default();
    area.write(&frame);
    if !frame.starts_with(&area.read(Header::LEN_BYTES)) {
        return Err(NoHost::NoMemory);
    }
    ring();
    area.read_request()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Value;

    fn done(value: Value) -> Answer {
        Answer {
            pid: 2,
            log_has_news: false,
            reply: Reply::Done(value),
        }
    }

    /// An area of ordinary memory; the closure of `exchange` plays the host.
    fn area() -> Area {
        let words = vec![0_u64; AREA_LEN_BYTES / WORD_LEN_BYTES].leak();
        // SAFETY: leaked, so mapped for good, and reached through the area alone.
        unsafe { Area::new(NonNull::from(words).cast()) }
    }

    fn answer_with(reply: &Answer, frame: &[u8]) -> Result<Result<Request, FrameError>, NoHost> {
        let mut area = area();
        let mut host = Area { start: area.start };
        exchange(&mut area, reply, || host.write(frame))
    }

    fn frame(request: &Request) -> Vec<u8> {
        wire::encode(request).expect("fits")
    }

    #[test]
    fn the_host_sees_the_reply_and_its_request_comes_back() {
        let reply = done(Value::Words(vec![1, 2, 3]));
        let request = Request::Log {
            text: "seven bytes more than a word".into(),
        };
        let mut area = area();
        let mut host = Area { start: area.start };
        let mut seen = Vec::new();
        let received = exchange(&mut area, &reply, || {
            seen = host.read(64);
            host.write(&frame(&request));
        });
        assert_eq!(received.expect("answered"), Ok(request));
        let sent = wire::encode(&reply).expect("fits");
        assert_eq!(seen[..sent.len()], sent);
    }

    #[test]
    fn silence_is_not_taken_for_a_request() {
        let result = exchange(&mut area(), &done(Value::Unit), || {});
        assert!(result.is_err());
    }

    #[test]
    fn garbled_requests_are_told() {
        let reply = done(Value::Unit);
        let mut version = frame(&Request::Fork);
        version[4] = 0xee;
        let mut length = frame(&Request::Fork);
        length[11] = 0x7f;
        let mut payload = frame(&Request::Fork);
        payload[Header::LEN_BYTES] = 0x7f;
        for (frame, expected) in [
            (vec![0xff; 64], FrameError::Magic { found: u32::MAX }),
            (version, FrameError::Version { found: 0xee }),
            (length, FrameError::Length { found: 0x7f00_0001 }),
            (payload, FrameError::Payload),
        ] {
            let received = answer_with(&reply, &frame).expect("something came");
            assert_eq!(received, Err(expected));
        }
    }

    #[test]
    fn a_reply_beyond_the_area_becomes_a_short_one() {
        let mut area = area();
        let host = Area { start: area.start };
        let reply = done(Value::Bytes(vec![0; AREA_LEN_BYTES]));
        let mut head = Vec::new();
        let _ = exchange(&mut area, &reply, || head = host.read(Header::LEN_BYTES));
        let header = Header::parse(head.try_into().expect("12 bytes")).expect("valid");
        assert!(header.payload_len_bytes < 200, "{header:?}");
    }
}
