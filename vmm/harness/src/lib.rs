//! Drives a guest through its agent and witnesses what its mappings become: from
//! a VM to operations, from the frozen guest to evidence, from evidence to a
//! report.

pub mod agent;
mod answers;
pub mod atlas;
mod buffers;
pub mod check;
mod check_watch;
mod course;
pub mod coverage;
pub mod driver;
pub mod error;
mod granting;
pub mod guest;
pub mod mapping;
pub mod model;
pub mod mutants;
mod near;
pub mod observe;
pub mod operations;
pub mod outcome;
pub mod own_driver;
mod promises;
pub mod reference;
mod regions;
pub mod report;
pub mod signals;
mod snapshot;
pub mod start;
mod steps;
mod stopped;
mod tally;
mod using;
pub mod watch;

pub use check::{CheckOptions, check};
pub use coverage::{CodeMap, Coverage, Part};
pub use driver::{Command, Driver, Module, Preparation, equip};
pub use error::HarnessError;
pub use guest::Guest;
pub use mapping::{Mapping, MappingSpec, Presence};
pub use outcome::{Outcome, Refusal};
pub use own_driver::Strategy;
pub use regions::RegionContract;
pub use report::{MappingReport, Report, Verdict};
pub use snapshot::GuestSnapshot;
pub use start::{Snapshots, Start, Started};
pub use watch::{Watch, WatchError};
