//! Uses a mapping through the guest's own loads and stores.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use addr::{Gva, PAGE_SIZE};
use wire::{MAX_WORDS, Reply, Request, Sharing, Value};
use witness::DevicePage;
use witness::stamp::{IDENTITY, LAST, Loaded, SLOT, Seen};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::Mapping;

/// Mappings that are used together at most.
const MOST_TOGETHER: usize = 16;
/// Their pages at most: two words of each fit a message.
const MOST_NPAGES: u64 = MAX_WORDS as u64 / 2;

/// What was loaded from each page of a mapping, or what the guest got instead.
type LoadedPages = Vec<Result<Loaded, String>>;

/// What is to be stored to the pages of a mapping.
struct Stores {
    /// The mapping's place among others.
    index: usize,
    address: Gva,
    words: Vec<u64>,
}

impl Stores {
    fn request(&self) -> Request {
        Request::Store {
            address: self.address.raw(),
            stride_bytes: PAGE_SIZE,
            words: self.words.clone(),
        }
    }
}

/// Where what was stored to a page arrived, or what the guest got instead.
type Stored = Result<Vec<DevicePage>, String>;

/// What is said of an address that no mapping can have.
pub(crate) const PAST_THE_END: &str = "an address past 2^64";

impl Guest {
    /// What the guest sees through each page of the mapping, and where what it
    /// stores arrives.
    pub(crate) fn use_all(&mut self, mapping: &Mapping) -> Result<Vec<Seen>, HarnessError> {
        let identity = self.load_each(mapping, IDENTITY)?;
        let last = self.load_each(mapping, LAST)?;
        let stored = if is_stored_to(mapping) {
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

    /// As [`Guest::use_all`], of several mappings, with fewer stops: all loads at once, and
    /// then at once the stores of those which show no page twice.
    pub(crate) fn use_several(
        &mut self,
        mappings: &[Mapping],
    ) -> Result<Vec<Vec<Seen>>, HarnessError> {
        self.grant_stores(mappings.iter().filter(|mapping| is_stored_to(mapping)));
        let mut groups = self.apart(mappings).into_iter();
        let first = self.stores(mappings, &groups.next().unwrap_or_default());
        let mut requests: Vec<Request> = first.iter().map(Stores::request).collect();
        let mut loaded = Vec::new();
        let mut replies = Vec::new();
        let mut left = mappings.len();
        for together in batches(mappings) {
            left -= together.len();
            // The first stores go along with the last loads.
            let along = if left == 0 {
                std::mem::take(&mut requests)
            } else {
                Vec::new()
            };
            let (words, rest) = self.load_several(together, along)?;
            loaded.extend(words);
            replies = rest;
        }
        let mut stored: Vec<Option<Vec<Stored>>> = vec![None; mappings.len()];
        let mut note = |outcomes: Vec<(usize, Vec<Stored>)>| {
            for (index, outcome) in outcomes {
                if let Some(stored) = stored.get_mut(index) {
                    *stored = Some(outcome);
                }
            }
        };
        note(self.stored_several(mappings, &first, replies)?);
        for group in groups {
            let stores = self.stores(mappings, &group);
            let requests: Vec<_> = stores.iter().map(Stores::request).collect();
            let replies = self.several(&requests)?;
            note(self.stored_several(mappings, &stores, replies)?);
        }
        for (index, mapping) in mappings.iter().enumerate() {
            if is_stored_to(mapping) && is_large(mapping) {
                note(vec![(index, self.store_each(mapping)?)]);
            }
        }
        let seen = loaded.into_iter().zip(stored).map(|(loaded, stored)| {
            let mut stored = stored.map(Vec::into_iter);
            let seen = |loaded| Seen {
                loaded,
                stored: stored.as_mut().and_then(Iterator::next),
            };
            loaded.into_iter().map(seen).collect()
        });
        Ok(seen.collect())
    }

    /// What the guest loads from each page of each mapping, and its replies to what it is
    /// asked `along` with that.
    fn load_several(
        &mut self,
        mappings: &[Mapping],
        along: Vec<Request>,
    ) -> Result<(Vec<LoadedPages>, Vec<Reply>), HarnessError> {
        let mut requests = Vec::new();
        for mapping in mappings {
            for offset in [IDENTITY, LAST] {
                requests.push(load_request(mapping, offset));
            }
        }
        let mut asked: Vec<Request> = requests.iter().flatten().cloned().collect();
        let nloads = asked.len();
        asked.extend(along);
        let mut replies = self.several(&asked)?;
        let rest = replies.split_off(nloads.min(replies.len()));
        let mut replies = replies.into_iter();
        let mut replies = requests
            .iter()
            .map(|request| request.as_ref().and_then(|_| replies.next()))
            .collect::<Vec<_>>()
            .into_iter();
        let mut all = Vec::new();
        for mapping in mappings {
            let mut words = Vec::new();
            for offset in [IDENTITY, LAST] {
                words.push(match replies.next().flatten() {
                    Some(Reply::Done(Value::Words(words)))
                        if words.len() as u64 == mapping.spec.npages =>
                    {
                        words.into_iter().map(Ok).collect()
                    }
                    // Which page it was is found out by itself.
                    _ => self.load_each(mapping, offset)?,
                });
            }
            let (last, identity) = (words.pop(), words.pop());
            let pairs = identity
                .into_iter()
                .flatten()
                .zip(last.into_iter().flatten());
            let loaded = pairs.map(|(identity, last)| {
                Ok(Loaded {
                    identity: identity?,
                    last: last?,
                })
            });
            all.push(loaded.collect());
        }
        Ok((all, rest))
    }

    /// Groups of those mappings, by their places, to which is stored together; in a group
    /// none shows a page that another one shows.
    fn apart(&self, mappings: &[Mapping]) -> Vec<Vec<usize>> {
        let mut groups: Vec<(HashSet<DevicePage>, Vec<usize>)> = Vec::new();
        for (index, mapping) in mappings.iter().enumerate() {
            if !is_stored_to(mapping) || is_large(mapping) {
                continue;
            }
            let pages: Vec<DevicePage> = self.labels(mapping).collect();
            let is_free = |(taken, group): &&mut (HashSet<DevicePage>, Vec<usize>)| {
                let npages = (taken.len() + pages.len()) as u64;
                let is_taken = |page| taken.contains(page);
                let has_room = group.len() < MOST_TOGETHER && npages <= MOST_NPAGES;
                has_room && !pages.iter().any(is_taken)
            };
            match groups.iter_mut().find(is_free) {
                Some((taken, group)) => {
                    taken.extend(pages);
                    group.push(index);
                }
                None => groups.push((pages.into_iter().collect(), vec![index])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// What each page of the mapping should show, in order.
    fn labels(&self, mapping: &Mapping) -> impl Iterator<Item = DevicePage> + use<> {
        let nowhere = self.plan().windows.len();
        let shown = mapping.spec.device_pages(self.plan()).into_iter();
        let labelled = move |(page, shown): (u64, Option<DevicePage>)| {
            shown.unwrap_or(DevicePage {
                window: nowhere,
                page,
            })
        };
        (0..).zip(shown).map(labelled)
    }

    /// What is to be stored to the mappings at these places.
    fn stores(&self, mappings: &[Mapping], together: &[usize]) -> Vec<Stores> {
        let stores = |index: &usize| {
            let mapping = mappings.get(*index)?;
            Some(Stores {
                index: *index,
                address: mapping.page_gva(0)?.checked_add(SLOT)?,
                words: self.words_for(mapping),
            })
        };
        together.iter().filter_map(stores).collect()
    }

    /// Where that arrived, by the guest's replies. Those mappings for which it does not go as
    /// a whole are stored to by themselves.
    fn stored_several(
        &mut self,
        mappings: &[Mapping],
        stores: &[Stores],
        replies: Vec<Reply>,
    ) -> Result<Vec<(usize, Vec<Stored>)>, HarnessError> {
        if stores.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<u64> = stores.iter().flat_map(|it| it.words.clone()).collect();
        let mut arrived = self.arrived(&all);
        let mut outcomes = Vec::new();
        for (one, reply) in stores.iter().zip(replies) {
            let outcome = match (reply, mappings.get(one.index)) {
                (Reply::Done(Value::Unit), _) => one
                    .words
                    .iter()
                    .map(|word| Ok(arrived.remove(word).unwrap_or_default()))
                    .collect(),
                (_, Some(mapping)) => self.store_each(mapping)?,
                (_, None) => continue,
            };
            outcomes.push((one.index, outcome));
        }
        Ok(outcomes)
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
        let words = self.words_for(mapping);
        let refusals = self.store_words(mapping, &words)?;
        let mut arrived = self.arrived(&words);
        Ok(words
            .iter()
            .zip(refusals)
            .map(|(word, refusal)| match refusal {
                Some(refusal) => Err(refusal),
                None => Ok(arrived.remove(word).unwrap_or_default()),
            })
            .collect())
    }

    /// A word for each page of a mapping, which no other page or mapping gets.
    fn words_for(&self, mapping: &Mapping) -> Vec<u64> {
        let stamps = self.stamps();
        let word = |page| stamps.stored(mapping.id, page);
        self.labels(mapping).map(word).collect()
    }

    /// Where each of `words` arrived. The device's pages hold what they held before when
    /// this returns.
    fn arrived(&mut self, words: &[u64]) -> BTreeMap<u64, Vec<DevicePage>> {
        let mut arrived: BTreeMap<u64, Vec<DevicePage>> = BTreeMap::new();
        for (page, word) in self.take_slots(words) {
            arrived.entry(word).or_default().push(page);
        }
        arrived
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

/// Mappings in order, as many together as may be; one that is large goes with none.
fn batches(mappings: &[Mapping]) -> Vec<&[Mapping]> {
    let mut batches = Vec::new();
    let mut rest = mappings;
    while !rest.is_empty() {
        let mut npages: u64 = 0;
        let fits = |mapping: &&Mapping| {
            npages = npages.saturating_add(mapping.spec.npages);
            npages <= MOST_NPAGES
        };
        let count = rest.iter().take(MOST_TOGETHER).take_while(fits).count();
        let (batch, later) = rest.split_at(count.max(1));
        batches.push(batch);
        rest = later;
    }
    batches
}

/// What the guest is to do to load a word from each page; `None` where that has no address
/// or is too much for one message among others.
fn load_request(mapping: &Mapping, offset: u64) -> Option<Request> {
    let npages = mapping.spec.npages;
    Some(Request::Load {
        address: mapping.page_gva(0)?.checked_add(offset)?.raw(),
        stride_bytes: PAGE_SIZE,
        count: u32::try_from(npages).ok().filter(|_| !is_large(mapping))?,
    })
}

/// What is stored to a private mapping is not the device's to keep.
fn is_stored_to(mapping: &Mapping) -> bool {
    mapping.spec.prot.write && mapping.spec.sharing == Sharing::Shared
}

/// Whether what is stored to it is too much for one message among others.
fn is_large(mapping: &Mapping) -> bool {
    mapping.spec.npages > MOST_NPAGES
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
