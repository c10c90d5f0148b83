//! What of a contract's text fits together.

use std::collections::BTreeSet;

use ::toml::Spanned;
use addr::PAGE_SIZE;

use super::problem::Problem;
use super::schema::{Device, Document, File, Range, Window};
use crate::access::Access;
use crate::device::{Contract, DeviceSpec, RegisterSpec, WindowSpec};
use crate::file::{Backing, FileContract, Offset, RangeContract, When};
use crate::rules::{Condition, Refusal};

/// Most windows of a device.
const MAX_WINDOWS: usize = wire::regs::MAX_WINDOWS as usize;
/// Most pages of all windows together: each costs the host two of its own.
const MAX_NPAGES: u64 = wire::MAX_WORDS as u64;
/// Most pages of a window's alignment: 1 GiB of them would leave no room for another.
const MAX_ALIGN_PAGES: u64 = 512 * 64;
/// Most files of a driver, and most ranges and refusals of a file.
const MAX_LIST: usize = 64;
/// Longest name, path, or parameters.
const MAX_TEXT: usize = 255;
/// Pages of the largest offset that mmap(2) takes.
const END_OF_OFFSETS: u64 = u64::MAX / PAGE_SIZE;

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
struct Resolver {
    problems: Vec<Problem>,
}

impl Resolver {
    fn problem<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::new(at.span(), message, help));
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
        DeviceSpec {
            acpi_id: id.clone(),
            registers: device.registers.as_ref().map(|list| self.registers(list)),
            windows,
        }
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
    fn name<'w>(&mut self, name: &'w Spanned<String>, known: &mut BTreeSet<&'w str>) {
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

    fn files(&mut self, document: &Document, device: &DeviceSpec) -> Vec<FileContract> {
        if document.files.is_empty() || document.files.len() > MAX_LIST {
            self.problem(
                &document.device,
                format!("the contract has {} files", document.files.len()),
                format!("describe 1 to {MAX_LIST} device files, each as a [[file]]"),
            );
        }
        let mut names = BTreeSet::new();
        let files = document.files.iter().take(MAX_LIST);
        files
            .map(|file| self.file(file.get_ref(), device, &mut names))
            .collect()
    }

    fn file<'w>(
        &mut self,
        file: &'w File,
        device: &DeviceSpec,
        names: &mut BTreeSet<&'w str>,
    ) -> FileContract {
        let path = file.path.get_ref();
        let plain = path.len() <= MAX_TEXT && !path.chars().any(char::is_control);
        if !plain || !path.starts_with("/dev/") || path.ends_with('/') {
            self.problem(
                &file.path,
                format!("{path:?} is no path of a device file"),
                "write what the driver makes in the guest, such as \"/dev/example\"",
            );
        }
        self.name(file.name.as_ref().unwrap_or(&file.path), names);
        let lists = file.ranges.len().max(file.refusals.len());
        if file.ranges.is_empty() || lists > MAX_LIST {
            self.problem(
                &file.path,
                format!("{path} has {} ranges", file.ranges.len()),
                format!(
                    "describe what can be mapped in 1 to {MAX_LIST} [[file.range]], and no more \
                     refusals than that"
                ),
            );
        }
        let ranges = file.ranges.iter().take(MAX_LIST);
        let ranges: Vec<RangeContract> = ranges
            .map(|range| self.range(range.get_ref(), device))
            .collect();
        self.overlaps(file, &ranges);
        let refusals = file.refusals.iter().take(MAX_LIST);
        let file_contract = FileContract {
            name: name_of(file).to_owned(),
            strategy: strategy(&ranges).to_owned(),
            path: path.clone(),
            ranges,
            refusals: refusals.map(|rule| rule.get_ref().refusal()).collect(),
            copy_on_write: file.private.is_some(),
            refuses_writers: file.refuses_writers,
            growth: file.growth,
            fork: file.fork,
        };
        self.answers(file, &file_contract);
        file_contract
    }

    fn range(&mut self, range: &Range, device: &DeviceSpec) -> RangeContract {
        let name = range.window.get_ref();
        let window = device.windows.iter().find(|window| window.name == *name);
        if window.is_none() {
            let known: Vec<String> = device
                .windows
                .iter()
                .map(|window| format!("{:?}", window.name))
                .collect();
            self.problem(
                &range.window,
                format!("the device has no window {name:?}"),
                format!("write one that is described: {}", known.join(", ")),
            );
        }
        let first_page = *range.first_page.get_ref();
        let window_npages = window.map_or(u64::MAX, |window| window.npages);
        let rest = window_npages.saturating_sub(first_page);
        let npages = range.pages.as_ref().map_or(rest, |pages| *pages.get_ref());
        if window.is_some() && (npages == 0 || npages > rest) {
            self.problem(
                range.pages.as_ref().unwrap_or(&range.first_page),
                format!("{npages} pages from page {first_page} of {name:?} on"),
                format!(
                    "the window has {window_npages}; leave `pages` out to mean all that follow"
                ),
            );
        }
        let offset = range.offset.get_ref().0;
        if let Offset::Page(first) = offset
            && first
                .checked_add(npages)
                .is_none_or(|end| end > END_OF_OFFSETS)
            && window.is_some()
        {
            self.problem(
                &range.offset,
                format!("no offset of mmap(2) reaches page {first}"),
                "write the page of the file (not the byte) at which the range begins",
            );
        }
        RangeContract {
            offset,
            npages,
            backing: Backing::Window {
                name: name.clone(),
                first_page,
            },
            access: self.access(range, window),
            memory_type: range.memory_type.0,
            present: range.present,
        }
    }

    fn access(&mut self, range: &Range, window: Option<&WindowSpec>) -> Access {
        let read_only = window.is_some_and(|window| window.read_only);
        let most = if read_only {
            Access::READ
        } else {
            Access::READ_WRITE
        };
        let Some(rights) = &range.access else {
            return most;
        };
        let access = rights.get_ref().0;
        if read_only && access.write {
            self.problem(
                rights,
                "the window cannot be written",
                "write \"r\" here, or access = \"rw\" at the window",
            );
        }
        access
    }

    fn overlaps(&mut self, file: &File, ranges: &[RangeContract]) {
        for (index, range) in ranges.iter().enumerate() {
            let others = ranges.iter().take(index);
            if others.into_iter().any(|other| range.meets(other))
                && let Some(at) = file.ranges.get(index)
            {
                self.problem(
                    &at.get_ref().offset,
                    "this range has offsets of an earlier one",
                    "let each offset belong to one range; offset = \"any\" belongs to a range alone",
                );
            }
        }
    }

    /// Whether every request is either granted or refused.
    fn answers(&mut self, file: &File, contract: &FileContract) {
        let refuses = |wanted: &[Condition]| {
            let mut all = contract.refusals.iter();
            all.any(|Refusal { when, .. }| *when == Condition::Always || wanted.contains(when))
        };
        let lacks = |right: fn(Access) -> bool| contract.ranges.iter().any(|it| !right(it.access));
        let mut missing = Vec::new();
        if !contract.copy_on_write && !refuses(&[Condition::Private]) {
            missing.push((
                "MAP_PRIVATE",
                "add { when = \"private\", errno = \"EINVAL\" } to its refusals, or private = \
                 \"copy-on-write\"\nif the driver grants it",
            ));
        }
        if lacks(|access| access.exec) && !refuses(&[Condition::Exec, Condition::BeyondAccess]) {
            missing.push((
                "PROT_EXEC",
                "add { when = \"exec\", errno = \"EACCES\" } to its refusals, or access = \"rwx\" \
                 to its ranges\nif the driver grants it",
            ));
        }
        if lacks(|access| access.write) && !refuses(&[Condition::Write, Condition::BeyondAccess]) {
            missing.push((
                "PROT_WRITE where it cannot be written",
                "add { when = \"beyond-access\", errno = \"EACCES\" } to its refusals",
            ));
        }
        if !self::bounded(contract) && !refuses(&[Condition::Outside]) {
            missing.push((
                "pages that it does not have",
                "add { when = \"outside\", errno = \"EINVAL\" } to its refusals",
            ));
        }
        for (what, help) in missing {
            let message = format!("nothing says what {} answers to {what}", contract.path);
            self.problem(&file.path, message, help);
        }
    }
}

