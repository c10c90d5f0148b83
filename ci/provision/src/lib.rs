//! What the project installs, fetches and keeps on a machine.
//!
//! - [`progress`]: long work says what it is doing and how far it is, on stderr.
//! - [`cache`]: built artefacts under the user's cache folder, addressed by
//!   every input that shapes them.
//! - [`packages`]: which Debian packages are missing, and installing them with
//!   the user's consent.
//! - [`debian`]: files of a Debian archive through an apt of our own, which
//!   leaves the system's configuration and lists alone.
#![forbid(unsafe_code)]

pub mod cache;
pub mod command;
pub mod debian;
pub mod packages;
pub mod progress;

pub use cache::{Cache, Key};
pub use packages::{Consent, Need};
pub use progress::Progress;
