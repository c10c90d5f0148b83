//! Walks page tables and says what the processor would make of them.
//!
//! One walker descends through any x86 table format; a format is data (which
//! bits make an entry present, which are reserved, which grant an access), so
//! that a rule stands in one place and is tested in one place. [`GuestTables`]
//! reads a guest's own 4- and 5-level tables.
//!
//! The crate does no I/O, knows nothing of KVM's interfaces and allocates
//! nothing: tables are seen through [`TableRead`] only. Entries are hostile
//! input. No value of any entry, register or address can make a walk panic or
//! loop, and every step taken is kept, in a success as in an error.
//!
//! Sources: Intel SDM volume 3A, chapter "Paging" (4-level and 5-level paging),
//! and AMD APM volume 2, chapter "Page Translation and Protection" (long mode).
#![no_std]
#![forbid(unsafe_code)]

mod descend;
mod error;
mod extents;
mod format;
mod guest;
mod memory_type;
mod steps;
mod table;
mod translation;

pub use error::{UnsupportedMode, Violation, WalkError};
pub use extents::Extent;
pub use guest::{GuestTables, PagingRegs, Vendor, walk_guest};
pub use memory_type::MemoryType;
pub use steps::{Step, Steps};
pub use table::{AddressSpace, TableRead};
pub use translation::{Access, Translation};
