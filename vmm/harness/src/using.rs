//! Uses a mapping through the guest's own loads and stores.

use std::collections::BTreeMap;
use std::ops::Range;

use addr::{Gva, PAGE_SIZE};
use wire::{MAX_WORDS, Sharing};
use witness::DevicePage;
use witness::stamp::{IDENTITY, LAST, Loaded, SLOT, Seen};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::Mapping;

/// What is said of an address that no mapping can have.
pub(crate) const PAST_THE_END: &str = "an address past 2^64";

impl Guest {
    /// What the guest sees through each page of the mapping, and where what it
    /// stores arrives.
    pub(crate) fn use_all(&mut self, mapping: &Mapping) -> Result<Vec<Seen>, HarnessError> {
        let identity = self.load_each(mapping, IDENTITY)?;
        let last = self.load_each(mapping, LAST)?;
        // What is stored to a private mapping is not the device's to keep.
        let stored = if mapping.spec.prot.write && mapping.spec.sharing == Sharing::Shared {
            Some(self.store_each(mapping)?)
        } else {
            None
        };
        let mut stored = stored.map(Vec::into_iter);
        Ok(identity
            .into_iter()
            .zip(last)
            .map(|(identity, last)| Seen {
                loaded: identity.and_then(|identity| last.map(|last| Loaded { identity, last })),
                stored: stored.as_mut().and_then(Iterator::next),
            })
            .collect())
    }

    /// The word at `offset` of each page, or what the guest got instead.
    fn load_each(
        &mut self,
        mapping: &Mapping,
        offset: u64,
    ) -> Result<Vec<Result<u64, String>>, HarnessError> {
        let mut loaded = Vec::new();
        let mut pieces = Pieces::of(mapping.spec.npages);
        while let Some(piece) = pieces.next() {
            match self.load_piece(mapping, &piece, offset)? {
                Ok(words) => loaded.extend(words.into_iter().map(Ok)),
                Err(got) if is_one(&piece) => loaded.push(Err(got)),
                Err(_) => pieces.halve(piece),
            }
        }
        Ok(loaded)
    }

    fn load_piece(
        &mut self,
        mapping: &Mapping,
        piece: &Range<u64>,
        offset: u64,
    ) -> Result<Result<Vec<u64>, String>, HarnessError> {
        let (Some(start), Ok(count)) = (
            word_gva(mapping, piece, offset),
            u32::try_from(piece.end - piece.start),
        ) else {
            return Ok(Err(PAST_THE_END.into()));
        };
        Ok(match self.load(start, PAGE_SIZE, count)? {
            Ok(words) if words.len() as u64 == u64::from(count) => Ok(words),
            Ok(words) => Err(format!("{} words instead of {count}", words.len())),
            Err(refusal) => Err(refusal.to_string()),
        })
    }

    /// Stores a word of its own to each page and finds where each arrived. The
    /// device's pages hold what they held before when this returns.
    fn store_each(
        &mut self,
        mapping: &Mapping,
    ) -> Result<Vec<Result<Vec<DevicePage>, String>>, HarnessError> {
        let words: Vec<u64> = (0..mapping.spec.npages)
            .map(|page| {
                self.stamps()
                    .stored(mapping.id, self.labelled(mapping, page))
            })
            .collect();
        let refusals = self.store_words(mapping, &words)?;
        let mut arrived: BTreeMap<u64, Vec<DevicePage>> = BTreeMap::new();
        for (page, word) in self.take_slots(&words) {
            arrived.entry(word).or_default().push(page);
        }
        Ok(words
            .iter()
            .zip(refusals)
            .map(|(word, refusal)| match refusal {
                Some(refusal) => Err(refusal),
                None => Ok(arrived.remove(word).unwrap_or_default()),
            })
            .collect())
    }

    /// The first device page in whose slot one of `words` arrived, or anything else in that
    /// of a window. All pages hold what they held before when this returns.
    pub(crate) fn first_disturbed(&mut self, words: &[u64]) -> Option<DevicePage> {
        let changed = self.take_slots(words);
        let told = changed
            .iter()
            .find(|(page, found)| page.buffer().is_none() || words.contains(found));
        told.map(|(page, _)| *page)
    }

