//! Sums over the mappings of a check.

use std::collections::BTreeMap;

use witness::{Link, Links};

use crate::observe::Judged;
use crate::report::Unwitnessed;

/// Sums over mappings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Mappings that were held against their contract.
    pub(crate) mappings: u64,
    /// Pages that had to be present while their mapping was in use.
    pub(crate) present: u64,
    /// Pages that had to be absent, at any look.
    pub(crate) absent: u64,
    /// Pages witnessed by each link while their mapping was in use.
    pub(crate) links: Links,
    reasons: BTreeMap<Link, String>,
}

impl Tally {
    /// Of one mapping, so many pages of which have to be present while it is in use.
    pub(crate) fn of_mapping(present: u64) -> Self {
        Self {
            mappings: 1,
            present,
            ..Self::default()
        }
    }

    /// Notes a look at pages; what had to be present counts only while in use.
    pub(crate) fn note(&mut self, judged: &Judged) {
        self.absent += judged.absent;
        let reasons = judged.unwitnessed.iter();
        self.reasons
            .extend(reasons.map(|(link, reason)| (*link, reason.clone())));
    }

    /// Adds the sums of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.mappings += other.mappings;
        self.present += other.present;
        self.absent += other.absent;
        self.links.add(&other.links);
        self.reasons.extend(other.reasons.clone());
    }

    /// Links that were not heard for every page. None is left out, with or without
    /// a reason.
    pub(crate) fn unwitnessed(&self) -> Vec<Unwitnessed> {
        Link::ALL
            .into_iter()
            .filter(|link| self.links.get(*link) < self.present)
            .map(|link| Unwitnessed {
                link,
                reason: self.reason(link),
            })
            .collect()
    }

    fn reason(&self, link: Link) -> String {
        let known = self.reasons.get(&link).cloned();
        known.unwrap_or_else(|| "some pages failed before it could be heard".into())
    }
}
