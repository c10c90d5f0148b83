//! Link hva -> pfn: the host kernel's account of this process's pages
//! (Documentation/admin-guide/mm/pagemap.rst). Calls no walker.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process;
use std::sync::OnceLock;

use addr::{Hva, PAGE_SHIFT, Pfn};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME: u64 = (1 << 55) - 1;
const ENTRY_LEN_BYTES: usize = 8;

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
    /// The kernel moved the page whenever it was looked at.
    #[error(
        "the kernel keeps moving the page between host frames: check again when the host has \
         memory to spare"
    )]
    Moving,
}

/// What is known of a page's frame.
pub type Frame = Result<Pfn, FrameError>;

/// How often a page that moves is looked at again. Each further look follows an
/// access, which waits for a move under way, so that one is nearly always enough.
const LOOKS: usize = 16;

/// The frames of two pages at one moment. Compaction moves locked pages too: an
/// entry read meanwhile holds no frame, and of two read one after the other the
/// first may be out of date. `access` loads from the page that may be moving.
pub fn at_one_moment(
    first: impl Fn() -> Frame,
    second: impl Fn() -> Frame,
    access: impl Fn(),
) -> (Frame, Frame) {
    let is_gone = |frame: &Frame| matches!(frame, Err(FrameError::NotPresent { .. }));
    let mut last = (Err(FrameError::Moving), Err(FrameError::Moving));
    for look in 0..LOOKS {
        if look > 0 {
            access();
        }
        let (before, other, after) = (first(), second(), first());
        let moved = match (&before, &after) {
            (Ok(before), Ok(after)) => before != after,
            (before, _) => is_gone(before),
        };
        let gone = is_gone(&after) || is_gone(&other);
        if !moved && !gone {
            return (after, other);
        }
        // What is still gone at the last look is no move.
        last = if gone {
            (after, other)
        } else {
            (Err(FrameError::Moving), Err(FrameError::Moving))
        };
    }
    last
}

