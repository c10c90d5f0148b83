//! What of a contract's text fits together.

use std::collections::BTreeSet;
use std::ops::Range;

use ::toml::Spanned;
use addr::PAGE_SIZE;

use super::problem::Problem;
use super::schema::{Device, Document, Window};
use crate::device::{BufferSpec, Contract, DeviceSpec, RegisterSpec, WindowSpec};

/// Most windows of a device.
const MAX_WINDOWS: usize = wire::regs::MAX_WINDOWS as usize;
/// Most buffers of a device, and most pages of one.
const MAX_BUFFERS: usize = wire::regs::MAX_BUFFERS as usize;
const MAX_BUFFER_NPAGES: u32 = wire::regs::MAX_BUFFER_NPAGES;
/// Most pages of all windows together: each costs the host two of its own.
const MAX_NPAGES: u64 = wire::MAX_WORDS as u64;
/// Most pages of a window's alignment: 1 GiB of them would leave no room for another.
const MAX_ALIGN_PAGES: u64 = 512 * 64;
/// Most files of a driver, and most ranges and refusals of a file.
pub(super) const MAX_LIST: usize = 64;
/// Longest name, path, or parameters.
pub(super) const MAX_TEXT: usize = 255;

/// The contract that a document describes, or everything that is wrong with it.
pub(super) fn contract(document: Document) -> Result<Contract, Vec<Problem>> {
    let mut resolver = Resolver {
        problems: Vec::new(),
    };
    let device = resolver.device(&document.device);
    let parameters = resolver.parameters(document.module.parameters.as_ref());
    let files = resolver.files(&document, &device);
    if resolver.problems.is_empty() {
        Ok(Contract {
            device,
            parameters,
            files,
        })
    } else {
        Err(resolver.problems)
    }
}

/// What was found so far.
pub(super) struct Resolver {
    problems: Vec<Problem>,
}

impl Resolver {
    pub(super) fn problem<T>(
        &mut self,
        at: &Spanned<T>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problem_at(at.span(), message, help);
    }

