//! What of the files of a contract's text fits together, and with the device.

use std::collections::BTreeSet;

use addr::PAGE_SIZE;

use super::resolve::{MAX_LIST, MAX_TEXT, Resolver};
use super::schema::{Document, File, Range};
use crate::access::Access;
use crate::device::{DeviceSpec, WindowSpec};
use crate::file::{Backing, FileContract, Offset, RangeContract, When};
use crate::rules::{Condition, Refusal};

/// Pages of the largest offset that mmap(2) takes.
const END_OF_OFFSETS: u64 = u64::MAX / PAGE_SIZE;

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
