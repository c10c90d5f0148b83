//! /proc/kcore: the kernel's memory as an ELF core file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use addr::Hpa;
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::error::Error;
use crate::memory::{HostMemory, ReadError};

const PATH: &str = "/proc/kcore";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Bytes of an ELF64 file header.
const FILE_HEADER_BYTES: usize = 64;
/// Most program headers that ELF can count without an extension, at 56 bytes each.
const MOST_HEADER_BYTES: usize = FILE_HEADER_BYTES + 56 * 0xffff;

/// A part of the kernel's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    len_bytes: u64,
    file_offset: u64,
    /// Known for the direct map and the kernel's own image only.
    physical: Option<u64>,
}

impl Segment {
    /// Place of `len_bytes` bytes from `at` within a run that starts at `start`.
    fn offset(self, start: u64, at: u64, len_bytes: usize) -> Option<u64> {
        let offset = at.checked_sub(start)?;
        let end = offset.checked_add(u64::try_from(len_bytes).ok()?)?;
        (end <= self.len_bytes).then_some(offset)
    }
}

/// /proc/kcore, open.
#[derive(Debug)]
pub struct Kcore {
    file: File,
    segments: Vec<Segment>,
}

impl Kcore {
    /// Opens it and reads its headers.
    ///
    /// # Errors
    /// [`Error::OpenKcore`] or [`Error::KcoreHeaders`].
    pub fn open() -> Result<Self, Error> {
        let file = File::open(PATH).map_err(why_not)?;
        let headers = read_headers(&file).map_err(Error::OpenKcore)?;
        let segments = segments(&headers).map_err(Error::KcoreHeaders)?;
        Ok(Self { file, segments })
    }

    fn read_at(&self, offset: Option<u64>, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let refused = |reason: String| ReadError::Refused { address, reason };
        let offset = offset.ok_or_else(|| refused("past the end of the file".into()))?;
        self.file
            .read_exact_at(into, offset)
            .map_err(|error| refused(error.to_string()))
    }
}

impl HostMemory for Kcore {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let len_bytes = into.len();
        let (segment, offset) = self
            .segments
            .iter()
            .find_map(|one| Some((one, one.offset(one.address, address, len_bytes)?)))
            .ok_or(ReadError::NoMemory { address })?;
        self.read_at(segment.file_offset.checked_add(offset), address, into)
    }

    fn read_physical(&self, at: Hpa, into: &mut [u8]) -> Result<(), ReadError> {
        let len_bytes = into.len();
        let (segment, offset) = self
            .segments
            .iter()
            .find_map(|one| Some((one, one.offset(one.physical?, at.raw(), len_bytes)?)))
            .ok_or(ReadError::NotMapped(at))?;
        self.read_at(segment.file_offset.checked_add(offset), at.raw(), into)
    }

    fn physical(&self, address: u64) -> Option<Hpa> {
        self.segments.iter().find_map(|one| {
            let offset = one.offset(one.address, address, 1)?;
            one.physical?.checked_add(offset).map(Hpa::new)
        })
    }
}

/// Root is refused as anybody else is where the kernel is locked down.
fn why_not(error: io::Error) -> Error {
    let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    if error.kind() == io::ErrorKind::PermissionDenied && is_confidential(&lockdown) {
        Error::LockedDown(error)
    } else {
        Error::OpenKcore(error)
    }
}

/// The mode in force stands in brackets (security/lockdown/lockdown.c).
fn is_confidential(lockdown: &str) -> bool {
    lockdown.contains("[confidentiality]")
}

fn read_headers(file: &File) -> io::Result<Vec<u8>> {
    let mut first = [0; FILE_HEADER_BYTES];
    file.read_exact_at(&mut first, 0)?;
    let mut headers = vec![0; headers_len(&first).unwrap_or(FILE_HEADER_BYTES)];
    file.read_exact_at(&mut headers, 0)?;
    Ok(headers)
}

/// Bytes from the file's start to the end of its program headers.
fn headers_len(first: &[u8]) -> Option<usize> {
    let header = FileHeader64::<LittleEndian>::parse(first).ok()?;
    let endian = header.endian().ok()?;
    let table = usize::from(header.e_phnum(endian)) * usize::from(header.e_phentsize(endian));
    let end = usize::try_from(header.e_phoff(endian))
        .ok()?
        .checked_add(table)?;
    (end <= MOST_HEADER_BYTES).then_some(end)
}

fn segments(headers: &[u8]) -> Result<Vec<Segment>, object::read::Error> {
    let header = FileHeader64::<LittleEndian>::parse(headers)?;
    let endian = header.endian()?;
    Ok(header
        .program_headers(endian, headers)?
        .iter()
        .filter(|one| one.p_type(endian) == PT_LOAD)
        .map(|one| Segment {
            address: one.p_vaddr(endian),
            len_bytes: one.p_filesz(endian),
            file_offset: one.p_offset(endian),
            // fs/proc/kcore.c: -1 where there is no such thing.
            physical: Some(one.p_paddr(endian)).filter(|it| *it != u64::MAX),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_lies_in_one_segment_as_a_whole() {
        let segment = Segment {
            address: 0xffff_8880_0000_0000,
            len_bytes: 0x2000,
            file_offset: 0x1000,
            physical: Some(0),
        };
        let at = |address, len_bytes| segment.offset(segment.address, address, len_bytes);
        assert_eq!(at(0xffff_8880_0000_1ff8, 8), Some(0x1ff8));
        assert_eq!(at(0xffff_8880_0000_1ff9, 8), None);
        assert_eq!(at(0xffff_887f_ffff_fff8, 8), None);
        assert_eq!(at(u64::MAX, usize::MAX), None);
    }

    #[test]
    fn only_the_mode_in_force_locks_the_memory_away() {
        assert!(is_confidential("none integrity [confidentiality]\n"));
        assert!(!is_confidential("none [integrity] confidentiality\n"));
        assert!(!is_confidential(""));
    }

    #[test]
    fn headers_that_are_none_are_an_error() {
        assert!(segments(&[0; 64]).is_err());
        assert_eq!(headers_len(&[0; 64]), None);
        assert!(segments(b"\x7fELF").is_err());
    }
}