    pub(super) fn problem_at(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem::new(span, message, help));
    }

    fn device(&mut self, spanned: &Spanned<Device>) -> DeviceSpec {
        let device = spanned.get_ref();
        let id = device.acpi_id.get_ref();
        if !is_acpi_id(id) {
            self.problem(
                &device.acpi_id,
                format!("{id:?} is no ACPI hardware id"),
                "write 3 or 4 capital letters or digits and 4 hexadecimal digits, such as \
                 \"EXMP0001\",\nand the same in the driver's acpi_match_table",
            );
        } else if wire::regs::ACPI_HID == id {
            self.problem(
                &device.acpi_id,
                format!("{id:?} is the id of mapwitness's own device"),
                "take another, such as \"EXMP0001\", in the driver, too",
            );
        }
        if device.windows.is_empty() || device.windows.len() > MAX_WINDOWS {
            self.problem(
                spanned,
                format!("the device has {} windows", device.windows.len()),
                format!("describe 1 to {MAX_WINDOWS} of them, each as a [[device.window]]"),
            );
        }
        let mut names = BTreeSet::new();
        let mut npages = 0;
        let mut windows = Vec::new();
        for window in device.windows.iter().take(MAX_WINDOWS) {
            windows.push(self.window(window, &mut names, &mut npages));
        }
        let buffers = self.buffers(device, &mut names);
        DeviceSpec {
            acpi_id: id.clone(),
            registers: device.registers.as_ref().map(|list| self.registers(list)),
            windows,
            buffers,
        }
    }

    fn buffers<'w>(
        &mut self,
        device: &'w Device,
        names: &mut BTreeSet<&'w str>,
    ) -> Vec<BufferSpec> {
        if let (Some(buffer), true) = (device.buffers.first(), device.registers.is_some()) {
            self.problem(
                &buffer.name,
                "a device with buffers has registers of its own",
                "leave `registers` out: its page of registers is the one of \
                 vmm/wire/src/regs.rs, whose buffer\ntable the driver tells its pages",
            );
        }
        if let Some(buffer) = device.buffers.get(MAX_BUFFERS) {
            self.problem(
                &buffer.name,
                format!("the device has {} buffers", device.buffers.len()),
                format!("describe up to {MAX_BUFFERS}"),
            );
        }
        let mut buffers = Vec::new();
        for buffer in device.buffers.iter().take(MAX_BUFFERS) {
            self.name(&buffer.name, names);
            let npages = *buffer.pages.get_ref();
            if npages == 0 || npages > MAX_BUFFER_NPAGES {
                self.problem(
                    &buffer.pages,
                    format!("{npages} pages"),
                    format!("write 1 to {MAX_BUFFER_NPAGES}"),
                );
            }
            buffers.push(BufferSpec {
                name: buffer.name.get_ref().clone(),
                npages,
            });
        }
        buffers
    }

    fn window<'w>(
        &mut self,
        window: &'w Window,
        names: &mut BTreeSet<&'w str>,
        all_npages: &mut u64,
    ) -> WindowSpec {
        self.name(&window.name, names);
        let npages = *window.pages.get_ref();
        *all_npages = all_npages.saturating_add(npages);
        if npages == 0 || *all_npages > MAX_NPAGES {
            self.problem(
                &window.pages,
                format!("{npages} pages"),
                format!("write 1 to {MAX_NPAGES}; all windows together may have as many"),
            );
        }
        let access = window.access.get_ref().0;
        if access.exec {
            self.problem(
                &window.access,
                "memory of a device is not run",
                "write \"rw\", or \"r\" for a window that the guest cannot write",
            );
        }
        let align_pages = *window.align_pages.get_ref();
        if !align_pages.is_power_of_two() || align_pages > MAX_ALIGN_PAGES {
            self.problem(
                &window.align_pages,
                format!("an alignment of {align_pages} pages"),
                format!("write a power of two up to {MAX_ALIGN_PAGES}; 512 pages are 2 MiB"),
            );
        }
        WindowSpec {
            name: window.name.get_ref().clone(),
            npages,
            read_only: !access.write,
            align_bytes: align_pages.saturating_mul(PAGE_SIZE),
        }
    }

    fn registers(&mut self, list: &[Spanned<RegisterSpec>]) -> Vec<RegisterSpec> {
        let most = PAGE_SIZE / 4;
        for register in list {
            let offset = register.get_ref().offset;
            if !offset.is_multiple_of(4) || u64::from(offset) >= PAGE_SIZE {
                self.problem(
                    register,
                    format!("no register is at byte {offset:#x}"),
                    "write a multiple of 4 below 0x1000",
                );
            }
        }
        let registers = list.iter().map(|register| *register.get_ref());
        registers.take(usize::try_from(most).unwrap_or(0)).collect()
    }

    fn parameters(&mut self, parameters: Option<&Spanned<String>>) -> String {
        let Some(text) = parameters else {
            return String::new();
        };
        if text.get_ref().len() > MAX_TEXT || text.get_ref().chars().any(char::is_control) {
            self.problem(
                text,
                "these are no module parameters",
                format!("write `name=value` separated by spaces, up to {MAX_TEXT} bytes"),
            );
        }
        text.get_ref().clone()
    }

    /// A name that no other thing of its kind may have.
    pub(super) fn name<'w>(&mut self, name: &'w Spanned<String>, known: &mut BTreeSet<&'w str>) {
        let text = name.get_ref();
        if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            self.problem(name, "this is no name", "write a word, such as \"frame\"");
        } else if !known.insert(text) {
            self.problem(
                name,
                format!("the name {text:?} is taken"),
                "give each a name of its own",
            );
        }
    }
}

/// 3 or 4 capital letters or digits, then 4 hexadecimal digits (ACPI 6.5, 6.1.5).
fn is_acpi_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some((vendor, number)) = bytes.split_last_chunk::<4>() else {
        return false;
    };
    let capital = |it: &u8| it.is_ascii_uppercase() || it.is_ascii_digit();
    let hexadecimal = |it: &u8| it.is_ascii_digit() || (b'A'..=b'F').contains(it);
    matches!(vendor.len(), 3 | 4) && vendor.iter().all(capital) && number.iter().all(hexadecimal)
}