    /// The device page that a page of the mapping should show; one that the device
    /// does not have where it should show none.
    fn labelled(&self, mapping: &Mapping, page: u64) -> DevicePage {
        let none = DevicePage {
            window: self.plan().windows.len(),
            page,
        };
        mapping.spec.device_page(self.plan(), page).unwrap_or(none)
    }

    /// Stores `words[i]` to page `i`, and says for each what the guest got instead.
    fn store_words(
        &mut self,
        mapping: &Mapping,
        words: &[u64],
    ) -> Result<Vec<Option<String>>, HarnessError> {
        let mut refusals = Vec::new();
        let mut pieces = Pieces::of(words.len() as u64);
        while let Some(piece) = pieces.next() {
            let npages = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            // Pieces come in order: what was told is of the pages before this one.
            let words = words.iter().skip(refusals.len()).take(npages);
            let refusal = match word_gva(mapping, &piece, SLOT) {
                Some(start) => {
                    let refusal = self
                        .store(start, PAGE_SIZE, words.copied().collect())?
                        .err();
                    refusal.map(|refusal| refusal.to_string())
                }
                None => Some(PAST_THE_END.into()),
            };
            match refusal {
                None => refusals.extend((0..npages).map(|_| None)),
                Some(_) if !is_one(&piece) => pieces.halve(piece),
                refusal => refusals.push(refusal),
            }
        }
        Ok(refusals)
    }
}

/// Address of the word at `offset` of a piece's first page.
fn word_gva(mapping: &Mapping, piece: &Range<u64>, offset: u64) -> Option<Gva> {
    mapping.page_gva(piece.start)?.checked_add(offset)
}

/// Pages in order, as many at a time as a message can hold words. A piece in which some
/// page faults is halved until it is told which one.
struct Pieces {
    /// Those that are to come, the next one last.
    left: Vec<Range<u64>>,
}

impl Pieces {
    fn of(npages: u64) -> Self {
        let most = u64::from(MAX_WORDS);
        let piece = |nth: u64| nth * most..npages.min((nth + 1) * most);
        Self {
            left: (0..npages.div_ceil(most)).rev().map(piece).collect(),
        }
    }

    fn next(&mut self) -> Option<Range<u64>> {
        self.left.pop()
    }

    /// Has both halves of a piece of more than one page come next.
    fn halve(&mut self, piece: Range<u64>) {
        let middle = piece.start + (piece.end - piece.start) / 2;
        self.left.push(middle..piece.end);
        self.left.push(piece.start..middle);
    }
}

const fn is_one(piece: &Range<u64>) -> bool {
    piece.end - piece.start <= 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Takes pages of which `faulting` fault: each is told once, in order.
    fn told(npages: u64, faulting: &BTreeSet<u64>) -> (Vec<u64>, usize) {
        let (mut pieces, mut told, mut tries) = (Pieces::of(npages), Vec::new(), 0);
        while let Some(piece) = pieces.next() {
            assert!(piece.start < piece.end && piece.end - piece.start <= u64::from(MAX_WORDS));
            tries += 1;
            match faulting.range(piece.clone()).next() {
                Some(_) if !is_one(&piece) => pieces.halve(piece),
                _ => told.extend(piece),
            }
        }
        (told, tries)
    }

    #[test]
    fn each_page_is_told_once_and_in_order() {
        let cases: [(u64, &[u64], usize); 8] = [
            (0, &[], 0),
            (1, &[], 1),
            (1, &[0], 1),
            (16384, &[], 1),
            (16385, &[], 2),
            (1024, &[1023], 21),
            (65536, &[20000], 32),
            (5, &[0, 1, 2, 3, 4], 9),
        ];
        for (npages, faulting, tries) in cases {
            let faulting = faulting.iter().copied().collect();
            let all: Vec<u64> = (0..npages).collect();
            assert_eq!(told(npages, &faulting), (all, tries), "of {npages} pages");
        }
    }
}
