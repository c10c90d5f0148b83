//! Looks at a mapping: through the guest's own loads and stores, then from below.

use std::collections::BTreeMap;

use addr::PAGE_SIZE;
use wire::Sharing;
use witness::judge::{PageVerdict, judge_data, judge_page};
use witness::stamp::{IDENTITY, LAST, Loaded, SLOT, Seen};
use witness::{DevicePage, Evidence, Expected, Leaves, Link, Links, Mismatch};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, Presence};

/// Looks at a mapping while KVM exchanges the VM's second-level tables. It does so after
/// a change of memslots, and nobody changes those over and over.
const LOOKS: usize = 4;

/// What became of a mapping's pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Pages witnessed by each link, those that were to be absent left out.
    pub links: Links,
    /// Pages that were to be present.
    pub present: u64,
    /// Pages that were to be absent, and are.
    pub absent: u64,
    /// The first page at the first link that disagrees. A page further back in the
    /// chain goes first: two pages that lead to one place spoil each other's stamps,
    /// and only the walk tells which of them is wrong.
    pub mismatch: Option<Mismatch>,
    /// Links that could not be heard, with the reason.
    pub unwitnessed: BTreeMap<Link, String>,
    /// How the pages that were to be present are mapped, and how many so.
    pub leaves: BTreeMap<Leaves, u64>,
}

impl Guest {
    /// Holds every page of `mapping` against `presence`, from below only: the
    /// guest does not run.
    ///
    /// # Errors
    /// [`HarnessError::Tables`] when the guest's tables cannot be walked at all.
    pub fn witness(&self, mapping: &Mapping, presence: &Presence) -> Result<Judged, HarnessError> {
        self.judge(mapping, &mapping.spec.contract(self.plan(), presence), None)
    }

    /// Loads from every page of `mapping`, stores to it where that is allowed, and
    /// holds every page against its contract with all links.
    ///
    /// # Errors
    /// As [`Guest::request`] and [`Guest::witness`].
    pub fn witness_in_use(&mut self, mapping: &Mapping) -> Result<Judged, HarnessError> {
        let seen = self.use_all(mapping)?;
        self.judge(
            mapping,
            &mapping.spec.contract(self.plan(), &Presence::All),
            Some(seen),
        )
    }

    /// Holds every page of `mapping` against a contract of its own, from below.
    ///
    /// # Errors
    /// As [`Guest::witness`].
    pub fn judge(
        &self,
        mapping: &Mapping,
        contract: &[Expected],
        seen: Option<Vec<Seen>>,
    ) -> Result<Judged, HarnessError> {
        if self.sees_data_alone() {
            return Ok(self.judge_data(mapping, contract, &seen.unwrap_or_default()));
        }
        self.steadily(|evidence| self.judge_by(evidence, mapping, contract, seen.as_deref()))
    }

    /// What is wrong with what a process saw of a mapping, for one who sees nothing
    /// else.
    pub(crate) fn judge_data(
        &self,
        mapping: &Mapping,
        contract: &[Expected],
        seen: &[Seen],
    ) -> Judged {
        let mut judged = Judged::default();
        for (page, (expected, seen)) in (0..).zip(contract.iter().zip(seen)) {
            let verdict = judge_data(self.plan(), self.stamps(), expected, seen);
            if let Err(unmet) = verdict {
                let gva = mapping.page_gva(page).unwrap_or(mapping.gva);
                judged.blame(unmet.at(page, gva));
            }
        }
        judged
    }

