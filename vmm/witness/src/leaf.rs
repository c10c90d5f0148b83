//! How a page is mapped at both levels, and the memory type in effect that comes of it.
//! Nothing of this is judged: the driver answers for the type that it asks for, and
//! the size of a leaf is the kernel's choice.

use std::fmt;

use serde::{Serialize, Serializer};
use walk::MemoryType;

use crate::evidence::PageEvidence;

/// Said of what could not be read or is not settled by it.
const UNKNOWN: &str = "unknown";

/// The leaves that map a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leaves {
    /// Memory type that the guest's tables ask for.
    #[serde(serialize_with = "as_text")]
    pub asked: MemoryType,
    /// Size of the page in the guest's tables.
    pub guest_page_bytes: u64,
    /// Memory type of the second level; `None` where that could not be read.
    #[serde(serialize_with = "as_text_if_known")]
    pub second_level: Option<MemoryType>,
    /// The second level leaves the guest's tables no say. `None` in NPT, which has no
    /// such bit, and where that could not be read.
    pub ignore_pat: Option<bool>,
    /// Size of the page in the second level.
    pub second_level_page_bytes: Option<u64>,
    /// Memory type in effect; `None` where it is not known.
    #[serde(serialize_with = "as_text_if_known")]
    pub in_effect: Option<MemoryType>,
}

impl Leaves {
    /// Those of a page; `None` when the guest's tables do not map it.
    pub fn of(page: &PageEvidence) -> Option<Self> {
        let guest = page.walked.as_ref().ok()?;
        let below = match &page.second_level {
            Some(Ok(entry)) => entry.walked.as_ref().ok(),
            _ => None,
        };
        Some(Self {
            asked: guest.memory_type,
            guest_page_bytes: guest.page_bytes(),
            second_level: below.map(|found| found.memory_type),
            ignore_pat: below.and_then(|found| Some(found.ept?.ignore_pat)),
            second_level_page_bytes: below.map(walk::Translation::page_bytes),
            in_effect: page.type_in_effect(),
        })
    }
}

fn as_text<S: Serializer>(known: &MemoryType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(known)
}

fn as_text_if_known<S: Serializer>(
    known: &Option<MemoryType>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match known {
        Some(known) => serializer.collect_str(known),
        None => serializer.serialize_none(),
    }
}

impl PageEvidence {
    /// The memory type in effect for the guest's accesses, as far as it follows from
    /// what was read.
    pub fn type_in_effect(&self) -> Option<MemoryType> {
        let asked = self.walked.as_ref().ok()?.memory_type;
        let Some(Ok(entry)) = &self.second_level else {
            return None;
        };
        // With CR0.CD set in the guest's eyes KVM decides, by rules of its own, what
        // the processor does.
        let below = entry.walked.as_ref().ok().filter(|_| self.caches)?;
        below.type_in_effect(asked)
    }
}

impl fmt::Display for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown =
            |known: Option<MemoryType>| known.map_or(UNKNOWN.to_owned(), |known| known.to_string());
        write!(
            f,
            "{} by the guest ({} KiB pages), {} by the second level",
            self.asked,
            self.guest_page_bytes / 1024,
            or_unknown(self.second_level),
        )?;
        if let Some(len_bytes) = self.second_level_page_bytes {
            write!(f, " ({} KiB pages)", len_bytes / 1024)?;
        }
        if self.ignore_pat == Some(true) {
            f.write_str(", which ignores the guest's")?;
        }
        write!(f, ": {} in effect", or_unknown(self.in_effect))
    }
}
