//! Outcomes that cases have had, and edges of the guest kernel's code that they have gone
//! along.

use harness::{CodeMap, Coverage, Part};
use serde::Serialize;

use crate::novelty::MAP_LEN;

/// How many edges have been gone along, each part for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Edges {
    /// Of the driver's module.
    pub driver: usize,
    /// Of the kernel's mm/.
    pub mm: usize,
}

/// What has been seen.
pub(crate) struct Seen {
    pub(crate) outcomes: PartSeen,
    pub(crate) driver: PartSeen,
    pub(crate) mm: PartSeen,
    /// Cases for which there was not room enough: their last edges are missing.
    pub(crate) cut_off: u64,
}

/// What has been seen of a part.
pub(crate) struct PartSeen {
    /// How often the last case went along each edge.
    pub(crate) last: Vec<u8>,
    /// Which edges any case went along.
    ever: Vec<bool>,
}

impl PartSeen {
    fn new() -> Self {
        Self {
            last: vec![0; MAP_LEN],
            ever: vec![false; MAP_LEN],
        }
    }

    fn take(&mut self, code: &CodeMap, ran: &Coverage, part: Part) {
        self.last.fill(0);
        code.count_edges(ran, part, &mut self.last);
        self.note();
    }

    /// Notes for good what the last case had.
    pub(crate) fn note(&mut self) {
        for (ever, count) in self.ever.iter_mut().zip(&self.last) {
            *ever |= *count > 0;
        }
    }

    fn merge(&mut self, other: &Self) {
        for (ever, other) in self.ever.iter_mut().zip(&other.ever) {
            *ever |= *other;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.ever.iter().filter(|it| **it).count()
    }
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self {
            outcomes: PartSeen::new(),
            driver: PartSeen::new(),
            mm: PartSeen::new(),
            cut_off: 0,
        }
    }

    /// Takes in what ran for a case.
    pub(crate) fn take(&mut self, code: &CodeMap, ran: &Coverage) {
        self.driver.take(code, ran, Part::Driver);
        self.mm.take(code, ran, Part::Mm);
        self.cut_off += u64::from(!ran.is_whole);
    }

    /// Takes in what another core has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.outcomes.merge(&other.outcomes);
        self.driver.merge(&other.driver);
        self.mm.merge(&other.mm);
        self.cut_off += other.cut_off;
    }

    pub(crate) fn edges(&self) -> Edges {
        Edges {
            driver: self.driver.count(),
            mm: self.mm.count(),
        }
    }
}
