//! The course of a mapping in the standard check, from mmap to munmap.

use std::collections::BTreeSet;

use addr::PAGE_SIZE;
use wire::Fd;
use witness::{Expected, Leaves, Link, Links, Mismatch};

use crate::check_watch::Watching;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec, Presence};
use crate::observe::Judged;
use crate::outcome::Refusal;
use crate::report::{LeavesReport, MappingReport, PhaseReport, Verdict};
use crate::steps::needed;
use crate::tally::Tally;

/// Something that is done to a mapping, and the look at it that follows.
struct Phase {
    /// What had been done when it was looked at, for the report.
    name: &'static str,
    /// Whether it says anything of such a mapping.
    applies: fn(&MappingSpec) -> bool,
    /// Does it, and looks. What the contract says of every page is in the judgement.
    look: fn(&mut Guest, &Mapping) -> Result<Judged, HarnessError>,
}

/// Everything between mmap and munmap, in this order; the first look that finds
/// something wrong is the last. One that uses all pages must come at the end.
const PHASES: [Phase; 3] = [
    Phase {
        name: BEFORE_TOUCH,
        applies: |_| true,
        look: before_touch,
    },
    Phase {
        name: "one page touched",
        applies: |spec| spec.is_lazy() && spec.is_reachable(),
        look: one_page_touched,
    },
    Phase {
        name: IN_USE,
        applies: MappingSpec::is_reachable,
        look: |guest, mapping| guest.witness_in_use(mapping),
    },
];

/// The phase in which the guest has not run since mmap.
const BEFORE_TOUCH: &str = "before touch";
/// The phase whose links are those of the report.
const IN_USE: &str = "in use";

/// Maps `spec` through `fd`, holds the mapping against its contract from then on
/// until after munmap, and adds what was seen to `tally`.
///
/// # Errors
/// [`HarnessError`] when that cannot be done. A mapping that is wrong is no error.
pub(crate) fn check_mapping(
    guest: &mut Guest,
    fd: Fd,
    spec: &MappingSpec,
    name: String,
    (tally, watching): (&mut Tally, &mut Watching),
) -> Result<MappingReport, HarnessError> {
    let mut course = Course::new(name, spec, present_in_use(guest, spec));
    watching.begin(guest, spec)?;
    let answer = guest.map(fd, spec)?;
    match &answer {
        Ok(mapping) => {
            let sound = course.run(guest, mapping, watching)?;
            watching.phase(guest, "munmap");
            let unmapped = guest.munmap(mapping.gva, spec.len_bytes())?;
            needed(|| "munmap".into(), unmapped)?;
            if sound {
                course.look("after munmap", guest.witness(mapping, &Presence::Nothing)?);
            }
        }
        Err(refusal) => course.refused(spec, *refusal),
    }
    watching.withdraw(guest, spec)?;
    let mapping = answer.as_ref().ok();
    watching.finish(guest, mapping, &mut course.report);
    Ok(course.end(tally))
}

/// Pages that the contract wants to be there once all were touched.
fn present_in_use(guest: &Guest, spec: &MappingSpec) -> u64 {
    let contract = spec.contract(guest.plan(), &Presence::All);
    let present = |one: &&Expected| matches!(one, Expected::Present { .. });
    contract.iter().filter(present).count() as u64
}

/// A mapping's report as it grows, phase by phase.
pub(crate) struct Course {
    report: MappingReport,
    tally: Tally,
}

impl Course {
    /// Nothing looked at yet; so many pages have to be present while it is in use.
    pub(crate) fn new(name: String, spec: &MappingSpec, present: u64) -> Self {
        Self {
            report: MappingReport::new(name, spec),
            tally: Tally::of_mapping(present),
        }
    }

    /// The file refuses what the contract grants.
    pub(crate) fn refused(&mut self, spec: &MappingSpec, refusal: Refusal) {
        self.look("mmap", refused(spec, refusal));
    }

    /// The report; what was seen is added to `tally`.
    pub(crate) fn end(self, tally: &mut Tally) -> MappingReport {
        tally.add(&self.tally);
        self.report
    }

    /// Everything between mmap and munmap. Says whether all was well.
    fn run(
        &mut self,
        guest: &mut Guest,
        mapping: &Mapping,
        watching: &mut Watching,
    ) -> Result<bool, HarnessError> {
        for phase in &PHASES {
            if !(phase.applies)(&mapping.spec) {
                continue;
            }
            watching.phase(guest, phase.name);
            let judged = (phase.look)(guest, mapping)?;
            let sound = match phase.name {
                IN_USE => self.in_use(judged),
                name => self.look(name, judged),
            };
            if !sound {
                return Ok(false);
            }
            match phase.name {
                IN_USE => watching.used(guest, &mapping.spec),
                // The look had entries made, and the guest's accesses are to leave
                // records.
                BEFORE_TOUCH => watching.withdraw(guest, &mapping.spec)?,
                _ => {}
            }
        }
        Ok(true)
    }

    /// Notes the look whose links are those of the report. Says whether to go on.
    pub(crate) fn in_use(&mut self, judged: Judged) -> bool {
        self.tally.links.add(&judged.links);
        self.report.links = judged.links;
        self.report.leaves = judged.leaves.iter().map(alike).collect();
        self.look(IN_USE, judged)
    }

    /// Notes a look at the mapping. Says whether to go on.
    pub(crate) fn look(&mut self, name: &'static str, judged: Judged) -> bool {
        let verdict = Verdict::of(judged.mismatch.is_none());
        self.report.phases.push(PhaseReport {
            name,
            present: judged.present,
            absent: judged.absent,
            verdict,
        });
        self.tally.note(&judged);
        if let Some(mismatch) = judged.mismatch {
            self.report.verdict = Verdict::Fail;
            self.report.failed_phase = Some(name);
            self.report.mismatch = Some(mismatch);
            return false;
        }
        true
    }
}

fn alike((leaves, pages): (&Leaves, &u64)) -> LeavesReport {
    LeavesReport {
        pages: *pages,
        leaves: *leaves,
    }
}

fn before_touch(guest: &mut Guest, mapping: &Mapping) -> Result<Judged, HarnessError> {
    guest.witness(mapping, &mapping.spec.before_touch())
}

fn one_page_touched(guest: &mut Guest, mapping: &Mapping) -> Result<Judged, HarnessError> {
    let middle = mapping.spec.npages / 2;
    if let Some(gva) = mapping.page_gva(middle) {
        // A load that faults leaves the page absent, which the walk then finds.
        let _ = guest.load(gva, PAGE_SIZE, 1)?;
    }
    let only = mapping.after_touch(guest.plan(), &BTreeSet::from([middle]));
    guest.witness(mapping, &only)
}

/// A driver that refuses what the contract grants.
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

impl MappingReport {
    fn new(name: String, spec: &MappingSpec) -> Self {
        Self {
            name,
            file: spec.file.name.clone(),
            strategy: spec.file.strategy.clone(),
            pages: spec.npages,
            links: Links::default(),
            leaves: Vec::new(),
            verdict: Verdict::Pass,
            phases: Vec::new(),
            failed_phase: None,
            mismatch: None,
            timeline: None,
        }
    }
}
