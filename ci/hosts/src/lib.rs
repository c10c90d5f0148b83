//! Where a check runs: on this machine's KVM, or inside a software host.
//!
//! - [`probe()`] finds out what /dev/kvm can do, by running a tiny real guest.
//! - [`choose`] picks the host, [`run`] carries a process into it, and [`doctor`]
//!   explains it all to a person.
//! - [`keeper`] and [`init`] are the entry points of the two hidden commands
//!   `host-keep` and `host-init` that the calling program has to offer.
//!
//! # The software host `soft-npt`
//! QEMU's software emulation runs a distribution's stock kernel with kvm_amd. Its
//! root file system is the machine's own, through virtiofs: read-only but for the
//! folders whose contents must come back.
//!
//! Packing an initramfs for each run was the other way. Measured on 2 CPUs without
//! virtualization hardware, from the start of QEMU to a served process: see the
//! table in the crate's README section of ARCHITECTURE.md.

mod commands;
pub mod doctor;
pub mod init;
pub mod keeper;
pub mod kernel;
mod messages;
mod needs;
mod owner;
pub mod probe;
mod run;
mod rundir;
mod select;
mod virtiofsd;

pub use commands::hidden_command;
pub use needs::needs;
pub use owner::Owner;
pub use probe::{Probe, SecondLevel, Vendor, probe};
pub use run::{Options, RunError, SoftwareHost, ensure, run};
pub use select::{
    Choice, HOST_VARIABLE, HostKind, INSIDE_VARIABLE, SelectError, UnknownHost, Wish, choose,
    pagemap_shows_frames,
};
