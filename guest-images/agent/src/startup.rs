//! From a bare kernel to a reachable message area.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use thiserror::Error;
use wire::{AREA_LEN_BYTES, AREA_PARAMETER, DOORBELL_PORT};

use crate::channel::Area;

/// A 32-bit `out` reaches four ports, and the kernel wants permission for each.
const DOORBELL_NPORTS: libc::c_ulong = 4;

/// Why the agent cannot reach the host.
#[derive(Debug, Error)]
pub enum StartError {
    /// A file system that the agent needs.
    #[error(
        "cannot mount {kind} on {target}; the guest kernel's configuration must have it and \
         the initramfs that folder"
    )]
    Mount {
        /// File system type.
        kind: String,
        /// Where.
        target: String,
        /// What mount(2) said.
        source: io::Error,
    },
    /// No kernel command line.
    #[error("cannot read /proc/cmdline")]
    CommandLine(#[source] io::Error),
    /// The parameter is not there.
    #[error(
        "the kernel command line names no message area; boot with `{AREA_PARAMETER}=0x...`, \
         the guest physical address of the area (command line: {command_line})"
    )]
    NoParameter {
        /// /proc/cmdline.
        command_line: String,
    },
    /// The parameter is no usable address.
    #[error("`{AREA_PARAMETER}={value}` is not the address of a page, such as 0xd0000000")]
    Parameter {
        /// What the parameter says.
        value: String,
    },
    /// No access to physical memory.
    #[error("cannot open /dev/mem; the guest kernel needs CONFIG_DEVMEM")]
    OpenMem(#[source] io::Error),
    /// The area itself cannot be mapped.
    #[error(
        "cannot map {AREA_LEN_BYTES} bytes of the message area at gpa {gpa:#x}; it must lie \
         outside the guest's RAM (CONFIG_STRICT_DEVMEM refuses RAM)"
    )]
    MapArea {
        /// Guest physical address of the area.
        gpa: u64,
        /// What mmap(2) said.
        source: io::Error,
    },
    /// No log to watch.
    #[error("cannot open /dev/kmsg; the guest kernel needs CONFIG_PRINTK")]
    Log(#[source] io::Error),
    /// No right to ring.
    #[error(
        "no permission for I/O port {DOORBELL_PORT:#06x}; the guest kernel needs \
         CONFIG_X86_IOPL_IOPERM"
    )]
    Ports(#[source] io::Error),
}

/// Mounts what the agent reads, and maps the message area.
///
/// # Errors
/// [`StartError`], with what the guest lacks.
pub fn start() -> Result<Area, StartError> {
    // First /dev: errors reach the console through /dev/kmsg. The kernel mounts it
    // by itself on a root file system only, never on an initramfs.
    mount(c"devtmpfs", c"/dev")?;
    mount(c"proc", c"/proc")?;
    mount(c"sysfs", c"/sys")?;
    let command_line = fs::read_to_string("/proc/cmdline").map_err(StartError::CommandLine)?;
    let gpa = area_address(command_line.trim())?;
    // SAFETY: ioperm(2) changes nothing but this process's right to use the ports.
    let refused = unsafe { libc::ioperm(DOORBELL_PORT.into(), DOORBELL_NPORTS, 1) } != 0;
    if refused {
        return Err(StartError::Ports(io::Error::last_os_error()));
    }
    map_area(gpa)
}

/// Hands the area to the host. The instruction is an exit that freezes the vCPU;
/// after it the area holds the host's answer.
pub fn ring_doorbell() {
    // SAFETY: `start` got permission for the ports. The host reads and writes the
    // message area alone, which no reference points into; the asm block is taken to
    // touch memory, so volatile accesses stay on their side of it.
    unsafe {
        std::arch::asm!(
            "out dx, eax",
            in("dx") DOORBELL_PORT,
            in("eax") 0_u32,
            options(nostack, preserves_flags),
        );
    }
}

fn mount(kind: &CStr, target: &CStr) -> Result<(), StartError> {
    // SAFETY: all three strings are NUL-terminated, and there are no options.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID,
            ptr::null(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let printable = |name: &CStr| CString::from(name).to_string_lossy().into_owned();
    Err(StartError::Mount {
        kind: printable(kind),
        target: printable(target),
        source: io::Error::last_os_error(),
    })
}

/// The area's guest physical address out of the kernel's command line. The last
/// parameter wins, as it does in the kernel.
fn area_address(command_line: &str) -> Result<u64, StartError> {
    let value = command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(AREA_PARAMETER)?.strip_prefix('='))
        .next_back()
        .ok_or_else(|| StartError::NoParameter {
            command_line: command_line.into(),
        })?;
    let number = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    let page_mask = 0xfff;
    match number {
        Ok(gpa) if gpa != 0 && gpa & page_mask == 0 => Ok(gpa),
        _ => Err(StartError::Parameter {
            value: value.into(),
        }),
    }
}

fn map_area(gpa: u64) -> Result<Area, StartError> {
    let memory: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mem")
        .map_err(StartError::OpenMem)?;
    // SAFETY: a new mapping at an address of the kernel's choice takes no memory
    // away. It outlives the file, and nothing ever unmaps it.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            AREA_LEN_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            memory.as_raw_fd(),
            gpa.cast_signed(),
        )
    };
    match NonNull::new(address.cast::<u64>()) {
        // SAFETY: the mapping spans the whole area, page-aligned, for good
        // (`own` guards it against requests), and only `Area` knows of it.
        Some(start) if address != libc::MAP_FAILED => Ok(unsafe { Area::new(start) }),
        _ => Err(StartError::MapArea {
            gpa,
            source: io::Error::last_os_error(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_found_among_other_parameters() {
        let line = "console=ttyS0 mapwitness.areas=1 mapwitness.area=0xd0000000 quiet";
        assert_eq!(area_address(line).expect("there"), 0xd000_0000);
        let decimal = "mapwitness.area=8192";
        assert_eq!(area_address(decimal).expect("there"), 8192);
        let twice = "mapwitness.area=0x1000 mapwitness.area=0x2000";
        assert_eq!(area_address(twice).expect("there"), 0x2000);
    }

    #[test]
    fn an_unusable_parameter_is_named() {
        assert!(matches!(
            area_address("console=ttyS0"),
            Err(StartError::NoParameter { .. })
        ));
        for value in [
            "",
            "0x",
            "0xd0000800",
            "0",
            "0x1_000",
            "-4096",
            "0x10000000000000000",
        ] {
            let error = area_address(&format!("mapwitness.area={value}"));
            let Err(StartError::Parameter { value: named }) = error else {
                panic!("{value} was taken for an address");
            };
            assert_eq!(named, value);
        }
    }
}
