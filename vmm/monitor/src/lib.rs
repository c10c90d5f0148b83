//! The VMM: boots a Linux guest with the synthetic device and stops it wherever
//! its agent rings. It knows nothing of contracts and verdicts.

mod acpi;
mod boot;
mod bus;
mod config;
mod console;
mod cpuid;
mod device;
mod error;
mod events;
mod layout;
mod mapping;
mod prefault;
mod run;
mod slots;
mod snapshot;
mod vcpu;
mod vm;
mod window;

pub use config::{VmConfig, WindowConfig, standard_windows};
pub use console::Console;
pub use error::{End, Ended, VmError};
pub use layout::{DEVICE_REGISTERS, MESSAGE_AREA};
pub use slots::{MemSlot, SlotUse};
pub use snapshot::{ResetStats, Snapshot};
pub use vm::Vm;
pub use window::Window;
