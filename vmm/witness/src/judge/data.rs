//! Judges by what a process saw alone, without any walk.

use addr::Gva;

use super::Mismatch;
use crate::contract::{Expected, Plan};
use crate::link::Link;
use crate::stamp::{IDENTITY, LAST, Seen, Stamps};

/// What a page should have shown, and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    expected: String,
    found: String,
}

impl Unmet {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// As the finding at a page of a mapping.
    pub fn at(self, page: u64, gva: Gva) -> Mismatch {
        Mismatch {
            link: Link::Stamp,
            page,
            gva: gva.to_string(),
            expected: self.expected,
            found: self.found,
            guest_walk: Vec::new(),
            host: Vec::new(),
        }
    }
}

/// Holds what a process saw of a page against its contract.
///
/// # Errors
/// [`Unmet`]: it saw something else.
pub fn judge_data(
    plan: &Plan,
    stamps: &Stamps,
    expected: &Expected,
    seen: &Seen,
) -> Result<(), Unmet> {
    let (page, access) = match *expected {
        Expected::Absent => {
            return match seen {
                Seen { loaded: Ok(_), .. } => Err(Unmet::new("a load is refused", "a word")),
                Seen {
                    stored: Some(Ok(_)),
                    ..
                } => Err(Unmet::new("a store is refused", "it gets through")),
                _ => Ok(()),
            };
        }
        Expected::Present { page, access, .. } => (page, access),
    };
    let name = plan.name(page);
    let loaded = seen
        .loaded
        .as_ref()
        .map_err(|got| Unmet::new(format!("a load from {name}"), got))?;
    for (offset, found) in [(IDENTITY, loaded.identity), (LAST, loaded.last)] {
        let word = stamps.word(page, offset);
        if word != found {
            let expected = format!("{word:#018x}, of {name}");
            return Err(Unmet::new(expected, format!("{found:#018x}")));
        }
    }
    match &seen.stored {
        Some(Ok(arrived)) if access.write && *arrived != [page] => {
            let names: Vec<_> = arrived.iter().map(|page| plan.name(*page)).collect();
            let expected = format!("a store arrives in {name}");
            Err(Unmet::new(expected, format!("in {}", names.join(", "))))
        }
        Some(Ok(_)) if !access.write => Err(Unmet::new("a store is refused", "it gets through")),
        Some(Err(got)) if access.write => Err(Unmet::new(format!("a store to {name}"), got)),
        _ => Ok(()),
    }
}