    /// Looks by evidence that is fresh, and once more when KVM exchanged the tables
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Guest::witness`].
    pub(crate) fn steadily<T>(&self, look: impl Fn(&Evidence<'_>) -> T) -> Result<T, HarnessError> {
        for _ in 0..LOOKS {
            let evidence = Evidence::of(self.vm())?;
            let seen = look(&evidence);
            if evidence.is_current() {
                return Ok(seen);
            }
        }
        Err(HarnessError::Restless { looks: LOOKS })
    }

    /// One look at every page.
    pub(crate) fn judge_by(
        &self,
        evidence: &Evidence<'_>,
        mapping: &Mapping,
        contract: &[Expected],
        seen: Option<&[Seen]>,
    ) -> Judged {
        let mut seen = seen.map(|seen| seen.iter().cloned());
        let mut judged = Judged::default();
        for (page, expected) in (0..).zip(contract) {
            let Some(gva) = mapping.page_gva(page) else {
                judged.present += 1;
                judged.blame(past_the_end(mapping, page));
                break;
            };
            let device_page = match expected {
                Expected::Present { page, .. } => Some(*page),
                Expected::Absent => None,
            };
            let found = evidence.page(gva, device_page, seen.as_mut().and_then(Iterator::next));
            let (verdict, unheard) = judge_page(self.plan(), self.stamps(), page, expected, &found);
            judged.unwitnessed.extend(unheard);
            judged.add(expected, verdict);
            if let Some(leaves) = Leaves::of(&found).filter(|_| device_page.is_some()) {
                *judged.leaves.entry(leaves).or_default() += 1;
            }
        }
        judged
    }

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
        let start = mapping.gva.checked_add(offset);
        if let (Some(start), Ok(count)) = (start, u32::try_from(mapping.spec.npages))
            && let Ok(words) = self.load(start, PAGE_SIZE, count)?
            && words.len() as u64 == mapping.spec.npages
        {
            return Ok(words.into_iter().map(Ok).collect());
        }
        // Some page faults: each for itself tells which.
        let mut loaded = Vec::new();
        for page in 0..mapping.spec.npages {
            loaded.push(self.load_one(mapping, page, offset)?);
        }
        Ok(loaded)
    }

    fn load_one(
        &mut self,
        mapping: &Mapping,
        page: u64,
        offset: u64,
    ) -> Result<Result<u64, String>, HarnessError> {
        let Some(gva) = mapping
            .page_gva(page)
            .and_then(|gva| gva.checked_add(offset))
        else {
            return Ok(Err(PAST_THE_END.into()));
        };
        Ok(match self.load(gva, PAGE_SIZE, 1)? {
            Ok(words) => words.first().copied().ok_or_else(|| "no word".into()),
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
        if let Some(start) = mapping.gva.checked_add(SLOT)
            && self.store(start, PAGE_SIZE, words.to_vec())?.is_ok()
        {
            return Ok(vec![None; words.len()]);
        }
        let mut refusals = Vec::new();
        for (page, word) in (0..).zip(words) {
            let gva = mapping.page_gva(page).and_then(|gva| gva.checked_add(SLOT));
            refusals.push(match gva {
                Some(gva) => {
                    let refusal = self.store(gva, PAGE_SIZE, vec![*word])?.err();
                    refusal.map(|refusal| refusal.to_string())
                }
                None => Some(PAST_THE_END.into()),
            });
        }
        Ok(refusals)
    }
}

/// What is said of an address that no mapping can have.
const PAST_THE_END: &str = "an address past 2^64";

fn past_the_end(mapping: &Mapping, page: u64) -> Mismatch {
    Mismatch {
        link: Link::Contract,
        page,
        gva: mapping.gva.to_string(),
        expected: format!("a mapping of {} pages", mapping.spec.npages),
        found: PAST_THE_END.into(),
        guest_walk: Vec::new(),
        host: Vec::new(),
    }
}

impl Judged {
    /// Takes what another look found as well.
    pub fn merge(&mut self, other: Self) {
        self.links.add(&other.links);
        self.present += other.present;
        self.absent += other.absent;
        self.unwitnessed.extend(other.unwitnessed);
        for (leaves, npages) in other.leaves {
            *self.leaves.entry(leaves).or_default() += npages;
        }
        if let Some(mismatch) = other.mismatch {
            self.blame(mismatch);
        }
    }

    pub(crate) fn add(&mut self, expected: &Expected, verdict: PageVerdict) {
        if matches!(expected, Expected::Present { .. }) {
            self.present += 1;
        }
        match (verdict, expected) {
            (PageVerdict::Pass(links), Expected::Present { .. }) => {
                links.into_iter().for_each(|link| self.links.count(link));
            }
            (PageVerdict::Pass(_), Expected::Absent) => self.absent += 1,
            (PageVerdict::Fail(mismatch), _) => self.blame(*mismatch),
        }
    }

    fn blame(&mut self, mismatch: Mismatch) {
        let earlier = |known: &Mismatch| known.link <= mismatch.link;
        if !self.mismatch.as_ref().is_some_and(earlier) {
            self.mismatch = Some(mismatch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatch(link: Link, page: u64) -> PageVerdict {
        PageVerdict::Fail(Box::new(Mismatch {
            link,
            page,
            gva: String::new(),
            expected: String::new(),
            found: String::new(),
            guest_walk: Vec::new(),
            host: Vec::new(),
        }))
    }

    #[test]
    fn the_page_that_fails_earliest_in_the_chain_is_named() {
        let mut judged = Judged::default();
        for (link, page) in [
            (Link::Stamp, 0),
            (Link::GuestWalk, 1),
            (Link::GuestWalk, 2),
            (Link::Memslot, 3),
        ] {
            judged.add(&Expected::Absent, mismatch(link, page));
        }
        let named = judged.mismatch.expect("a mismatch");
        assert_eq!((named.link, named.page), (Link::GuestWalk, 1));
    }
}
