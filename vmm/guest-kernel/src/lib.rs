//! Reads what a guest's kernel keeps of its memory management - processes, address
//! spaces, areas, pages - out of the memory of a guest that stands still.
//!
//! Nothing in the guest is asked. Where structures lie is told by the compiler that
//! built that kernel ([`KernelFacts`]), where its variables lie by its System.map, and
//! its addresses are translated by a walk of its own tables from the frozen vCPU's CR3.
//!
//! ```no_run
//! # fn show(vm: &monitor::Vm, facts: &guest_kernel::KernelFacts) -> Result<(), guest_kernel::ViewError> {
//! use guest_kernel::KernelView;
//!
//! let view = KernelView::of(vm, facts)?;
//! if let Some(vma) = view.vma_at(addr::Gva::new(0x7f00_0000_0000))? {
//!     assert!(vma.flags.has("PFNMAP") && !vma.flags.has("MAYWRITE"));
//! }
//! if let Some(page) = view.page_of(addr::Gfn::new(0x1234))? {
//!     println!("{} references, {} in page tables", page.refcount, page.mapcount());
//! }
//! # Ok(()) }
//! ```
//!
//! The guest is not trusted: lists and trees that loop, entries that lead nowhere and
//! counts that make no sense end in a [`ViewError`].
#![forbid(unsafe_code)]

mod error;
mod facts;
mod maple;
mod memory;
mod modules;
mod page;
#[cfg(any(test, fuzzing))]
mod samples;
mod tasks;
#[cfg(test)]
mod tests;
#[cfg(fuzzing)]
pub mod untrusted;
mod view;
mod vma;

pub use error::{FactsError, ViewError};
pub use facts::KernelFacts;
pub use page::PageView;
pub use tasks::TaskView;
pub use view::{Bases, KernelView};
pub use vma::{VmFlags, VmaView};
