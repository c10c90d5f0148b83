//! Windows of the synthetic device: memory of the host in scrambled order.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use addr::{Gpa, Hva, PAGE_SIZE};
use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::bitmap::AtomicBitmap;

use crate::config::{VmConfig, WindowConfig};
use crate::error::VmError;
use crate::hpet;
use crate::layout;
use crate::mapping::{View, memfd};

const PAGE_LEN: usize = 4096;
const _: () = assert!(PAGE_LEN as u64 == PAGE_SIZE);

/// One window, with the host's own account of the pages behind it.
///
/// The window's memslot views the pages of a memfd; the ledger is a second mapping of the
/// same pages, which no guest reaches. The pages get their frames one by one in scrambled
/// order, so that pages of the device which follow each other do not in the host.
#[derive(Debug)]
pub struct Window {
    config: WindowConfig,
    base: Gpa,
    slot_view: View,
    ledger: View,
    /// The pages, and behind them spare ones.
    file: File,
    /// Spare pages that have a frame, the first ones.
    spares_used: u64,
    /// Pages that were written through the ledger.
    written: AtomicBitmap,
}

/// Pages of the file that are nobody's: each can keep a frame from being given out.
const SPARES: u64 = 256;
/// Spare frames between the first half of the pages and the second.
const BETWEEN: u64 = 4;

impl Window {
    pub(crate) fn new(config: &WindowConfig, base: Gpa, seed: u64) -> Result<Self, VmError> {
        let file_npages = config.npages.saturating_add(SPARES);
        let len_bytes = file_npages.saturating_mul(PAGE_SIZE);
        let memory = |source| VmError::Memory {
            what: "a device window",
            len_bytes,
            source,
        };
        let npages = usize::try_from(config.npages)
            .map_err(|_| VmError::Config(format!("a window of {} pages", config.npages)))?;
        let file = memfd(c"mapwitness-window", len_bytes).map_err(memory)?;
        let ledger = View::of(&file, npages).map_err(memory)?;
        let mut window = Self {
            config: config.clone(),
            base,
            slot_view: View::of(&file, npages).map_err(memory)?,
            ledger,
            file,
            spares_used: 0,
            written: written(config)?,
        };
        window.bring_in(seed).map_err(memory)?;
        Ok(window)
    }

    /// Gives all pages their frames, in an order that follows from `seed`.
    fn bring_in(&mut self, seed: u64) -> io::Result<()> {
        let (first, second) = halves(self.config.npages, seed);
        for page in first {
            self.ledger.touch(page).ok_or(io::ErrorKind::InvalidInput)?;
        }
        for _ in 0..BETWEEN {
            self.use_spare()?;
        }
        for page in second {
            self.ledger.touch(page).ok_or(io::ErrorKind::InvalidInput)?;
        }
        self.ledger.lock()?;
        self.slot_view.lock()
    }

    /// Gives a spare page a frame: whichever is the next to be given out.
    fn use_spare(&mut self) -> io::Result<()> {
        if self.spares_used >= SPARES {
            return Err(io::Error::other("no spare page is left"));
        }
        let page = self.config.npages + self.spares_used;
        let text = b"mapwitness: no page of the device";
        self.file.write_all_at(text, page * PAGE_SIZE)?;
        self.spares_used += 1;
        Ok(())
    }

