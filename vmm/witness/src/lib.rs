//! Evidence of where a guest's mapping goes, and the judgement of it.
//!
//! For each page a [`contract`] says what must be. Each link of the chain then
//! has one witness of its own, in one file of its own: the guest's page tables
//! ([`guest_walk`]), the VMM's memslots ([`memslot`]), the host's frames
//! ([`host_frame`]), the live EPT or NPT ([`second_level`]) and the content of the
//! page ([`stamp`]). [`judge`] holds them against each other and names the first
//! link that disagrees.
//!
//! A contract never comes from an observation, and the host-frame link never
//! calls a walker.

pub mod contract;
pub mod evidence;
pub mod guest_walk;
pub mod host_frame;
pub mod judge;
pub mod leaf;
pub mod link;
pub mod memslot;
pub mod second_level;
pub mod stamp;
pub mod timeline;

pub use contract::{Access, DevicePage, Expected, Plan, WindowPlan};
pub use evidence::{Evidence, PageEvidence};
pub use judge::{Mismatch, judge_page};
pub use leaf::Leaves;
pub use link::{Link, Links};
