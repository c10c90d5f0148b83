//! What a VM is made of, as plain data.

use std::path::PathBuf;
use std::time::Duration;

use addr::PAGE_SIZE;

use crate::error::VmError;
use crate::layout;

/// One window of the synthetic device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowConfig {
    /// Name for people, such as `odd`.
    pub name: String,
    /// Number of 4 KiB pages.
    pub npages: u64,
    /// The guest may read it but not write it.
    pub read_only: bool,
    /// Alignment of its guest physical address in bytes: a power of two, at least
    /// a page.
    pub align_bytes: u64,
}

/// One buffer of the synthetic device: pages of RAM that the driver gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferConfig {
    /// Name for people, such as `ring`.
    pub name: String,
    /// Number of 4 KiB pages.
    pub npages: u32,
}

/// Registers of the synthetic device: the first of its memory resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registers {
    /// Those of `wire::regs`, for the project's own driver.
    Own,
    /// A page in which these words read as these values, by their bytes in the page,
    /// and all else as 0. What is written is lost.
    Fixed(Vec<(u16, u32)>),
    /// None: the first window is the first memory resource.
    Absent,
}

/// A whole VM.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// Uncompressed ELF kernel (vmlinux) with a PVH entry.
    pub kernel: PathBuf,
    /// Uncompressed initramfs.
    pub initramfs: PathBuf,
    /// Bytes of RAM; a multiple of 2 MiB.
    pub ram_len_bytes: u64,
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u8,
    /// ACPI hardware id of the device.
    pub acpi_id: String,
    /// Registers of the device.
    pub registers: Registers,
    /// Windows of the device, in the order of its window table.
    pub windows: Vec<WindowConfig>,
    /// Buffers of the device, in their order.
    pub buffers: Vec<BufferConfig>,
    /// Whether there is a high precision event timer. Its page is one more window,
    /// behind those of the device, and no entry of the window table.
    pub hpet: bool,
    /// Seed for the order of the host pages behind the windows.
    pub scramble_seed: u64,
    /// Console messages of this kernel log level and worse reach the console, 0
    /// to 8 (`loglevel=` of the kernel's command line).
    pub log_level: u8,
    /// Words added to the kernel command line.
    pub extra_parameters: Vec<String>,
    /// The guest is declared hung when it runs for so long without ringing.
    pub hang_after: Duration,
    /// Copies each console line to standard error as it arrives.
    pub echo_console: bool,
}

impl VmConfig {
    /// A VM of one vCPU and 128 MiB with the standard windows.
    pub fn new(kernel: PathBuf, initramfs: PathBuf) -> Self {
        Self {
            kernel,
            initramfs,
            ram_len_bytes: 128 << 20,
            vcpus: 1,
            acpi_id: wire::regs::ACPI_HID.to_owned(),
            registers: Registers::Own,
            windows: standard_windows(),
            buffers: standard_buffers(),
            hpet: false,
            scramble_seed: 1,
            log_level: 5,
            extra_parameters: Vec::new(),
            hang_after: Duration::from_secs(60),
            echo_console: false,
        }
    }

    /// What of it a guest can tell, but for the contents of its files: equal texts,
    /// equal machines.
    pub fn guest_visible(&self) -> String {
        let Self {
            kernel: _,
            initramfs: _,
            ram_len_bytes,
            vcpus,
            acpi_id,
            registers,
            windows,
            buffers,
            hpet,
            scramble_seed: _,
            log_level,
            extra_parameters,
            hang_after: _,
            echo_console: _,
        } = self;
        let machine = (ram_len_bytes, vcpus, acpi_id, registers, windows, buffers);
        format!("{machine:?} {hpet} {log_level} {extra_parameters:?}")
    }

    /// Whether such a VM can be.
    pub(crate) fn check(&self) -> Result<(), VmError> {
        let wrong = |what: String| Err(VmError::Config(what));
        if !(1..=8).contains(&self.vcpus) {
            return wrong(format!("{} vCPUs; 1 to 8 can be had", self.vcpus));
        }
        let ram = self.ram_len_bytes;
        let fits = (layout::MIN_RAM_LEN_BYTES..=layout::MAX_RAM_LEN_BYTES).contains(&ram);
        if !fits || !ram.is_multiple_of(2 << 20) {
            return wrong(format!(
                "{ram} bytes of RAM; it takes a multiple of 2 MiB from {} to {}",
                layout::MIN_RAM_LEN_BYTES,
                layout::MAX_RAM_LEN_BYTES
            ));
        }
        if self.windows.len() > wire::regs::MAX_WINDOWS as usize {
            return wrong(format!("{} windows", self.windows.len()));
        }
        if self.buffers.len() > wire::regs::MAX_BUFFERS as usize {
            return wrong(format!("{} buffers", self.buffers.len()));
        }
        for BufferConfig { name, npages } in &self.buffers {
            if !(1..=wire::regs::MAX_BUFFER_NPAGES).contains(npages) {
                return wrong(format!("buffer {name} of {npages} pages"));
            }
        }
        Ok(())
    }
}

/// The buffers that `mapwitness check` uses: one of five pages.
pub fn standard_buffers() -> Vec<BufferConfig> {
    vec![BufferConfig {
        name: "ring".into(),
        npages: 5,
    }]
}

/// The windows that `mapwitness check` uses: one page, an odd number of pages, a
/// 2 MiB-aligned one of 4 MiB, and one that can only be read.
pub fn standard_windows() -> Vec<WindowConfig> {
    let window = |name: &str, npages, read_only, align_bytes| WindowConfig {
        name: name.to_owned(),
        npages,
        read_only,
        align_bytes,
    };
    vec![
        window("page", 1, false, PAGE_SIZE),
        window("odd", 13, false, PAGE_SIZE),
        window("large", 1024, false, 2 << 20),
        window("readonly", 5, true, PAGE_SIZE),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_tells_machines_apart_and_not_how_they_are_watched() {
        let config = VmConfig::new("/kernel".into(), "/initramfs".into());
        let text = config.guest_visible();
        let mut alike = config.clone();
        (alike.scramble_seed, alike.echo_console) = (7, true);
        alike.hang_after = Duration::from_secs(1);
        assert_eq!(alike.guest_visible(), text);
        let others: [fn(&mut VmConfig); 8] = [
            |it| it.ram_len_bytes += 2 << 20,
            |it| it.vcpus = 2,
            |it| it.acpi_id.push('x'),
            |it| it.registers = Registers::Absent,
            |it| it.windows[0].npages = 2,
            |it| it.buffers.clear(),
            |it| it.hpet = true,
            |it| it.extra_parameters.push("debug".into()),
        ];
        for change in others {
            let mut other = config.clone();
            change(&mut other);
            assert_ne!(other.guest_visible(), text);
        }
    }
}
