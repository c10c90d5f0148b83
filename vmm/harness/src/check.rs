//! The standard check of a driver: every file over all that it offers, each mapping
//! from mmap to munmap, and the requests that it must refuse.

use std::collections::BTreeSet;

use addr::PAGE_SIZE;
use witness::second_level::LiveTables;
use witness::{Leaves, Link, Links, Mismatch};

use crate::error::HarnessError;
use crate::guest::{Guest, MODULE_NAME};
use crate::mapping::{Mapping, MappingSpec, Presence};
use crate::observe::Judged;
use crate::outcome::Refusal;
use crate::own_driver;
use crate::refusals::check_refusals;
use crate::report::{
    GuestReport, HostReport, LeavesReport, MappingReport, PhaseReport, Report, Unwitnessed, Verdict,
};
use crate::steps::{needed, open};

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
}

/// Checks the driver of a guest that has just booted.
///
/// # Errors
/// [`HarnessError`] when the check could not be made. A driver that does wrong is
/// no error: the report says so.
pub fn check(guest: &mut Guest, options: CheckOptions) -> Result<Report, HarnessError> {
    guest.load_driver()?;
    let mut mappings = Vec::new();
    let mut tally = Tally::default();
    let mut refusals = Vec::new();
    for file in own_driver::files(guest.plan()) {
        for range in &file.ranges {
            let spec = MappingSpec::whole(&file, range);
            mappings.push(check_mapping(guest, &spec, &mut tally)?);
        }
        refusals.extend(check_refusals(guest, &file)?);
    }
    unload(guest)?;
    let kernel_complaints = guest.kernel_complaints()?;
    let cr4 = guest.vm().paging_regs()?.cr4;

    let all_pass = mappings.iter().all(|one| one.verdict == Verdict::Pass)
        && refusals.iter().all(|one| one.verdict == Verdict::Pass)
        && kernel_complaints.is_empty();
    let verdict = match (all_pass, tally.present) {
        (true, 0) => Verdict::Error,
        (true, _) => Verdict::Pass,
        (false, _) => Verdict::Fail,
    };
    Ok(Report {
        verdict,
        host: HostReport {
            second_level_levels: second_level_levels(guest),
            ..options.host
        },
        guest: GuestReport {
            kernel: guest.kernel_release().to_owned(),
            paging_levels: if cr4 & CR4_LA57 == 0 { 4 } else { 5 },
            vcpus: options.vcpus,
        },
        driver_variant: options.driver_variant,
        pages_checked: tally.present,
        absences_checked: tally.absent,
        unwitnessed: tally.unwitnessed(),
        links: tally.links,
        mappings,
        refusals,
        kernel_complaints,
    })
}

/// Sums over all mappings.
#[derive(Default)]
struct Tally {
    present: u64,
    absent: u64,
    links: Links,
    reasons: std::collections::BTreeMap<Link, String>,
}

impl Tally {
    /// Links that were not heard for every page. None is left out, with or without
    /// a reason.
    fn unwitnessed(&self) -> Vec<Unwitnessed> {
        Link::ALL
            .into_iter()
            .filter(|link| self.links.get(*link) < self.present)
            .map(|link| Unwitnessed {
                link,
                reason: self.reason(link),
            })
            .collect()
    }

    fn reason(&self, link: Link) -> String {
        let known = self.reasons.get(&link).cloned();
        known.unwrap_or_else(|| "some pages failed before it could be heard".into())
    }
}

/// A mapping's report as it grows, phase by phase.
struct Course<'t> {
    report: MappingReport,
    tally: &'t mut Tally,
}

