//! The standard check of a driver: every file held against its contract. Each
//! mapping from mmap to munmap, every answer to a hostile request, and what is
//! promised of a mapping's later life.

use std::sync::Arc;

use contract::FileContract;
use guest_kernel::KernelFacts;
use monitor::{End, Ended, VmError};
use witness::second_level::LiveTables;
use witness::timeline;

use crate::answers::{Answers, check_answers};
use crate::check_watch::Watching;
use crate::course::check_mapping;
use crate::driver::Driver;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::MappingSpec;
use crate::operations::check_operations;
use crate::promises::{check_promises, check_references};
use crate::regions::{RegionContract, check_region};
use crate::report::{
    FileReport, GuestReport, HostReport, MappingReport, PromiseReport, RefusalReport, Report,
    TimelineReport, Verdict,
};
use crate::steps::{close, open};
use crate::tally::Tally;

/// CR4.LA57: 5-level paging (SDM volume 3A, 2.5).
const CR4_LA57: u64 = 1 << 12;

/// What a check is told of its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// The host, for the report.
    pub host: HostReport,
    /// Variant of the driver, for the report.
    pub driver_variant: String,
    /// Number of vCPUs, for the report.
    pub vcpus: u8,
    /// Beginnings of the names of the files to check; all files when there are none.
    pub only: Vec<String>,
    /// Whether to follow second-level entries by KVM's own records.
    pub timeline: bool,
}

/// Checks a driver in a guest that has just booted, by a kernel of which `facts` are
/// known.
///
/// # Errors
/// [`HarnessError`] when the check could not be made. A driver that does wrong is
/// no error: the report says so, also where the guest's kernel did not survive it.
pub fn check(
    guest: &mut Guest,
    driver: &Driver,
    facts: &KernelFacts,
    options: CheckOptions,
) -> Result<Report, HarnessError> {
    let driver = &driver.clone().only(&options.only);
    let modules = guest.load_modules(driver)?;
    guest.prepare(driver)?;
    let guest_report = guest_report(guest, options.vcpus)?;
    let mut found = Found::default();
    let mut watching = match options.timeline {
        true => Watching::start(guest),
        false => Watching::off(),
    };
    let outcome = check_all(guest, (driver, facts), &modules, &mut watching, &mut found);
    let ended = found.end_of(outcome)?;
    let kernel_complaints = guest.kernel_signals()?;

    let timeline = (options.timeline && ended.is_none()).then(|| watching.report(guest));
    let was_wrong = |timeline: &TimelineReport| timeline.verdict == timeline::Verdict::Fail;
    let all_pass = found.all_pass()
        && ended.is_none()
        && kernel_complaints.is_empty()
        && !timeline.as_ref().is_some_and(was_wrong);
    let verdict = match (all_pass, found.tally.present) {
        (true, 0) => Verdict::Error,
        (all_pass, _) => Verdict::of(all_pass),
    };
    Ok(Report {
        verdict,
        host: HostReport {
            second_level_levels: second_level_levels(guest),
            ..options.host
        },
        guest: guest_report,
        driver_variant: options.driver_variant,
        only: options.only,
        pages_checked: found.tally.present,
        absences_checked: found.tally.absent,
        unwitnessed: found.tally.unwitnessed(),
        links: found.tally.links,
        timeline,
        files: found.files,
        mappings: found.mappings,
        refusals: found.refusals,
        promises: found.promises,
        operations_tried: found.operations_tried,
        ended: ended.map(|ended| format!("{}: {}", found.doing, ended.cause)),
        kernel_complaints,
    })
}

/// Goes through all that a driver is to be held against, and unloads it.
fn check_all(
    guest: &mut Guest,
    (driver, facts): (&Driver, &KernelFacts),
    modules: &[String],
    watching: &mut Watching,
    found: &mut Found,
) -> Result<(), HarnessError> {
    for file in &driver.files {
        check_file(guest, facts, file, watching, found)?;
    }
    for region in &driver.regions {
        found.add(check_region_file(guest, facts, region)?);
    }
    // What a contract says wrongly of a single mapping is no ground to predict from what
    // becomes of many.
    found.operations_tried = found.all_pass();
    if found.operations_tried {
        found.doing = "sequences of operations".to_owned();
        let operations = check_operations(guest, &driver.files)?;
        found.promises.extend(operations);
    }
    found.doing = "unloading the driver".to_owned();
    guest.end_preparations()?;
    let unloaded = guest.unload_modules(modules);
    if found.all_pass() {
        // A scenario that failed has left its mappings behind, and they keep the module.
        unloaded?;
    }
    Ok(())
}

/// The guest, for a report.
pub(crate) fn guest_report(guest: &Guest, vcpus: u8) -> Result<GuestReport, HarnessError> {
    let cr4 = guest.vm().paging_regs()?.cr4;
    Ok(GuestReport {
        kernel: guest.kernel_release().to_owned(),
        paging_levels: if cr4 & CR4_LA57 == 0 { 4 } else { 5 },
        vcpus,
        started: guest.started(),
    })
}

