//! What the judge says of a page.

use serde::Serialize;

use crate::link::Link;

/// The first link that disagrees, with what it takes to understand it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The link.
    pub link: Link,
    /// Page within the mapping.
    pub page: u64,
    /// Guest virtual address of that page.
    pub gva: String,
    /// What the contract wants.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// Each step of the walk of the guest's tables, from the root down.
    pub guest_walk: Vec<String>,
    /// The page in the host, as far as it is known: memslot, frames and each step
    /// of the walk of the second-level tables.
    pub host: Vec<String>,
}

/// What became of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// These links were witnessed and agree.
    Pass(Vec<Link>),
    /// This one does not.
    Fail(Box<Mismatch>),
}

/// Links that could have spoken and were not heard, each with the reason.
pub type Unwitnessed = Vec<(Link, String)>;
