//! The VMM: boots a Linux guest with the synthetic device and stops it wherever
//! its agent rings. It knows nothing of contracts and verdicts.

mod acpi;
mod boot;
mod buffers;
mod bus;
mod config;
mod console;
mod cpuid;
mod device;
mod dma;
mod error;
mod events;
mod foreign;
mod hpet;
mod layout;
mod mapping;
mod prefault;
mod run;
mod saved;
mod slots;
mod snapshot;
mod stuck;
mod threads;
#[cfg(fuzzing)]
pub mod untrusted;
mod vcpu;
mod vm;
mod window;

pub use boot::COMMAND_LINE;
pub use buffers::Buffer;
pub use config::{
    BufferConfig, Registers, VmConfig, WindowConfig, standard_buffers, standard_windows,
};
pub use console::Console;
pub use dma::DmaRegisters;
pub use error::{End, Ended, VmError};
pub use hpet::{HPET_NAME, HPET_REGISTERS_LEN_BYTES, Hpet};
pub use layout::{DEVICE_REGISTERS, MESSAGE_AREA};
pub use run::Rang;
pub use saved::{KEY_LEN, Key, SOURCES, SaveError, Saved, Unusable, host_identity};
pub use slots::{MemSlot, Offer, SlotUse};
pub use snapshot::{ResetStats, Snapshot};
pub use threads::Threads;
pub use vm::Vm;
pub use window::Window;
