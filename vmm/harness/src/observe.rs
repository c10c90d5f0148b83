//! Looks at a mapping: through the guest's own loads and stores, then from below.

use std::collections::BTreeMap;

use witness::judge::{PageVerdict, alike, is_unheard_alike, judge_data, judge_page};
use witness::stamp::Seen;
use witness::{DevicePage, Evidence, Expected, Leaves, Link, Links, Mismatch, PageEvidence};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, Presence};
use crate::using::PAST_THE_END;

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

    /// As [`Guest::judge`], with every page looked at by itself: slowly, and with no idea
    /// of ranges. What `judge` says must be the same.
    ///
    /// # Errors
    /// As [`Guest::witness`].
    pub fn judge_each(
        &self,
        mapping: &Mapping,
        contract: &[Expected],
        seen: Option<&[Seen]>,
    ) -> Result<Judged, HarnessError> {
        self.steadily(|evidence| {
            let no_other = |_: &PageEvidence, _, _| 0;
            self.judge_pages(evidence, mapping, contract, seen, no_other)
        })
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

    /// One look at every page, by ranges of pages that are alike.
    pub(crate) fn judge_by(
        &self,
        evidence: &Evidence<'_>,
        mapping: &Mapping,
        contract: &[Expected],
        seen: Option<&[Seen]>,
    ) -> Judged {
        let mut range = evidence.alike(mapping.gva, mapping.spec.len_bytes());
        let after = |found: &PageEvidence, page, device_page| {
            let reach = range.reach();
            let expected = cut(contract, page, reach);
            let seen = seen.map(|seen| cut(seen, page, reach));
            range.after(found, device_page, alike(self.stamps(), expected, seen))
        };
        self.judge_pages(evidence, mapping, contract, seen, after)
    }

    /// Judges pages in order. `after` says of one that is right in everything how many of
    /// those after it are so too; it is given the page's number and what is wanted there.
    fn judge_pages(
        &self,
        evidence: &Evidence<'_>,
        mapping: &Mapping,
        contract: &[Expected],
        seen: Option<&[Seen]>,
        mut after: impl FnMut(&PageEvidence, usize, Option<DevicePage>) -> u64,
    ) -> Judged {
        let mut judged = Judged::default();
        let mut pages = contract.iter().enumerate();
        while let Some((index, expected)) = pages.next() {
            let page = index as u64;
            let Some(gva) = mapping.page_gva(page) else {
                judged.present += 1;
                judged.blame(past_the_end(mapping, page));
                break;
            };
            let device_page = match expected {
                Expected::Present { page, .. } => Some(*page),
                Expected::Absent => None,
            };
            let seen = seen.and_then(|seen| seen.get(index).cloned());
            let found = evidence.page(gva, device_page, seen);
            let (verdict, unheard) = judge_page(self.plan(), self.stamps(), page, expected, &found);
            // What is wrong, and what could not be heard, is told page by page; but for what
            // is as unheard of all pages that are mapped alike.
            let is_whole = is_unheard_alike(&unheard) && matches!(verdict, PageVerdict::Pass(_));
            let alike = match is_whole {
                true => after(&found, index, device_page),
                false => 0,
            };
            judged.unwitnessed.extend(unheard);
            judged.add(expected, verdict, 1 + alike);
            if let Some(leaves) = Leaves::of(&found).filter(|_| device_page.is_some()) {
                *judged.leaves.entry(leaves).or_default() += 1 + alike;
            }
            let told = usize::try_from(alike).unwrap_or(usize::MAX);
            let _ = pages.by_ref().take(told).count();
        }
        judged
    }
}

/// From `first` on, with at most `after` more.
fn cut<T>(all: &[T], first: usize, after: u64) -> &[T] {
    let rest = all.get(first..).unwrap_or_default();
    let count = usize::try_from(after).unwrap_or(usize::MAX);
    rest.get(..count.saturating_add(1)).unwrap_or(rest)
}

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

    /// Counts `npages` pages of which this is said.
    pub(crate) fn add(&mut self, expected: &Expected, verdict: PageVerdict, npages: u64) {
        if matches!(expected, Expected::Present { .. }) {
            self.present += npages;
        }
        match (verdict, expected) {
            (PageVerdict::Pass(links), Expected::Present { .. }) => {
                let all = links.into_iter();
                all.for_each(|link| self.links.count(link, npages));
            }
            (PageVerdict::Pass(_), Expected::Absent) => self.absent += npages,
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
            judged.add(&Expected::Absent, mismatch(link, page), 1);
        }
        let named = judged.mismatch.expect("a mismatch");
        assert_eq!((named.link, named.page), (Link::GuestWalk, 1));
    }
}
