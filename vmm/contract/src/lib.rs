//! What a driver's device files promise, as plain data.
//!
//! A [`FileContract`] says for each page offset of one file which page of the
//! device a mapping shows there, with which access and memory type and from when
//! on, and how the driver answers what it must not grant. Everything that holds a
//! driver against something reads it here: the standard check, tests, planted
//! faults. It is stated by whoever knows what the driver should do and never
//! derived from what it does.
#![forbid(unsafe_code)]

mod access;
mod device;
mod errno;
mod file;
mod hostile;
pub mod memory_type;
mod predict;
mod request;
mod rules;
mod toml;
mod vma;

pub use access::Access;
pub use device::{BufferSpec, Contract, DeviceSpec, RegisterSpec, WindowSpec};
pub use errno::{Errno, UnknownErrno};
pub use file::{Backing, FileContract, Fork, Offset, RangeContract, Shown, When};
pub use hostile::Named;
pub use request::{Answer, Request};
pub use rules::{Condition, Refusal};
pub use toml::{Problems, ReadError};
pub use vma::{VmaFlag, VmaFlags};
