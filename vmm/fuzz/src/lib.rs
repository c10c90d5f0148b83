//! Does to a driver's mappings whatever processes can, over and over, and holds what
//! becomes of them against the model and, by the witnesses, against the device.
//!
//! ```text
//! corpus --schedule, mutate--> Case --Subject::run--> Ran --> Finding, on disk
//!    ^                                                 |
//!    +-------------- what is new (a map) --------------+
//! ```

mod areas;
mod arguments;
mod beginnings;
mod case;
mod cores;
mod costs;
mod counts;
mod dice;
mod dictionary;
mod edges;
mod engine;
mod error;
mod executor;
mod files;
mod finding;
mod folder;
mod generate;
mod habits;
mod leavings;
mod minimise;
mod mutate;
mod novelty;
mod outcome;
mod progress;
mod ran;
mod shared;
mod subject;
mod tweak;
mod verdict;
mod words;
mod world;

pub use beginnings::beginnings;
pub use case::{Case, CaseError, MOST_OPERATIONS};
pub use cores::{LoadError, Peers, fuzz_on};
pub use costs::{Costs, costs};
pub use edges::Edges;
pub use engine::{Guidance, Options, fuzz};
pub use error::FuzzError;
pub use finding::{About, Finding, FindingError};
pub use generate::case as random_case;
pub use outcome::{Outcome, Shares};
pub use progress::Total;
pub use ran::{Found, Pace, Ran, Step, Times};
pub use subject::Subject;
pub use verdict::{Cause, Verdict, WrongPage, kind};
pub use world::World;
