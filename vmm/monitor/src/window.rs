//! Windows of the synthetic device: memory of the host in scrambled order.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use addr::{Gpa, Hva, PAGE_SIZE};
use vm_memory::bitmap::AtomicBitmap;

use crate::config::{VmConfig, WindowConfig};
use crate::error::VmError;
use crate::hpet;
use crate::layout;
use crate::mapping::{View, memfd};

/// One window, with the host's own account of the pages behind it.
///
/// The window's memslot views the pages of a memfd in scrambled order; the ledger
/// is a second mapping of the same pages, which no guest reaches. What device page
/// is which file page is decided here once and never looked up in a table of pages.
#[derive(Debug)]
pub struct Window {
    config: WindowConfig,
    base: Gpa,
    slot_view: View,
    ledger: View,
    /// Pages that were written through the ledger.
    written: AtomicBitmap,
}

impl Window {
    pub(crate) fn new(config: &WindowConfig, base: Gpa, seed: u64) -> Result<Self, VmError> {
        let order = scrambled_order(config.npages, seed);
        // Every other file page is a decoy, so that pages which follow each other
        // in the file are never both the device's.
        let len_bytes = config.npages * 2 * PAGE_SIZE;
        let memory = |source| VmError::Memory {
            what: "a device window",
            len_bytes,
            source,
        };
        let file = memfd(c"mapwitness-window", len_bytes).map_err(memory)?;
        // Populated in the file's order first: the frames of a scrambled order
        // would otherwise be handed out in that very order.
        let all: Vec<u64> = (0..config.npages * 2).collect();
        let populated = View::of_pages(&file, &all).map_err(memory)?;
        fill_decoys(&populated);
        Ok(Self {
            config: config.clone(),
            base,
            slot_view: View::of_pages(&file, &order).map_err(memory)?,
            ledger: View::of_pages(&file, &order).map_err(memory)?,
            written: written(config)?,
        })
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

    /// Loads an aligned word, as a whole. `None` when it is not in the window.
    pub(crate) fn load(&self, page: u64, offset_bytes: u64) -> Option<u64> {
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

/// Decoy pages say so, for whoever finds one in a mapping.
fn fill_decoys(view: &View) {
    let text = b"mapwitness decoy: no page of the device";
    for page in (1..view.npages() as u64).step_by(2) {
        for line in 0..PAGE_SIZE / 64 {
            // Inside the view by construction, so there is nothing to report.
            let _ = view.write(page * PAGE_SIZE + line * 64, text);
        }
    }
}

/// File page of each device page: the even file pages in an order shuffled by
/// `seed`, no two neighbours in it next to each other.
fn scrambled_order(npages: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..npages).map(|page| page * 2).collect();
    let mut random = SplitMix(seed);
    for last in (1..order.len()).rev() {
        let pick = random.below(last as u64 + 1);
        order.swap(last, usize::try_from(pick).unwrap_or(last));
    }
    order
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
    fn neighbouring_device_pages_are_never_neighbouring_file_pages() {
        for (npages, seed) in [(1, 1), (2, 1), (13, 2), (1024, 3)] {
            let order = scrambled_order(npages, seed);
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len() as u64, npages);
            for pair in order.windows(2) {
                assert!(pair[0].abs_diff(pair[1]) > 1, "{pair:?}");
            }
        }
    }

    #[test]
    fn the_order_follows_the_seed() {
        assert_eq!(scrambled_order(64, 7), scrambled_order(64, 7));
        assert_ne!(scrambled_order(64, 7), scrambled_order(64, 8));
    }

    #[test]
    fn the_ledger_and_the_memslot_show_one_memory() {
        let config = WindowConfig {
            name: "test".into(),
            npages: 5,
            read_only: false,
            align_bytes: PAGE_SIZE,
        };
        let window = Window::new(&config, Gpa::new(0xd100_0000), 1).expect("built");
        window.write(3, 16, b"stamp").expect("inside");
        let seen = window.slot_view.read(3 * PAGE_SIZE + 16, 5);
        assert_eq!(seen.expect("inside"), b"stamp");
        assert!(window.write(5, 0, b"x").is_none());
        assert!(window.ledger_hva(5).is_none());
    }
}
