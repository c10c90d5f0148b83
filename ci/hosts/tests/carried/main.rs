//! Programs carried into software hosts, whatever this machine's KVM can do.

mod debugger;
mod divided;
mod ept;
mod npt;
mod program;
