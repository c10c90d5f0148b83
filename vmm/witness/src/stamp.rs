//! Link content: what a load at a gva yields, and where a store at it arrives.
//!
//! Every word of every device page follows from the VM's seed, the page and the
//! word's place, so that no page looks like another, nor like one of a VM with
//! another seed. The page of the event timer has registers where the others have
//! words: its identity is what its first register says of it, which is no other's.

use monitor::{HPET_REGISTERS_LEN_BYTES, Vm, Window};

use crate::contract::DevicePage;

/// Words of a page.
pub const WORDS: u64 = 512;
/// Bytes of a page.
const PAGE_LEN: usize = 4096;
const _: () = assert!(PAGE_LEN as u64 == WORDS * 8);
/// Byte offset of the word that names the page.
pub const IDENTITY: u64 = 0;
/// Byte offset of the word that the guest stores to.
pub const SLOT: u64 = 8;
/// Byte offset of the page's last word, which a load also checks: a page that
/// begins right need not end right.
pub const LAST: u64 = (WORDS - 1) * 8;

/// "MW" in the upper 16 bits of an identity.
const TAG: u64 = 0x4d57 << 48;

/// What lies between words of a page that are 1 byte apart: odd, so that no two words of
/// a page are alike, and with bits everywhere.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The stamps of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    seed: u64,
    timer: Option<Timer>,
}

/// The page of the event timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timer {
    page: DevicePage,
    capabilities: u64,
}

impl Stamps {
    /// The stamps that follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed, timer: None }
    }

    /// The stamps of `vm` that follow from `seed`.
    pub fn of(vm: &Vm, seed: u64) -> Self {
        let timer = vm.hpet().map(|hpet| Timer {
            page: DevicePage {
                window: hpet.window(),
                page: 0,
            },
            capabilities: hpet.capabilities(),
        });
        Self { seed, timer }
    }

    /// Bytes at the start of a page that are registers and not stamped.
    fn registers_len_bytes(&self, page: DevicePage) -> u64 {
        match self.timer {
            Some(timer) if timer.page == page => HPET_REGISTERS_LEN_BYTES,
            _ => 0,
        }
    }

    /// The word at byte `offset` of a device page, before the guest stores to it.
    ///
    /// Of registers only those are known that nobody writes: the one that tells what
    /// it is, and the reserved ones, which are zero.
    pub fn word(&self, page: DevicePage, offset: u64) -> u64 {
        match self.timer {
            Some(timer) if timer.page == page && offset == IDENTITY => return timer.capabilities,
            _ if offset < self.registers_len_bytes(page) => return 0,
            _ => {}
        }
        if offset == IDENTITY {
            let window = (page.window as u64 & 0xff) << 40;
            return TAG | window | (page.page & 0xff_ffff) << 16 | (mix(self.seed) & 0xffff);
        }
        Self::nth_word(self.base(page), offset)
    }

    /// What the words of a page are counted from.
    fn base(&self, page: DevicePage) -> u64 {
        mix(self.seed ^ mix((page.window as u64) << 32 | page.page))
    }

    /// A word of a page in few steps: whole windows are filled at the start of each VM.
    fn nth_word(base: u64, offset: u64) -> u64 {
        base.wrapping_add(offset.wrapping_mul(STEP))
    }

    /// What the guest stores to a device page through the mapping numbered
    /// `mapping`: never the word that stands there, never the same twice.
    pub fn stored(&self, mapping: u64, page: DevicePage) -> u64 {
        let value = mix(self.word(page, SLOT) ^ mapping.wrapping_mul(0x9e37_79b9));
        if value == self.word(page, SLOT) {
            value ^ 1
        } else {
            value
        }
    }

    /// The device page that an identity names, when it is one of this VM.
    pub fn page_of(&self, identity: u64) -> Option<DevicePage> {
        if let Some(timer) = self.timer
            && timer.capabilities == identity
        {
            return Some(timer.page);
        }
        let page = DevicePage {
            window: usize::try_from(identity >> 40 & 0xff).ok()?,
            page: identity >> 16 & 0xff_ffff,
        };
        (self.word(page, IDENTITY) == identity).then_some(page)
    }

    /// Fills all pages of the window with this index, but for registers.
    pub fn fill(&self, index: usize, window: &Window) {
        for page in 0..window.npages() {
            let page = DevicePage {
                window: index,
                page,
            };
            let first = self.registers_len_bytes(page);
            // The page is of this window, so the write is within it.
            let _ = window.write(page.page, first, &self.content(page, first));
        }
    }

    /// What a device page holds from byte `first` on, before the guest stores to it.
    pub fn content(&self, page: DevicePage, first: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_LEN];
        let base = self.base(page);
        for (word, bytes) in (0..).zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = Self::nth_word(base, word * 8).to_le_bytes();
        }
        // Registers and the identity are not counted.
        let own = usize::try_from(self.registers_len_bytes(page).max(8)).unwrap_or(PAGE_LEN);
        for (word, bytes) in (0..).zip(bytes[..own].as_chunks_mut::<8>().0) {
            *bytes = self.word(page, word * 8).to_le_bytes();
        }
        bytes.split_off(usize::try_from(first).map_or(PAGE_LEN, |first| first.min(PAGE_LEN)))
    }

    /// Whether all pages hold just what [`Stamps::fill`] put there.
    pub fn are_untouched(&self, windows: &[Window]) -> bool {
        windows.iter().enumerate().all(|(index, window)| {
            (0..window.npages()).all(|page| {
                let page = DevicePage {
                    window: index,
                    page,
                };
                let first = self.registers_len_bytes(page);
                let len = usize::try_from(WORDS * 8 - first).unwrap_or_default();
                let found = window.read(page.page, first, len);
                found.is_some_and(|found| found == self.content(page, first))
            })
        })
    }

    /// The device pages whose slot holds something else than at the start, with
    /// what it holds.
    pub fn changed_slots(&self, windows: &[Window]) -> Vec<(DevicePage, u64)> {
        let mut changed = Vec::new();
        for (index, window) in windows.iter().enumerate() {
            for page in 0..window.npages() {
                let page = DevicePage {
                    window: index,
                    page,
                };
                let found = window.load(page.page, SLOT);
                if found != Some(self.word(page, SLOT)) {
                    changed.push((page, found.unwrap_or_default()));
                }
            }
        }
        changed
    }

    /// Puts the slots of `pages` back to what they held at the start.
    pub fn restore_slots(&self, windows: &[Window], pages: impl IntoIterator<Item = DevicePage>) {
        for page in pages {
            if let Some(window) = windows.get(page.window) {
                // A page that the window does not have was never changed.
                let _ = window.write(page.page, SLOT, &self.word(page, SLOT).to_le_bytes());
            }
        }
    }
}