    /// Gives page `page` another frame, with the same contents. Nobody must be using the
    /// window meanwhile. The frame that it had stays taken.
    pub(crate) fn exchange_frame(&mut self, page: u64) -> io::Result<()> {
        let at = page.saturating_mul(PAGE_SIZE);
        let no_page = || io::Error::from(io::ErrorKind::InvalidInput);
        let contents = self.ledger.read(at, PAGE_LEN).ok_or_else(no_page)?;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, hole, at, PAGE_SIZE)?;
        // The frame that was just freed is often the next to be given out.
        self.use_spare()?;
        self.ledger.write(at, &contents).ok_or_else(no_page)?;
        self.slot_view.touch(page).ok_or_else(no_page)
    }

    /// Its configuration.
    pub fn config(&self) -> &WindowConfig {
        &self.config
    }

    /// Guest physical address of its first page.
    pub fn base(&self) -> Gpa {
        self.base
    }

    /// Number of 4 KiB pages.
    pub fn npages(&self) -> u64 {
        self.config.npages
    }

    /// Bytes of the window.
    pub fn len_bytes(&self) -> u64 {
        self.config.npages * PAGE_SIZE
    }

    /// Start of the mapping that the memslot points to.
    pub(crate) fn slot_hva(&self) -> *mut u8 {
        self.slot_view.base()
    }

    /// Takes the memslot's pages out of this process's page tables and puts them back.
    /// Nobody must be using the memslot's mapping meanwhile.
    pub(crate) fn withdraw(&self) -> std::io::Result<()> {
        self.slot_view.withdraw()
    }

    /// Where the host's own mapping has device page `page`; `None` beyond the
    /// window. The guest never reaches memory through this mapping.
    pub fn ledger_hva(&self, page: u64) -> Option<Hva> {
        self.ledger.page_hva(page)
    }

    /// Copies `bytes` into device page `page` at `offset_bytes` through the
    /// host's own mapping. `None` when they do not fit the window.
    pub fn write(&self, page: u64, offset_bytes: u64, bytes: &[u8]) -> Option<()> {
        let at = page.checked_mul(PAGE_SIZE)?.checked_add(offset_bytes)?;
        self.ledger.write(at, bytes)?;
        self.note_written(at, bytes.len())
    }

    fn note_written(&self, at: u64, len_bytes: usize) -> Option<()> {
        self.written
            .set_addr_range(usize::try_from(at).ok()?, len_bytes);
        Some(())
    }

    /// Pages that were written through the host's own mapping since the last call, a bit
    /// for each.
    pub(crate) fn take_written(&self) -> Vec<u64> {
        self.written.get_and_reset()
    }

    /// Stores an aligned word, which a running guest sees as a whole or not at all.
    /// `None` when it is not in the window.
    pub(crate) fn store(&self, page: u64, offset_bytes: u64, word: u64) -> Option<()> {
        let at = page.checked_mul(PAGE_SIZE)?.checked_add(offset_bytes)?;
        self.ledger.word(at)?.store(word, Ordering::Relaxed);
        self.note_written(at, size_of::<u64>())
    }

    /// Loads an aligned word through the host's own mapping, as a whole. `None` when it is
    /// not in the window.
    pub fn load(&self, page: u64, offset_bytes: u64) -> Option<u64> {
        let at = page.checked_mul(PAGE_SIZE)?.checked_add(offset_bytes)?;
        Some(self.ledger.word(at)?.load(Ordering::Relaxed))
    }

    /// Copies `len_bytes` out of device page `page` from `offset_bytes` through
    /// the host's own mapping. `None` when they are not all in the window.
    pub fn read(&self, page: u64, offset_bytes: u64, len_bytes: usize) -> Option<Vec<u8>> {
        let at = page.checked_mul(PAGE_SIZE)?.checked_add(offset_bytes)?;
        self.ledger.read(at, len_bytes)
    }
}

fn written(config: &WindowConfig) -> Result<AtomicBitmap, VmError> {
    let sizes = usize::try_from(config.npages * PAGE_SIZE)
        .ok()
        .zip(usize::try_from(PAGE_SIZE).ok().and_then(NonZeroUsize::new));
    let (len_bytes, page_len) =
        sizes.ok_or_else(|| VmError::Config(format!("a window of {} pages", config.npages)))?;
    Ok(AtomicBitmap::new(len_bytes, page_len))
}