impl Course<'_> {
    /// Notes a look at the mapping. Says whether to go on.
    fn look(&mut self, name: &'static str, judged: Judged) -> bool {
        let verdict = match judged.mismatch {
            None => Verdict::Pass,
            Some(_) => Verdict::Fail,
        };
        self.report.phases.push(PhaseReport {
            name,
            present: judged.present,
            absent: judged.absent,
            verdict,
        });
        self.tally.absent += judged.absent;
        self.tally.reasons.extend(judged.unwitnessed);
        if let Some(mismatch) = judged.mismatch {
            self.report.verdict = Verdict::Fail;
            self.report.failed_phase = Some(name);
            self.report.mismatch = Some(mismatch);
            return false;
        }
        true
    }
}

fn check_mapping(
    guest: &mut Guest,
    spec: &MappingSpec,
    tally: &mut Tally,
) -> Result<MappingReport, HarnessError> {
    let fd = open(guest, spec)?;
    let mut course = Course {
        report: MappingReport {
            name: spec.file.name.clone(),
            strategy: spec.file.strategy.clone(),
            pages: spec.npages,
            links: Links::default(),
            leaves: Vec::new(),
            verdict: Verdict::Pass,
            phases: Vec::new(),
            failed_phase: None,
            mismatch: None,
        },
        tally,
    };
    match guest.map(fd, spec)? {
        Ok(mapping) => {
            let sound = walk_through(guest, &mapping, &mut course)?;
            let unmapped = guest.munmap(mapping.gva, spec.len_bytes())?;
            needed(|| "munmap".into(), unmapped)?;
            if sound {
                course.look("after munmap", guest.witness(&mapping, &Presence::Nothing)?);
            }
        }
        Err(refusal) => {
            course.tally.present += spec.npages;
            course.look("mmap", refused(spec, refusal));
        }
    }
    needed(|| "close".into(), guest.close(fd)?)?;
    Ok(course.report)
}

/// A driver that refuses what the contract allows.
fn refused(spec: &MappingSpec, refusal: Refusal) -> Judged {
    Judged {
        mismatch: Some(Mismatch {
            link: Link::Contract,
            page: 0,
            gva: String::new(),
            expected: format!("mmap maps {} pages", spec.npages),
            found: refusal.to_string(),
            guest_walk: Vec::new(),
            host: Vec::new(),
        }),
        ..Judged::default()
    }
}

/// Everything between mmap and munmap. Says whether all was well.
fn walk_through(
    guest: &mut Guest,
    mapping: &Mapping,
    course: &mut Course<'_>,
) -> Result<bool, HarnessError> {
    let before = guest.witness(mapping, &mapping.spec.before_touch())?;
    if !course.look("before touch", before) {
        // These pages were held against their contract too.
        course.tally.present += mapping.spec.npages;
        return Ok(false);
    }
    if mapping.spec.is_lazy() {
        let middle = mapping.spec.npages / 2;
        let gva = mapping.gva.checked_add(middle * PAGE_SIZE);
        if let Some(gva) = gva {
            // A load that faults leaves the page absent, which the walk then finds.
            let _ = guest.load(gva, PAGE_SIZE, 1)?;
        }
        let only = Presence::Only(BTreeSet::from([middle]));
        if !course.look("one page touched", guest.witness(mapping, &only)?) {
            course.tally.present += mapping.spec.npages;
            return Ok(false);
        }
    }
    let in_use = guest.witness_in_use(mapping)?;
    course.tally.present += in_use.present;
    course.tally.links.add(&in_use.links);
    course.report.links = in_use.links;
    let alike = |(leaves, pages): (&Leaves, &u64)| LeavesReport {
        pages: *pages,
        leaves: leaves.clone(),
    };
    course.report.leaves = in_use.leaves.iter().map(alike).collect();
    Ok(course.look("in use", in_use))
}

/// Levels of the second-level tables, where they can be read.
fn second_level_levels(guest: &Guest) -> Option<u8> {
    let tables = LiveTables::of(guest.vm()).ok()?;
    Some(tables.root().top.number())
}

fn unload(guest: &mut Guest) -> Result<(), HarnessError> {
    let answer = guest.unload_module(MODULE_NAME)?;
    needed(|| format!("unloading {MODULE_NAME}"), answer)
}