/// Whether refusals of offset and length alone leave nothing outside.
fn bounded(contract: &FileContract) -> bool {
    let [range] = contract.ranges.as_slice() else {
        return false;
    };
    let conditions = || contract.refusals.iter().map(|refusal| refusal.when);
    let offset = match range.offset {
        Offset::Any => true,
        Offset::Page(page) => conditions().any(|it| it == Condition::OffsetIsNot(page)),
    };
    let length = conditions().any(|it| match it {
        Condition::LengthIsNot(npages) | Condition::LongerThan(npages) => npages <= range.npages,
        _ => false,
    });
    offset && length
}

impl RangeContract {
    /// Whether the two have an offset in common.
    fn meets(&self, other: &Self) -> bool {
        match (self.offset, other.offset) {
            (Offset::Page(one), Offset::Page(two)) => {
                one < two.saturating_add(other.npages) && two < one.saturating_add(self.npages)
            }
            _ => true,
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

/// A file's name, or what its path ends in.
fn name_of(file: &File) -> &str {
    let path = file.path.get_ref();
    let last = path.rsplit('/').next().unwrap_or(path);
    file.name.as_ref().map_or(last, |name| name.get_ref())
}

/// How a file maps, in a word.
fn strategy(ranges: &[RangeContract]) -> &'static str {
    let lazy = |range: &RangeContract| range.present != When::AtMmap;
    match (ranges.iter().any(lazy), ranges.iter().all(lazy)) {
        (false, _) => "at-mmap",
        (true, true) => "on-touch",
        (true, false) => "mixed",
    }
}