/// Finalizer of SplitMix64: every bit of the input moves about half of the output.
const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the guest saw and did through one page of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The loaded words, or what the guest's process got instead of them.
    pub loaded: Result<Loaded, String>,
    /// Where the word that it stored arrived, or what it got instead; `None` when
    /// it stored none.
    pub stored: Option<Result<Vec<DevicePage>, String>>,
}

/// The words that a guest loads from each page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The word at [`IDENTITY`].
    pub identity: u64,
    /// The word at [`LAST`].
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STAMPS: Stamps = Stamps::new(7);

    fn pages() -> impl Iterator<Item = DevicePage> {
        (0..4).flat_map(|window| (0..64).map(move |page| DevicePage { window, page }))
    }

    #[test]
    fn no_two_words_are_alike() {
        let words: BTreeSet<u64> = pages()
            .flat_map(|page| (0..WORDS).map(move |word| STAMPS.word(page, word * 8)))
            .collect();
        assert_eq!(words.len() as u64, 4 * 64 * WORDS);
    }

    #[test]
    fn a_page_is_filled_with_its_words() {
        let timer = Timer {
            page: DevicePage { window: 1, page: 0 },
            capabilities: 3,
        };
        let with_timer = Stamps {
            timer: Some(timer),
            ..STAMPS
        };
        for stamps in [STAMPS, with_timer] {
            for page in pages() {
                let words = (0..WORDS).flat_map(|word| stamps.word(page, word * 8).to_le_bytes());
                assert_eq!(stamps.content(page, 0), words.collect::<Vec<_>>());
                assert_eq!(stamps.content(page, 4088).len(), 8);
            }
        }
    }

    #[test]
    fn an_identity_names_its_page_in_its_own_vm_only() {
        for page in pages() {
            let identity = STAMPS.word(page, IDENTITY);
            assert_eq!(STAMPS.page_of(identity), Some(page));
            assert_eq!(Stamps::new(8).page_of(identity), None);
        }
        assert_eq!(STAMPS.page_of(0), None);
        assert_eq!(STAMPS.page_of(u64::MAX), None);
    }

    #[test]
    fn what_is_stored_was_not_there_before() {
        let mut stored = BTreeSet::new();
        for page in pages() {
            for mapping in 0..8 {
                assert!(stored.insert(STAMPS.stored(mapping, page)));
                assert_ne!(STAMPS.stored(mapping, page), STAMPS.word(page, SLOT));
            }
        }
    }
}
