//! Where things stand in the guest's physical address space.
//!
//! RAM begins at 0; everything of the synthetic device lies far above it, so that
//! the guest kernel never takes a window for memory of its own and the memory
//! types which a driver asks for are real.

use addr::{Gpa, PAGE_SIZE};

/// PVH start info, its memory map and module list (`hvm_start_info`).
pub(crate) const START_INFO: u64 = 0x6000;
/// Memory map that the start info points to.
pub(crate) const MEMORY_MAP: u64 = 0x7000;
/// Module list (the initramfs) that the start info points to.
pub(crate) const MODULE_LIST: u64 = 0x7800;
/// Kernel command line.
pub(crate) const COMMAND_LINE: u64 = 0x8000;
/// Most bytes of the command line, its terminator included (`COMMAND_LINE_SIZE`
/// of arch/x86/include/asm/setup.h).
pub(crate) const COMMAND_LINE_LEN_BYTES: u64 = 2048;
/// End of the low RAM that the memory map offers.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, in the area where firmware would put them.
pub(crate) const ACPI: u64 = 0xe_0000;
/// End of the area of the ACPI tables, and start of the main RAM.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;

/// Most RAM: what fits below the devices.
pub(crate) const MAX_RAM_LEN_BYTES: u64 = 0xc000_0000;
/// Least RAM that a guest kernel boots with.
pub(crate) const MIN_RAM_LEN_BYTES: u64 = 32 << 20;

/// Register page of the synthetic device.
pub const DEVICE_REGISTERS: Gpa = Gpa::new(0xd000_0000);
/// Message area of the agent.
pub const MESSAGE_AREA: Gpa = Gpa::new(0xd010_0000);
/// First window; each begins at its own alignment.
pub(crate) const WINDOWS: u64 = 0xd100_0000;
/// End of the room for windows: the I/O APIC and the local APICs follow.
pub(crate) const WINDOWS_END: u64 = 0xfe00_0000;
/// Unbacked room kept after each window, so that its neighbour is never a window.
pub(crate) const WINDOW_GAP: u64 = PAGE_SIZE;

/// The high precision event timer, where chipsets have it.
pub(crate) const HPET: u32 = 0xfed0_0000;
/// Default base of the I/O APIC.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// Default base of the local APIC.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM on Intel needs for itself, below the APICs.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// First I/O port of the serial line.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
/// ACPI sleep control register.
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x0604;
/// ACPI sleep status register.
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x0605;
/// ACPI reset register.
pub(crate) const RESET_PORT: u16 = 0x0606;
/// Command port of the keyboard controller, the reset of old.
pub(crate) const KEYBOARD_PORT: u16 = 0x64;