/// Gives each window its guest physical address, an unbacked gap after each. The
/// page of the event timer, if there is one, comes last.
pub(crate) fn place(config: &VmConfig) -> Result<Vec<Window>, VmError> {
    let mut next = layout::WINDOWS;
    let mut windows = Vec::new();
    for (index, window) in config.windows.iter().enumerate() {
        let align = window.align_bytes;
        if !align.is_power_of_two() || align < PAGE_SIZE || window.npages == 0 {
            return Err(VmError::Config(format!(
                "window {}: {} pages aligned to {align} bytes",
                window.name, window.npages
            )));
        }
        let end = window
            .npages
            .checked_mul(PAGE_SIZE)
            .and_then(|len| next.checked_next_multiple_of(align)?.checked_add(len))
            .filter(|end| *end <= layout::WINDOWS_END)
            .ok_or_else(|| VmError::Config(format!("no room for window {}", window.name)))?;
        let base = Gpa::new(end - window.npages * PAGE_SIZE);
        let seed = config.scramble_seed.wrapping_add(index as u64);
        windows.push(Window::new(window, base, seed)?);
        next = end + layout::WINDOW_GAP;
    }
    if config.hpet {
        let base = Gpa::new(u64::from(layout::HPET));
        let seed = config.scramble_seed.wrapping_add(windows.len() as u64);
        windows.push(Window::new(&hpet::page(), base, seed)?);
    }
    Ok(windows)
}

/// The pages with even numbers and those with odd ones, each in an order shuffled by `seed`:
/// no two neighbours are in one half.
fn halves(npages: u64, seed: u64) -> (Vec<u64>, Vec<u64>) {
    let mut random = SplitMix(seed);
    let mut half = |first: usize| {
        let mut pages: Vec<u64> = (0..npages).skip(first).step_by(2).collect();
        for last in (1..pages.len()).rev() {
            let pick = random.below(last as u64 + 1);
            pages.swap(last, usize::try_from(pick).unwrap_or(last));
        }
        pages
    };
    (half(0), half(1))
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to shuffle reproducibly.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_page_is_in_one_half_and_its_neighbours_in_the_other() {
        for (npages, seed) in [(1, 1), (2, 1), (13, 2), (1024, 3)] {
            let (even, odd) = halves(npages, seed);
            assert!(even.iter().all(|page| page % 2 == 0));
            assert!(odd.iter().all(|page| page % 2 == 1));
            let all: BTreeSet<u64> = even.into_iter().chain(odd).collect();
            assert_eq!(all, (0..npages).collect());
        }
    }

    #[test]
    fn the_order_follows_the_seed() {
        assert_eq!(halves(64, 7), halves(64, 7));
        assert_ne!(halves(64, 7), halves(64, 8));
    }

    fn five_pages() -> Window {
        let config = WindowConfig {
            name: "test".into(),
            npages: 5,
            read_only: false,
            align_bytes: PAGE_SIZE,
        };
        Window::new(&config, Gpa::new(0xd100_0000), 1).expect("built")
    }

    #[test]
    fn a_page_with_another_frame_is_the_same_page() {
        let mut window = five_pages();
        for (page, byte) in (0..5).zip(1_u8..) {
            window.write(page, 8, &[byte; 9]).expect("inside");
        }
        for round in 0..50 {
            window.exchange_frame(round % 5).expect("exchanged");
        }
        for (page, byte) in (0..5).zip(1_u8..) {
            let wanted = [byte; 9];
            assert_eq!(window.read(page, 8, 9).expect("inside"), wanted);
            let seen = window.slot_view.read(page * PAGE_SIZE + 8, 9);
            assert_eq!(seen.expect("inside"), wanted);
        }
        window.write(3, 0, b"new").expect("inside");
        let seen = window.slot_view.read(3 * PAGE_SIZE, 3);
        assert_eq!(seen.expect("inside"), b"new");
        assert!(window.exchange_frame(5).is_err());
        let spares_end = (0..SPARES).find(|_| window.exchange_frame(0).is_err());
        assert_eq!(spares_end, Some(SPARES - BETWEEN - 50));
    }

    #[test]
    fn the_ledger_and_the_memslot_show_one_memory() {
        let window = five_pages();
        window.write(3, 16, b"stamp").expect("inside");
        let seen = window.slot_view.read(3 * PAGE_SIZE + 16, 5);
        assert_eq!(seen.expect("inside"), b"stamp");
        assert!(window.write(5, 0, b"x").is_none());
        assert!(window.ledger_hva(5).is_none());
    }
}
