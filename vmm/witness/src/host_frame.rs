//! Link hva -> pfn: the host kernel's account of this process's pages
//! (Documentation/admin-guide/mm/pagemap.rst). Calls no walker.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use addr::{Hva, PAGE_SHIFT, Pfn};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME: u64 = (1 << 55) - 1;

/// Why a frame is not known.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The file cannot be opened.
    #[error("open /proc/self/pagemap")]
    Open(#[source] io::Error),
    /// The entry cannot be read.
    #[error("read /proc/self/pagemap for {hva}")]
    Read {
        /// The page.
        hva: Hva,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel hides frames from this process.
    #[error(
        "the kernel hides host frames (present, frame 0): run as root or with CAP_SYS_ADMIN, \
         or choose a software host with MAPWITNESS_HOST=soft-npt"
    )]
    Hidden,
    /// A page that should be locked in memory is not there.
    #[error("the host page at {hva} is not in memory (pagemap entry {entry:#x})")]
    NotPresent {
        /// The page.
        hva: Hva,
        /// Its entry.
        entry: u64,
    },
}

/// /proc/self/pagemap, open.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens it.
    ///
    /// # Errors
    /// [`FrameError::Open`].
    pub fn open() -> Result<Self, FrameError> {
        File::open("/proc/self/pagemap")
            .map(Self)
            .map_err(FrameError::Open)
    }

    /// The frame behind the page that holds `hva`.
    ///
    /// # Errors
    /// [`FrameError`] when there is none or the kernel does not tell.
    pub fn pfn(&self, hva: Hva) -> Result<Pfn, FrameError> {
        let mut entry = [0; 8];
        self.0
            .read_exact_at(&mut entry, (hva.raw() >> PAGE_SHIFT) * 8)
            .map_err(|source| FrameError::Read { hva, source })?;
        decode(hva, u64::from_le_bytes(entry))
    }
}

fn decode(hva: Hva, entry: u64) -> Result<Pfn, FrameError> {
    match (entry & PRESENT != 0, entry & SWAPPED != 0, entry & FRAME) {
        (true, false, 0) => Err(FrameError::Hidden),
        (true, false, frame) => Ok(Pfn::new(frame)),
        _ => Err(FrameError::NotPresent { hva, entry }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HVA: Hva = Hva::new(0x7000_0000);

    #[test]
    fn a_present_page_has_its_frame() {
        let entry = PRESENT | 1 << 61 | 0x1234_5678;
        assert_eq!(decode(HVA, entry).expect("present"), Pfn::new(0x1234_5678));
    }

    #[test]
    fn a_hidden_frame_is_an_error_and_not_frame_zero() {
        assert!(matches!(decode(HVA, PRESENT), Err(FrameError::Hidden)));
    }

    #[test]
    fn swap_entries_are_not_frames() {
        for entry in [0, SWAPPED | 0x55, PRESENT | SWAPPED | 0x55, 0x55] {
            let error = decode(HVA, entry).expect_err("not a frame");
            assert!(matches!(error, FrameError::NotPresent { .. }), "{entry:#x}");
        }
    }
}
