//! Loads the guest by the PVH protocol: an uncompressed vmlinux, nothing unpacked
//! (Documentation/arch/x86/boot.rst; Xen's docs/misc/pvh.pandoc).

use std::fs::File;
use std::path::Path;

use addr::{Gpa, PAGE_SIZE};
use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{Elf, KernelLoader, KernelLoaderResult, load_cmdline};
use vm_memory::{Bytes, GuestAddress};

use crate::acpi;
use crate::config::VmConfig;
use crate::error::VmError;
use crate::layout;
use crate::slots::GuestMemory;
use crate::window::Window;

/// `XEN_HVM_START_MAGIC_VALUE` of include/xen/interface/hvm/start_info.h.
const START_MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM` and `_RESERVED` of the same.
const MEMMAP_RAM: u32 = 1;
const MEMMAP_RESERVED: u32 = 2;

/// Where the guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 32-bit entry point.
    pub(crate) rip: u64,
    /// Guest physical address of the start info, for `ebx`.
    pub(crate) start_info: u64,
}

/// Puts kernel, initramfs, command line, ACPI tables and start info into memory.
pub(crate) fn load(
    config: &VmConfig,
    memory: &GuestMemory,
    windows: &[Window],
) -> Result<Entry, VmError> {
    let kernel = load_kernel(&config.kernel, memory)?;
    let initramfs = load_initramfs(config, memory, kernel.kernel_end)?;
    load_command_line(config, memory)?;
    write(memory, layout::ACPI, &acpi::tables(config, windows))?;
    write_start_info(config, memory, initramfs)?;
    let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
        return Err(VmError::Kernel {
            path: config.kernel.clone(),
            reason: "no PVH entry note".into(),
        });
    };
    Ok(Entry {
        rip: entry.0,
        start_info: layout::START_INFO,
    })
}

fn image_error(path: &Path) -> impl FnOnce(std::io::Error) -> VmError + '_ {
    move |source| VmError::Image {
        path: path.to_owned(),
        source,
    }
}

fn load_kernel(path: &Path, memory: &GuestMemory) -> Result<KernelLoaderResult, VmError> {
    let mut file = File::open(path).map_err(image_error(path))?;
    let lowest = Some(GuestAddress(layout::HIGH_RAM));
    Elf::load(memory, None, &mut file, lowest).map_err(|error| VmError::Kernel {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Places the initramfs at the top of RAM. Gives its address and length in bytes.
fn load_initramfs(
    config: &VmConfig,
    memory: &GuestMemory,
    kernel_end: u64,
) -> Result<(u64, u64), VmError> {
    let path = &config.initramfs;
    let mut file = File::open(path).map_err(image_error(path))?;
    let len_bytes = file.metadata().map_err(image_error(path))?.len();
    let too_large = || VmError::TooLarge {
        path: path.clone(),
        ram_len_bytes: config.ram_len_bytes,
    };
    let base = config
        .ram_len_bytes
        .checked_sub(len_bytes)
        .map(|base| base & !(PAGE_SIZE - 1))
        .filter(|base| *base >= kernel_end)
        .ok_or_else(too_large)?;
    // Straight to where it belongs: the heap would keep the room of a copy.
    let count = usize::try_from(len_bytes).map_err(|_| too_large())?;
    memory
        .read_exact_volatile_from(GuestAddress(base), &mut file, count)
        .map_err(|error| image_error(path)(std::io::Error::other(error)))?;
    Ok((base, len_bytes))
}

/// What every guest's command line begins with.
///
/// No timer is calibrated and no interrupt awaited that this machine does not
/// have; a dying guest asks for a reset at once, and what it said before tells why.
pub const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 oops=panic no_timer_check pci=off 8250.nr_uarts=1";

/// The whole command line.
fn command_line(config: &VmConfig) -> String {
    let mut words = vec![
        COMMAND_LINE.to_owned(),
        format!("loglevel={}", config.log_level),
        format!("{}={:#x}", wire::AREA_PARAMETER, layout::MESSAGE_AREA.raw()),
    ];
    words.extend(config.extra_parameters.iter().cloned());
    words.join(" ")
}

fn load_command_line(config: &VmConfig, memory: &GuestMemory) -> Result<(), VmError> {
    let capacity = usize::try_from(layout::COMMAND_LINE_LEN_BYTES).unwrap_or(usize::MAX);
    let wrong =
        |error: &dyn std::fmt::Display| VmError::Config(format!("kernel command line: {error}"));
    let mut line = Cmdline::new(capacity).map_err(|error| wrong(&error))?;
    line.insert_str(command_line(config))
        .map_err(|error| wrong(&error))?;
    load_cmdline(memory, GuestAddress(layout::COMMAND_LINE), &line).map_err(|error| wrong(&error))
}

fn write_start_info(
    config: &VmConfig,
    memory: &GuestMemory,
    (initramfs, initramfs_len_bytes): (u64, u64),
) -> Result<(), VmError> {
    let map = memory_map(config.ram_len_bytes);
    let map_entries = u32::try_from(map.len()).unwrap_or(u32::MAX);
    let module = hvm_modlist_entry {
        paddr: initramfs,
        size: initramfs_len_bytes,
        ..Default::default()
    };
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::ACPI,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: map_entries,
        nr_modules: 1,
        modlist_paddr: layout::MODULE_LIST,
        ..Default::default()
    };
    let mut parameters = BootParams::new(&info, GuestAddress(layout::START_INFO));
    parameters.set_sections(&map, GuestAddress(layout::MEMORY_MAP));
    parameters.set_modules(&[module], GuestAddress(layout::MODULE_LIST));
    PvhBootConfigurator::write_bootparams(&parameters, memory)
        .map_err(|error| VmError::Config(format!("boot parameters: {error}")))
}

fn memory_map(ram_len_bytes: u64) -> [hvm_memmap_table_entry; 3] {
    let entry = |start, end: u64, type_| hvm_memmap_table_entry {
        addr: start,
        size: end - start,
        type_,
        reserved: 0,
    };
    [
        entry(0, layout::LOW_RAM_END, MEMMAP_RAM),
        entry(layout::ACPI, layout::HIGH_RAM, MEMMAP_RESERVED),
        entry(layout::HIGH_RAM, ram_len_bytes, MEMMAP_RAM),
    ]
}

fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) -> Result<(), VmError> {
    memory
        .write_slice(bytes, GuestAddress(at))
        .map_err(|_| VmError::GuestMemory {
            gpa: Gpa::new(at),
            len_bytes: bytes.len() as u64,
        })
}
