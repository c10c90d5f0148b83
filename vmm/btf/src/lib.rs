//! Where the members of a kernel's structures lie, by that kernel's own BTF, and how
//! they are read out of memory that is not this process's own.
#![forbid(unsafe_code)]

mod field;
mod types;

pub use btf_rs::{Btf, Error as BtfError};
pub use field::{Array, Field};
pub use types::{NoMember, Types};
