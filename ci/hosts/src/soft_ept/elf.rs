//! What is needed of ELF files: their segments.

use object::Endianness;
use object::elf::{FileHeader64, NoteType, PT_INTERP, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// Note that names a kernel's PVH entry: `XEN_ELFNOTE_PHYS32_ENTRY` of
/// include/xen/interface/elfnote.h.
const PHYS32_ENTRY: NoteType = NoteType(18);
const XEN: &[u8] = b"Xen";
/// Bytes of the file's header that say where its sections are and how many:
/// `e_shoff`, and `e_shentsize` to `e_shstrndx` (elf(5)).
const SECTIONS_AT: [std::ops::Range<usize>; 2] = [0x28..0x30, 0x3a..0x40];

/// A 64-bit ELF file.
pub struct Elf<'d> {
    data: &'d [u8],
    endian: Endianness,
    segments: &'d [ProgramHeader64<Endianness>],
}

/// A segment as it will lie in memory.
pub struct Loaded<'d> {
    /// Physical address of its first byte.
    pub address: u64,
    /// Its bytes in the file.
    pub bytes: &'d [u8],
    /// Its length in memory; zeros follow the bytes of the file.
    pub len_bytes: u64,
}

impl<'d> Elf<'d> {
    /// Reads the headers.
    ///
    /// # Errors
    /// When they are none, or lead out of the file.
    pub fn parse(data: &'d [u8]) -> Result<Self, object::Error> {
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        let segments = header.program_headers(endian, data)?;
        Ok(Self {
            data,
            endian,
            segments,
        })
    }

    /// The segments that are loaded.
    pub fn loaded(&self) -> impl Iterator<Item = Option<Loaded<'d>>> {
        let of_kind =
            |segment: &&ProgramHeader64<Endianness>| segment.p_type(self.endian) == PT_LOAD;
        self.segments.iter().filter(of_kind).map(|segment| {
            Some(Loaded {
                address: segment.p_paddr(self.endian),
                bytes: segment.data(self.endian, self.data).ok()?,
                len_bytes: segment.p_memsz(self.endian),
            })
        })
    }

    /// The kernel's 32-bit PVH entry.
    pub fn pvh_entry(&self) -> Option<u32> {
        let notes = |segment: &ProgramHeader64<Endianness>| segment.notes(self.endian, self.data);
        for segment in self.segments {
            let Ok(Some(mut notes)) = notes(segment) else {
                continue;
            };
            while let Ok(Some(note)) = notes.next() {
                if note.name() == XEN && note.n_type(self.endian) == PHYS32_ENTRY {
                    let address = note.desc().first_chunk::<4>()?;
                    return Some(u32::from_le_bytes(*address));
                }
            }
        }
        None
    }

    /// The program that loads this one's libraries.
    pub fn interpreter(&self) -> Option<&'d [u8]> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.p_type(self.endian) == PT_INTERP)?;
        segment
            .data(self.endian, self.data)
            .ok()?
            .split(|byte| *byte == 0)
            .next()
    }

    /// A copy of the file without what is not needed to run it: sections behind the
    /// last segment, which are mostly for debuggers.
    pub fn without_sections(&self) -> Vec<u8> {
        let end = self
            .segments
            .iter()
            .map(|segment| {
                segment
                    .p_offset(self.endian)
                    .saturating_add(segment.p_filesz(self.endian))
            })
            .max()
            .and_then(|end| usize::try_from(end).ok())
            .unwrap_or(self.data.len());
        let mut copy = self.data.get(..end).unwrap_or(self.data).to_vec();
        for range in SECTIONS_AT {
            if let Some(bytes) = copy.get_mut(range) {
                bytes.fill(0);
            }
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_read_and_shortened() {
        let data = std::fs::read("/proc/self/exe").expect("readable");
        let elf = Elf::parse(&data).expect("a program");
        assert!(elf.loaded().all(|segment| segment.is_some()));
        let interpreter = elf.interpreter().expect("dynamically linked");
        assert!(interpreter.starts_with(b"/lib64/ld-linux"));
        assert_eq!(elf.pvh_entry(), None);
        let short = elf.without_sections();
        assert!(short.len() < data.len());
        let again = Elf::parse(&short).expect("a program");
        assert_eq!(again.segments.len(), elf.segments.len());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let data = std::fs::read("/proc/self/exe").expect("readable");
        for len in [0, 3, 63, 64, 200, 4096] {
            let mut cut = data[..len].to_vec();
            let _ = Elf::parse(&cut).map(|elf| elf.without_sections());
            cut.iter_mut().skip(32).for_each(|byte| *byte = 0xff);
            if let Ok(elf) = Elf::parse(&cut) {
                let _ = (elf.loaded().count(), elf.pvh_entry(), elf.interpreter());
            }
        }
    }
}
