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
//! Packing an initramfs for each run was the other way, and was tried: the stock
//! kernel reaches init equally fast, modules load and an 18 MB program starts some
//! tenths of a second faster from memory. Against it stand a second or more to pack
//! 33 MB anew whenever a test program was linked, the need to find every library
//! and data file beforehand, and a second channel for what must come back. Through
//! virtiofs, programs, libraries and relative paths work as they are, and what a
//! test writes is simply there. From the start of QEMU to a served process it takes
//! 4 seconds on two quiet CPUs; a process more, some tenths.
//!
//! Nothing is cached that could be out of date: a file replaced outside is seen at
//! the next open (see the options in `virtiofsd.rs`).
//!
//! Carried processes speak over one virtio-serial port, shared by all sessions, with
//! a window for each session's output. A port for each session would have needed a
//! way to tell the end of one session's bytes from the next one's beginning.

mod commands;
pub mod doctor;
mod emulator;
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
pub mod soft_ept;
mod virtiofsd;

pub use commands::{Prepared, hidden_command};
pub use emulator::qemu;
pub use needs::needs;
pub use owner::Owner;
pub use probe::{Probe, SecondLevel, Vendor, probe};
pub use run::{Options, RunError, SoftwareHost, ensure, run};
pub use select::{
    Choice, HOST_VARIABLE, HostKind, INSIDE_VARIABLE, SelectError, UnknownHost, Wish, choose,
    pagemap_shows_frames,
};
