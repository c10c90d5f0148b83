//! Walks page tables and says what the processor would make of them.
//!
//! One walker descends through any x86 table format; a format is data (which
//! bits make an entry present, which are reserved, which grant an access), so
//! that a rule stands in one place and is tested in one place. [`GuestTables`]
//! reads a guest's own 4- and 5-level tables, [`SecondLevel`] the tables below
//! them: Intel's EPT and AMD's NPT. [`Spte`] names what KVM leaves in the latter.
//!
//! The crate does no I/O, knows nothing of KVM's interfaces and allocates
//! nothing: tables are seen through [`TableRead`] only. Entries are hostile
//! input. No value of any entry, register or address can make a walk panic or
//! loop, and every step taken is kept, in a success as in an error.
//!
//! A range of addresses is walked by [`RangeWalk`] ([`GuestTables::range`],
//! [`SecondLevel::range`]), which reads each table once and in bulk, by
//! [`TableRead::read_entries`], and gives [`Run`]s of pages that are mapped alike. What
//! it says of an address is what the walk for that address says.
//!
//! ```
//! use addr::{Gpa, Gva, Level};
//! use walk::{PagingRegs, TableRead, Vendor, WalkError, walk_guest};
//!
//! /// A root at 0x1000 whose first entry names a table that maps one 1 GiB page.
//! struct Two;
//! impl TableRead for Two {
//!     type Addr = Gpa;
//!     type Error = core::convert::Infallible;
//!     fn read_entry(&self, at: Gpa) -> Result<u64, Self::Error> {
//!         Ok(match at.raw() {
//!             0x1000 => 0x2007,
//!             0x2000 => 0x4000_0085,
//!             _ => 0,
//!         })
//!     }
//! }
//!
//! let regs = PagingRegs {
//!     cr0: 0x8000_0001,
//!     cr3: 0x1000,
//!     cr4: 0x20,
//!     efer: 0xd00,
//!     pat: 0x0007_0406_0007_0406,
//!     maxphyaddr: 46,
//!     gib_pages: true,
//!     vendor: Vendor::Intel,
//! };
//! let page = walk_guest(&Two, &regs, Gva::new(0x1234))?;
//! assert_eq!((page.address, page.page_size), (Gpa::new(0x4000_1234), Level::Pud));
//! assert!(page.access.read && !page.access.write);
//!
//! let hole = walk_guest(&Two, &regs, Gva::new(0x4000_0000)).unwrap_err();
//! assert_eq!(hole.to_string(), "level 3 entry 0x1 at gpa 0x2008 is not present (raw 0x0)");
//! # Ok::<(), WalkError<Gpa, core::convert::Infallible>>(())
//! ```
//!
//! Sources: Intel SDM volume 3A, chapter "Paging" (4-level and 5-level paging),
//! volume 3C, "The Extended Page Table Mechanism (EPT)"; AMD APM volume 2, "Page
//! Translation and Protection" (long mode) and "Nested Paging".
#![no_std]
#![forbid(unsafe_code)]

mod descend;
mod effective;
mod error;
mod format;
mod guest;
mod kvm;
mod memory_type;
mod range;
mod second_level;
mod steps;
mod table;
mod translation;
mod x86;

pub use error::{UnsupportedMode, Violation, WalkError};
pub use guest::{GuestTables, PagingRegs, Vendor, walk_guest};
pub use kvm::Spte;
pub use memory_type::MemoryType;
pub use range::{Extent, Frames, RangeWalk, Run};
pub use second_level::{EptRegs, Mapped, NptRegs, SecondLevel, eptp};
pub use steps::{Step, Steps};
pub use table::{AddressSpace, TableRead};
pub use translation::{Access, EptLeaf, Translation};
