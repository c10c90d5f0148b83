//! A device, and a driver's whole contract.

use serde::{Deserialize, Serialize};

use crate::file::FileContract;

/// What a driver promises, and the device that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// The device.
    pub device: DeviceSpec,
    /// What the driver's module is loaded with: `name=value`, separated by spaces.
    pub parameters: String,
    /// What each of its files promises.
    pub files: Vec<FileContract>,
}

/// The device that the VM is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// ACPI hardware id by which its driver finds it, such as `EXMP0001`.
    pub acpi_id: String,
    /// Its page of registers, if it has one: the first of its memory resources.
    pub registers: Option<Vec<RegisterSpec>>,
    /// Its windows, in the order of the memory resources that follow.
    pub windows: Vec<WindowSpec>,
    /// Its buffers, in the order of its buffer table. A device that has any has the page
    /// of registers that `vmm/wire/src/regs.rs` describes.
    #[serde(default)]
    pub buffers: Vec<BufferSpec>,
}

/// A buffer: pages of RAM that the driver allocates and tells the device of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferSpec {
    /// Name for people, and for the ranges of files.
    pub name: String,
    /// Number of 4 KiB pages.
    pub npages: u32,
}

/// A register that reads as one value, whatever is written to it. All others read
/// as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterSpec {
    /// Byte of the page, a multiple of 4.
    pub offset: u16,
    /// What its 32 bits read as.
    pub value: u32,
}

/// A window of the device's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSpec {
    /// Name for people, and for the ranges of files.
    pub name: String,
    /// Number of 4 KiB pages.
    pub npages: u64,
    /// The guest may read it but not write it.
    pub read_only: bool,
    /// Alignment of its guest physical address in bytes: a power of two, at least a
    /// page.
    pub align_bytes: u64,
}