/// /proc/self/pagemap, open.
#[derive(Clone, Copy, Debug)]
pub struct Pagemap(&'static File);

impl Pagemap {
    /// Opens it; once for the process, since that takes longer than reading it: the way
    /// there goes through the root file system, which may be another machine's.
    ///
    /// # Errors
    /// [`FrameError::Open`]; also after a fork(2), where the file goes on to tell of the
    /// parent's memory.
    pub fn open() -> Result<Self, FrameError> {
        static OPEN: OnceLock<(u32, File)> = OnceLock::new();
        let (owner, file) = match OPEN.get() {
            Some(known) => known,
            None => {
                let file = File::open("/proc/self/pagemap").map_err(FrameError::Open)?;
                OPEN.get_or_init(|| (process::id(), file))
            }
        };
        if *owner != process::id() {
            let forked = format!("it was opened by process {owner}, before a fork");
            return Err(FrameError::Open(io::Error::other(forked)));
        }
        Ok(Self(file))
    }

    /// The frame behind the page that holds `hva`.
    ///
    /// # Errors
    /// [`FrameError`] when there is none or the kernel does not tell.
    pub fn pfn(&self, hva: Hva) -> Frame {
        let mut entry = [0; 8];
        self.0
            .read_exact_at(&mut entry, (hva.raw() >> PAGE_SHIFT) * 8)
            .map_err(|source| FrameError::Read { hva, source })?;
        decode(hva, u64::from_le_bytes(entry))
    }

    /// The frames that two views of the same pages share, from `first` and `second` on,
    /// for at most `npages`; they end before the first page whose frame is not known, not
    /// the same in both, or not the same for as long as it takes to look at both.
    pub fn shared(&self, first: Hva, second: Hva, npages: usize) -> Vec<Pfn> {
        let read = |hva| self.entries(hva, npages).unwrap_or_default();
        shared(&read(first), &read(second), &read(first))
    }

    /// Entries of `npages` pages from the one that holds `hva`.
    fn entries(&self, hva: Hva, npages: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; npages.saturating_mul(ENTRY_LEN_BYTES)];
        self.0
            .read_exact_at(&mut bytes, (hva.raw() >> PAGE_SHIFT) * 8)?;
        let (words, _) = bytes.as_chunks::<ENTRY_LEN_BYTES>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

/// As [`at_one_moment`], for entries that were read in bulk: `first`, then `second`, then
/// `first` again. What would have to be looked at once more ends them.
fn shared(first: &[u64], second: &[u64], again: &[u64]) -> Vec<Pfn> {
    let entries = first.iter().zip(second).zip(again);
    entries
        .map_while(|((first, second), again)| {
            let frame = known(*first)?;
            (known(*second) == Some(frame) && known(*again) == Some(frame)).then_some(frame)
        })
        .collect()
}

fn known(entry: u64) -> Option<Pfn> {
    let present = entry & (PRESENT | SWAPPED) == PRESENT;
    (present && entry & FRAME != 0).then(|| Pfn::new(entry & FRAME))
}

fn decode(hva: Hva, entry: u64) -> Frame {
    match (entry & PRESENT != 0, entry & SWAPPED != 0, entry & FRAME) {
        (true, false, 0) => Err(FrameError::Hidden),
        (true, false, frame) => Ok(Pfn::new(frame)),
        _ => Err(FrameError::NotPresent { hva, entry }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

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

    /// Reads one entry after the other from `first` and `second`, 0 for one without
    /// a frame; the last of each stands.
    fn read(first: &[u64], second: &[u64]) -> ((Frame, Frame), usize) {
        let next = |from: &[u64], at: &Cell<usize>| {
            let index = at.replace(at.get() + 1).min(from.len() - 1);
            let present = if from[index] == 0 { 0 } else { PRESENT };
            decode(HVA, present | from[index])
        };
        let (at_first, at_second, accesses) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let frames = at_one_moment(
            || next(first, &at_first),
            || next(second, &at_second),
            || accesses.set(accesses.get() + 1),
        );
        (frames, accesses.get())
    }

    #[test]
    fn frames_that_stand_still_are_read_at_once() {
        for second in [7, 8] {
            let ((first, other), accesses) = read(&[7], &[second]);
            assert_eq!(
                (first.ok(), other.ok()),
                (Some(Pfn::new(7)), Some(Pfn::new(second)))
            );
            assert_eq!(accesses, 0);
        }
    }

    #[test]
    fn a_page_that_moves_is_looked_at_again() {
        let moves: [(&[u64], &[u64]); 5] = [
            // Between the first entry and the second.
            (&[7, 9], &[9]),
            // Between the second and the first again.
            (&[7, 9], &[7, 9]),
            // Under way, at each of the three.
            (&[0, 9], &[9]),
            (&[9], &[0, 9]),
            (&[7, 0, 9], &[7, 9]),
        ];
        for (first, second) in moves {
            let ((one, other), accesses) = read(first, second);
            let frames = (one.ok(), other.ok());
            assert_eq!(
                frames,
                (Some(Pfn::new(9)), Some(Pfn::new(9))),
                "{first:?} {second:?}"
            );
            assert_eq!(accesses, 1, "{first:?} {second:?}");
        }
    }

    #[test]
    fn frames_in_bulk_end_where_a_page_alone_would_be_looked_at_again() {
        let here = |frame| PRESENT | 1 << 61 | frame;
        let entries = [here(7), here(9), here(8)];
        let all = [7, 9, 8].map(Pfn::new);
        assert_eq!(shared(&entries, &entries, &entries), all);
        // Hidden, swapped out, gone, other: in any of the three looks.
        for odd in [PRESENT, here(9) | SWAPPED, 0x9, here(7)] {
            for look in 0..3 {
                let mut looks = [entries; 3];
                looks[look][1] = odd;
                let [first, second, again] = looks;
                assert_eq!(shared(&first, &second, &again), all[..1], "{odd:#x} {look}");
            }
        }
        // A read that fails gives nothing.
        assert_eq!(shared(&entries, &[], &entries), []);
    }

    /// What is told in bulk of pages of this process is what is told of each.
    #[test]
    fn frames_in_bulk_are_those_of_each_page() {
        let pagemap = Pagemap::open().expect("there");
        let memory = vec![1_u8; 64 << PAGE_SHIFT];
        let start = Hva::new(memory.as_ptr() as u64);
        let hva = |page: u64| start.checked_add(page << PAGE_SHIFT).expect("small");
        let each = || (0..64).map(|page| pagemap.pfn(hva(page)).ok());
        // Without the right to see frames there are none. The kernel may move pages
        // between one look and the next, but not for ever.
        let is_alike = |_| {
            let frames = pagemap.shared(start, start, 64);
            frames.into_iter().eq(each().map_while(|frame| frame))
        };
        assert!((0..LOOKS).any(is_alike));
        let visible = each().flatten().count();
        assert!(
            [0, 64].contains(&visible),
            "{visible} of 64 pages are there"
        );
    }

    #[test]
    fn a_page_that_stays_away_is_gone() {
        let is_gone = |frame: &Frame| matches!(frame, Err(FrameError::NotPresent { .. }));
        let ((first, second), _) = read(&[7], &[0]);
        assert!(is_gone(&second) && first.is_ok());
        let ((first, second), _) = read(&[0], &[7]);
        assert!(is_gone(&first) && second.is_ok());
    }

    #[test]
    fn a_page_that_never_rests_has_no_frame() {
        let restless: Vec<u64> = (1..100).collect();
        let ((first, second), accesses) = read(&restless, &[7]);
        assert!(matches!(first, Err(FrameError::Moving)), "{first:?}");
        assert!(matches!(second, Err(FrameError::Moving)), "{second:?}");
        assert_eq!(accesses, LOOKS - 1);
    }

    #[test]
    fn a_hidden_frame_is_not_waited_for() {
        let hidden = || Err(FrameError::Hidden);
        let (first, second) = at_one_moment(hidden, hidden, || panic!("nothing moves"));
        assert!(matches!(first, Err(FrameError::Hidden)));
        assert!(matches!(second, Err(FrameError::Hidden)));
    }
}
