//! The first page of a file that holds a guest: whose it is, where its parts lie, and
//! their sums.

use addr::PAGE_SIZE;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::error::Unusable;

/// Bytes of the header with the padding behind it: guest memory follows, page by page.
pub(super) const HEADER_LEN: usize = 4096;
const _: () = assert!(HEADER_LEN as u64 == PAGE_SIZE);
/// The header's own sum stands at its end.
const SUM_LEN: usize = size_of::<u64>();
const MAGIC: [u8; 8] = *b"MWGUEST\0";
/// Of this layout of the file; another layout has another number.
const FORMAT: u32 = 1;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// What a guest depends on, as a hash.
pub type Key = [u8; KEY_LEN];

/// Sum of no secret: it finds what went wrong by itself.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) len_bytes: u64,
    pub(super) sum: u64,
}

/// What the header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    magic: [u8; 8],
    format: u32,
    key: Key,
    /// Pages of guest memory, from the end of the header on.
    pub(super) memory: Part,
    /// All other state, behind them, up to the end of the file.
    pub(super) state: Part,
}

impl Header {
    pub(super) fn new(key: Key, memory: Part, state: Part) -> Self {
        Self {
            magic: MAGIC,
            format: FORMAT,
            key,
            memory,
            state,
        }
    }

    /// Bytes of the whole file; `None` for lengths that no file has.
    pub(super) fn file_len_bytes(&self) -> Option<u64> {
        (HEADER_LEN as u64)
            .checked_add(self.memory.len_bytes)?
            .checked_add(self.state.len_bytes)
    }

    pub(super) fn to_bytes(self) -> Result<[u8; HEADER_LEN], postcard::Error> {
        let mut bytes = [0; HEADER_LEN];
        let (head, end) = bytes.split_at_mut(HEADER_LEN - SUM_LEN);
        postcard::to_slice(&self, head)?;
        end.copy_from_slice(&sum(head).to_le_bytes());
        Ok(bytes)
    }

    /// Reads the header of a file that is said to belong to `key`.
    pub(super) fn parse(bytes: &[u8; HEADER_LEN], key: &Key) -> Result<Self, Unusable> {
        let (head, end) = bytes.split_at(HEADER_LEN - SUM_LEN);
        if !head.starts_with(&MAGIC) {
            return Err(Unusable::NoGuest);
        }
        if end != sum(head).to_le_bytes() {
            return Err(Unusable::Damaged("its header"));
        }
        let header: Self =
            postcard::from_bytes(head).map_err(|_| Unusable::Damaged("its header"))?;
        if header.format != FORMAT {
            return Err(Unusable::Format {
                found: header.format,
                known: FORMAT,
            });
        }
        if header.key != *key {
            return Err(Unusable::Foreign);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; KEY_LEN];

    fn header() -> Header {
        let memory = Part {
            len_bytes: 3 * PAGE_SIZE,
            sum: 1,
        };
        let state = Part {
            len_bytes: 5,
            sum: 2,
        };
        Header::new(KEY, memory, state)
    }

    fn bytes() -> [u8; HEADER_LEN] {
        header().to_bytes().expect("room for it")
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let read = Header::parse(&bytes(), &KEY).expect("whole");
        assert_eq!(read, header());
        assert_eq!(read.file_len_bytes(), Some(4 * PAGE_SIZE + 5));
    }

    #[test]
    fn each_bit_counts() {
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bytes, &KEY).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_key_or_format_is_told_from_damage() {
        let other = [8; KEY_LEN];
        let error = Header::parse(&bytes(), &other).expect_err("of another guest");
        assert!(matches!(error, Unusable::Foreign), "{error}");
        let newer = Header {
            format: FORMAT + 1,
            ..header()
        };
        let bytes = newer.to_bytes().expect("room for it");
        let error = Header::parse(&bytes, &KEY).expect_err("newer");
        assert!(matches!(error, Unusable::Format { .. }), "{error}");
        let error = Header::parse(&[0; HEADER_LEN], &KEY).expect_err("zeroes");
        assert!(matches!(error, Unusable::NoGuest), "{error}");
    }

    #[test]
    fn lengths_beyond_all_files_are_none() {
        let mut header = header();
        header.memory.len_bytes = u64::MAX;
        assert_eq!(header.file_len_bytes(), None);
    }
}
