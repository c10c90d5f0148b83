//! The battery.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::PAGE_SIZE;
use contract::{FileContract, RangeContract};
use guest_kernel::KernelFacts;
use wire::{OpenMode, Prot};

use super::files::{AROUND, BASE, HUGE, LARGE, OTHERS, READ_ONLY, WINDOW};
use super::{Caught, Trial, areas, buffers, files, lifetime};
use crate::answers::{Answers, check_answers};
use crate::check_watch::Watching;
use crate::course::check_mapping;
use crate::driver::Driver;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec, Presence};
use crate::operations::check_operations;
use crate::promises::check_promises;
use crate::report::Verdict;
use crate::steps::{close, needed, open};
use crate::tally::Tally;

/// Pages around a touched one that are brought in with it, as many as lie in one
/// naturally aligned stretch.
const AROUND_NPAGES: u64 = 16;
/// Pages of 2 MiB.
const HUGE_NPAGES: u64 = 512;

/// Goes through everything up to the first thing that is wrong, what is quick first.
pub(super) fn all(guest: &mut Guest, facts: &KernelFacts, driver: &Driver) -> Trial {
    let modules = guest.load_modules(driver)?;
    let battery: [fn(&mut Guest, &KernelFacts) -> Trial; 9] = [
        |guest, _| mappings(guest),
        |guest, _| around(guest),
        |guest, _| huge(guest),
        areas::flags,
        areas::counts,
        buffers::trial,
        |guest, _| lifetime::trial(guest),
        answers,
        |guest, _| operations(guest),
    ];
    for trial in battery {
        if let found @ Some(_) = trial(guest, facts)? {
            return Ok(found);
        }
    }
    if let found @ Some(_) = complaints(guest)? {
        return Ok(found);
    }
    guest.unload_modules(&modules)?;
    complaints(guest)
}

/// What the guest kernel says of itself, which no ordinary test asks.
fn complaints(guest: &mut Guest) -> Trial {
    if guest.sees_data_alone() {
        return Ok(None);
    }
    let complaints = guest.kernel_complaints()?;
    let first = complaints.first();
    Ok(first.map(|line| Caught::rule("the kernel's log", "", "no complaint", line)))
}