/// What was found of one file or of several.
#[derive(Debug, Default)]
struct Found {
    tally: Tally,
    files: Vec<FileReport>,
    mappings: Vec<MappingReport>,
    refusals: Vec<RefusalReport>,
    promises: Vec<PromiseReport>,
    operations_tried: bool,
    /// What is being checked.
    doing: String,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.tally.add(&other.tally);
        self.files.extend(other.files);
        self.mappings.extend(other.mappings);
        self.refusals.extend(other.refusals);
        self.promises.extend(other.promises);
        self.doing = other.doing;
    }

    /// How the guest ended, if that is what stopped the check and the driver's doing: its
    /// kernel panicked, or something had been found before.
    ///
    /// # Errors
    /// Whatever else stopped it.
    fn end_of(
        &self,
        outcome: Result<(), HarnessError>,
    ) -> Result<Option<Box<Ended>>, HarnessError> {
        match outcome {
            Ok(()) => Ok(None),
            Err(HarnessError::Vm(VmError::Ended(ended)))
                if matches!(ended.cause, End::Panic { .. }) || !self.all_pass() =>
            {
                Ok(Some(ended))
            }
            // Where it stood is half of the way to its cause.
            Err(error) if !self.doing.is_empty() => Err(HarnessError::During {
                doing: self.doing.clone(),
                source: Box::new(error),
            }),
            Err(error) => Err(error),
        }
    }

    fn all_pass(&self) -> bool {
        let mut verdicts = (self.mappings.iter().map(|one| one.verdict))
            .chain(self.refusals.iter().map(|one| one.verdict))
            .chain(self.promises.iter().map(|one| one.verdict));
        verdicts.all(|verdict| verdict == Verdict::Pass)
    }

    fn sums(&self, file: &FileContract) -> FileReport {
        FileReport {
            name: file.name.clone(),
            path: file.path.clone(),
            mappings: self.tally.mappings,
            pages_checked: self.tally.present,
            absences_checked: self.tally.absent,
            links: self.tally.links,
            refusals: self.refusals.len() as u64,
            promises: self.promises.len() as u64,
            verdict: Verdict::of(self.all_pass()),
        }
    }
}

/// Adds what is found of a file to `all`, also where the check does not get to its end.
fn check_file(
    guest: &mut Guest,
    facts: &KernelFacts,
    file: &Arc<FileContract>,
    watching: &mut Watching,
    all: &mut Found,
) -> Result<(), HarnessError> {
    let mut found = Found::default();
    let outcome = check_parts(guest, facts, file, watching, &mut found);
    found.files = vec![found.sums(file)];
    all.add(found);
    outcome
}

fn check_parts(
    guest: &mut Guest,
    facts: &KernelFacts,
    file: &Arc<FileContract>,
    watching: &mut Watching,
    found: &mut Found,
) -> Result<(), HarnessError> {
    found.doing = format!("{}: references to its pages", file.name);
    found.promises = check_references(guest, facts, file)?;
    if !found.all_pass() {
        // Its pages may be free while it is mapped: to go on would be the guest's end.
        return Ok(());
    }
    for range in &file.ranges {
        let spec = MappingSpec::whole(file, range);
        if file.predict(&spec.request(file.widest_mode())) != contract::Answer::Maps {
            // The contract does not grant a whole range at once.
            continue;
        }
        let name = match file.ranges.len() {
            1 => file.name.clone(),
            _ => format!("{}: the range at page {}", file.name, spec.first_page),
        };
        found.doing.clone_from(&name);
        let fd = open(guest, &file.path, file.widest_mode())?;
        let report = check_mapping(guest, fd, &spec, name, (&mut found.tally, watching))?;
        close(guest, fd)?;
        found.mappings.push(report);
    }
    let mut answers = Answers::default();
    let outcome = check_answers(guest, file, &mut answers, (&mut found.tally, watching));
    found.mappings.extend(answers.mappings);
    found.refusals = answers.refusals;
    found.doing = answers.doing;
    outcome?;
    found.doing = format!("{}: what is promised of its mappings", file.name);
    found.promises.extend(check_promises(guest, facts, file)?);
    Ok(())
}

fn check_region_file(
    guest: &mut Guest,
    facts: &KernelFacts,
    region: &RegionContract,
) -> Result<Found, HarnessError> {
    let mut found = Found::default();
    let of_region = check_region(guest, facts, region, &mut found.tally)?;
    found.mappings.push(of_region.mapping);
    found.promises.extend(of_region.flags);
    found.files = vec![found.sums(&of_region.file)];
    Ok(found)
}

/// Levels of the second-level tables, where they can be read.
fn second_level_levels(guest: &Guest) -> Option<u8> {
    let tables = LiveTables::of(guest.vm()).ok()?;
    Some(tables.root().top.number())
}
