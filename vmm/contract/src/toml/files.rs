//! What of the files of a contract's text fits together, and with the device.

use std::collections::BTreeSet;

use ::toml::Spanned;
use addr::PAGE_SIZE;

use super::resolve::{MAX_LIST, MAX_TEXT, Resolver};
use super::schema::{Document, File, Range};
use crate::access::Access;
use crate::device::{BufferSpec, DeviceSpec, WindowSpec};
use crate::file::{Backing, FileContract, Offset, RangeContract, When};
use crate::rules::{Condition, Refusal};
use crate::vma::VmaFlags;

/// Pages of the largest offset that mmap(2) takes.
const END_OF_OFFSETS: u64 = u64::MAX / PAGE_SIZE;

/// Most pages that a touch brings in together (a whole table of them).
const MAX_AROUND_NPAGES: u64 = 512;

/// What a range may show.
#[derive(Clone, Debug)]
struct Memory {
    kind: &'static str,
    name: String,
    npages: u64,
    read_only: bool,
}

fn windows(device: &DeviceSpec) -> Vec<Memory> {
    let window = |window: &WindowSpec| Memory {
        kind: "window",
        name: window.name.clone(),
        npages: window.npages,
        read_only: window.read_only,
    };
    device.windows.iter().map(window).collect()
}

fn buffers(device: &DeviceSpec) -> Vec<Memory> {
    let buffer = |buffer: &BufferSpec| Memory {
        kind: "buffer",
        name: buffer.name.clone(),
        npages: u64::from(buffer.npages),
        read_only: false,
    };
    device.buffers.iter().map(buffer).collect()
}

impl Resolver {
    pub(super) fn files(&mut self, document: &Document, device: &DeviceSpec) -> Vec<FileContract> {
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
            refuses_split: file.refuses_split,
            vma: self.vma(file.vma.as_ref()),
            fork: file.fork,
        };
        self.answers(file, &file_contract);
        file_contract
    }

    fn vma(&mut self, vma: Option<&Spanned<VmaFlags>>) -> VmaFlags {
        let Some(vma) = vma else {
            return VmaFlags::default();
        };
        let VmaFlags { set, clear } = vma.get_ref();
        if let Some(flag) = set.iter().find(|flag| clear.contains(flag)) {
            self.problem(
                vma,
                format!("{} is both set and clear", flag.name()),
                "write each flag in one of the two lists",
            );
        }
        vma.get_ref().clone()
    }

    fn range(&mut self, range: &Range, device: &DeviceSpec) -> RangeContract {
        let memory = self.memory(range, device);
        let first_page = *range.first_page.get_ref();
        let most_npages = memory.as_ref().map_or(u64::MAX, |memory| memory.npages);
        let rest = most_npages.saturating_sub(first_page);
        let npages = range.pages.as_ref().map_or(rest, |pages| *pages.get_ref());
        if let Some(Memory { kind, name, .. }) = &memory
            && (npages == 0 || npages > rest)
        {
            self.problem(
                range.pages.as_ref().unwrap_or(&range.first_page),
                format!("{npages} pages from page {first_page} of {name:?} on"),
                format!("the {kind} has {most_npages}; leave `pages` out to mean all that follow"),
            );
        }
        let offset = range.offset.get_ref().0;
        if let Offset::Page(first) = offset
            && first
                .checked_add(npages)
                .is_none_or(|end| end > END_OF_OFFSETS)
            && memory.is_some()
        {
            self.problem(
                &range.offset,
                format!("no offset of mmap(2) reaches page {first}"),
                "write the page of the file (not the byte) at which the range begins",
            );
        }
        let name =
            |name: &Option<Spanned<String>>| name.as_ref().map(|name| name.get_ref().clone());
        let backing = match name(&range.buffer) {
            Some(name) => Backing::Buffer { name, first_page },
            None => Backing::Window {
                name: name(&range.window).unwrap_or_default(),
                first_page,
            },
        };
        RangeContract {
            offset,
            npages,
            backing,
            access: self.access(range, memory.is_some_and(|memory| memory.read_only)),
            memory_type: range.memory_type.0,
            present: self.present(range),
        }
    }

    /// The window or buffer that a range shows.
    fn memory(&mut self, range: &Range, device: &DeviceSpec) -> Option<Memory> {
        let (kind, wanted, all) = match (&range.window, &range.buffer) {
            (Some(name), None) => ("window", name, windows(device)),
            (None, Some(name)) => ("buffer", name, buffers(device)),
            (both, _) => {
                self.problem_at(
                    both.as_ref().map_or(range.present.span(), Spanned::span),
                    "a range shows a window or a buffer",
                    "write one of the two: window = \"...\" or buffer = \"...\"",
                );
                return None;
            }
        };
        let name = wanted.get_ref();
        let found = all.iter().find(|memory| memory.name == *name).cloned();
        if found.is_none() {
            let known: Vec<String> = all.iter().map(|one| format!("{:?}", one.name)).collect();
            let help = match known.is_empty() {
                true => format!("describe one first, as a [[device.{kind}]]"),
                false => format!("write one that is described: {}", known.join(", ")),
            };
            self.problem(wanted, format!("the device has no {kind} {name:?}"), help);
        }
        found
    }

    fn present(&mut self, range: &Range) -> When {
        let present = *range.present.get_ref();
        if let When::OnTouchAround(npages) = present
            && !(npages.is_power_of_two() && npages <= MAX_AROUND_NPAGES)
        {
            self.problem(
                &range.present,
                format!("a neighbourhood of {npages} pages"),
                format!("write a power of two up to {MAX_AROUND_NPAGES}"),
            );
        }
        present
    }

    fn access(&mut self, range: &Range, read_only: bool) -> Access {
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