/// Every file's mapping from mmap to munmap: all of its window, and a part.
fn mappings(guest: &mut Guest) -> Trial {
    let plan = guest.plan();
    let mut all = files::files(plan, &BASE, &[WINDOW, READ_ONLY]);
    all.extend(files::files(plan, &OTHERS, &[WINDOW]));
    for file in all {
        if let found @ Some(_) = followed(guest, &file)? {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Two mappings of a file, from mmap to munmap: all of what it shows, and a part.
pub(super) fn followed(guest: &mut Guest, file: &Arc<FileContract>) -> Trial {
    let Some(range) = file.ranges.first() else {
        return Ok(None);
    };
    for spec in [whole(file, range), part(file, range)] {
        let fd = open(guest, &file.path, OpenMode::ReadWrite)?;
        let name = format!("{} from page {}", file.name, spec.first_page);
        let report = check_mapping(
            guest,
            fd,
            &spec,
            name,
            (&mut Tally::default(), &mut Watching::off()),
        )?;
        close(guest, fd)?;
        if let Some(mismatch) = &report.mismatch {
            let phase = report.failed_phase.unwrap_or_default();
            return Ok(Some(Caught::link(
                format!("{}, {phase}", report.name),
                mismatch,
            )));
        }
    }
    Ok(None)
}

fn whole(file: &Arc<FileContract>, range: &RangeContract) -> MappingSpec {
    MappingSpec::whole(file, range)
}

/// Neither from the first page on nor to the last, and for reading alone.
fn part(file: &Arc<FileContract>, range: &RangeContract) -> MappingSpec {
    let whole = MappingSpec::whole(file, range);
    MappingSpec {
        first_page: whole.first_page + 1,
        npages: whole.npages.saturating_sub(2).max(1),
        prot: Prot::READ,
        ..whole
    }
}

/// Maps `spec` through a file of its own; `Err` says how it was refused.
pub(super) fn mapped(
    guest: &mut Guest,
    spec: &MappingSpec,
) -> Result<Mapping, crate::HarnessError> {
    let mode = if spec.prot.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let fd = open(guest, &spec.file.path, mode)?;
    let mapping = guest.map(fd, spec)?;
    close(guest, fd)?;
    needed(|| format!("mmap of {}", spec.file.name), mapping)
}

pub(super) fn unmapped(guest: &mut Guest, mapping: &Mapping) -> Result<(), crate::HarnessError> {
    let answer = guest.munmap(mapping.gva, mapping.spec.len_bytes())?;
    needed(|| "munmap".into(), answer)
}

/// The file of this strategy as one mapping of all of its window.
pub(super) fn spec(guest: &Guest, strategy: crate::Strategy, window: &str) -> Option<MappingSpec> {
    let file = files::file(guest.plan(), strategy, window)?;
    let range = file.ranges.first()?;
    Some(MappingSpec::whole(&file, range))
}

/// A look at a mapping in which these pages must be.
pub(super) fn only(
    guest: &Guest,
    mapping: &Mapping,
    pages: impl IntoIterator<Item = u64>,
    place: &str,
) -> Trial {
    let pages: BTreeSet<u64> = pages.into_iter().collect();
    let judged = guest.witness(mapping, &Presence::Only(pages))?;
    let place = format!("{}, {place}", mapping.spec.file.name);
    Ok(judged.mismatch.map(|found| Caught::link(place, &found)))
}

/// A look at a mapping whose pages are all used.
pub(super) fn in_use(guest: &mut Guest, mapping: &Mapping, place: &str) -> Trial {
    let judged = guest.witness_in_use(mapping)?;
    let place = format!("{}, {place}", mapping.spec.file.name);
    Ok(judged.mismatch.map(|found| Caught::link(place, &found)))
}

/// A touch brings in the neighbourhood, and no more.
fn around(guest: &mut Guest) -> Trial {
    for strategy in AROUND {
        let Some(spec) = spec(guest, strategy, WINDOW) else {
            continue;
        };
        let mapping = mapped(guest, &spec)?;
        let mut there = BTreeSet::new();
        for page in [spec.npages / 2, 0, spec.npages - 1] {
            touch(guest, &mapping, page)?;
            there.extend(neighbourhood(&mapping, page));
            if let found @ Some(_) = only(guest, &mapping, there.clone(), "some pages touched")? {
                return Ok(found);
            }
        }
        if let found @ Some(_) = in_use(guest, &mapping, "in use")? {
            return Ok(found);
        }
        unmapped(guest, &mapping)?;
    }
    Ok(None)
}

fn neighbourhood(mapping: &Mapping, page: u64) -> std::ops::Range<u64> {
    let start = mapping.gva.raw() / PAGE_SIZE;
    let first = (start + page) / AROUND_NPAGES * AROUND_NPAGES;
    first.saturating_sub(start)..(first + AROUND_NPAGES - start).min(mapping.spec.npages)
}

fn touch(guest: &mut Guest, mapping: &Mapping, page: u64) -> Result<(), crate::HarnessError> {
    if let Some(gva) = mapping.page_gva(page) {
        // One that is refused brings nothing in, which the look finds.
        let _ = guest.load(gva, PAGE_SIZE, 1)?;
    }
    Ok(())
}

/// A touch brings in 2 MiB where they fit, and one page where they do not.
fn huge(guest: &mut Guest) -> Trial {
    for strategy in HUGE {
        let Some(whole) = spec(guest, strategy, LARGE) else {
            continue;
        };
        // The window is aligned to 2 MiB, and the driver has mappings aligned as it is.
        let cases = [
            (0, whole.npages, 700, HUGE_NPAGES..2 * HUGE_NPAGES),
            (0, HUGE_NPAGES - 1, 5, 5..6),
            (1, 20, 5, 5..6),
        ];
        for (first_page, npages, page, there) in cases {
            let spec = MappingSpec {
                first_page,
                npages,
                ..whole.clone()
            };
            let mapping = mapped(guest, &spec)?;
            touch(guest, &mapping, page)?;
            let place = format!("page {page} of {npages} touched");
            if let found @ Some(_) = only(guest, &mapping, there, &place)? {
                return Ok(found);
            }
            if let found @ Some(_) = in_use(guest, &mapping, "in use")? {
                return Ok(found);
            }
            unmapped(guest, &mapping)?;
        }
    }
    Ok(None)
}

/// Every request that the contracts suggest, and what they promise of later.
fn answers(guest: &mut Guest, facts: &KernelFacts) -> Trial {
    for file in files::files(guest.plan(), &BASE, &[WINDOW, READ_ONLY]) {
        let mut answers = Answers::default();
        let sums = (&mut Tally::default(), &mut Watching::off());
        check_answers(guest, &file, &mut answers, sums)?;
        for refusal in &answers.refusals {
            if refusal.verdict != Verdict::Pass {
                return Ok(Some(Caught::refusal(refusal)));
            }
        }
        for report in &answers.mappings {
            if let Some(mismatch) = &report.mismatch {
                return Ok(Some(Caught::link(&report.name, mismatch)));
            }
        }
        for promise in check_promises(guest, facts, &file)? {
            if promise.verdict != Verdict::Pass {
                return Ok(Some(Caught::promise(&promise)));
            }
        }
    }
    Ok(None)
}

/// Whatever processes can do to mappings.
fn operations(guest: &mut Guest) -> Trial {
    let files = files::files(guest.plan(), &BASE, &[WINDOW]);
    let reports = check_operations(guest, &files)?;
    let failed = reports
        .iter()
        .find(|report| report.verdict != Verdict::Pass);
    Ok(failed.map(Caught::promise))
}
