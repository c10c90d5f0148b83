//! Follows each entry from record to record.

mod account;
mod entries;
mod judge;

use std::collections::{BTreeMap, BTreeSet};

use addr::{Gfn, Level, Pfn};
use monitor::Threads;
use timeline::{Batch, Event, What};
use walk::{Mapped, SecondLevel};

use self::entries::Change;
use super::ledger::Ledger;
use super::lines::{Course, Who};
use super::{Counts, Finding, Reached, Timeline, Verdict};
use crate::contract::{DevicePage, Plan};

/// Findings that are kept: those after them rarely tell more.
const MOST_FINDINGS: usize = 16;
/// Reasons that are kept.
const MOST_REASONS: usize = 16;

/// Where an entry stands: address space, level, first frame.
type Key = (u8, u8, Gfn);

/// What the tables have for a page, when they are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTables {
    /// The page.
    pub page: DevicePage,
    /// The frame that they lead to, if any.
    pub pfn: Option<Pfn>,
}

/// The entries of a VM's windows, as far as its records tell.
#[derive(Debug)]
pub struct Replay {
    plan: Plan,
    format: SecondLevel,
    ledger: Ledger,
    /// Entries that map a page now. Two of one place stand in tables of two roots.
    entries: BTreeMap<Key, Vec<Mapped>>,
    /// Threads that made KVM pre-fault for this VM, ever.
    prefault: BTreeSet<i32>,
    phase: String,
    counts: Counts,
    seen: BTreeSet<DevicePage>,
    reached: Vec<Reached>,
    /// Entries of withdrawn memory that no record ended.
    left: u64,
    tables_agree: Option<bool>,
    findings: Vec<Finding>,
    reasons: Vec<String>,
    course: Course,
}

/// One stretch of records with what was known around it.
struct Stretch<'a> {
    before: &'a Ledger,
    after: &'a Ledger,
    threads: &'a Threads,
}

impl Stretch<'_> {
    /// No page of the host moved meanwhile.
    fn is_still(&self) -> bool {
        self.before.moves.is_some() && self.before.moves == self.after.moves
    }

    fn gave(&self, page: DevicePage, pfn: Pfn) -> bool {
        let gave = |ledger: &Ledger| ledger.frames.get(page) == Some(pfn);
        gave(self.before) || gave(self.after)
    }

    fn owns(&self, pfn: Pfn) -> bool {
        self.before.frames.has(pfn) || self.after.frames.has(pfn)
    }
}

impl Replay {
    /// Of a VM none of whose windows has an entry yet.
    pub fn new(plan: Plan, format: SecondLevel, ledger: Ledger) -> Self {
        Self {
            plan,
            format,
            ledger,
            entries: BTreeMap::new(),
            prefault: BTreeSet::new(),
            phase: String::new(),
            counts: Counts::default(),
            seen: BTreeSet::new(),
            reached: Vec::new(),
            left: 0,
            tables_agree: None,
            findings: Vec::new(),
            reasons: Vec::new(),
            course: Course::default(),
        }
    }

    /// The ledger as it was read last.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is done from here on.
    pub fn phase(&mut self, name: &str) {
        name.clone_into(&mut self.phase);
        self.course.phase(name, &self.plan);
    }

    /// Goes through what was recorded since the last call; `ledger` was read after it.
    pub fn advance(&mut self, batch: &Batch, threads: &Threads, ledger: Ledger) {
        self.prefault.extend(&threads.prefault);
        let before = std::mem::replace(&mut self.ledger, ledger);
        let after = self.ledger.clone();
        let stretch = Stretch {
            before: &before,
            after: &after,
            threads,
        };
        for event in &batch.events {
            self.event(event, &stretch);
        }
        for loss in &batch.losses {
            self.counts.lost = self.counts.lost.saturating_add(account::number(loss));
            self.course.remark(format!("lost: {loss}"), &self.plan);
            self.cannot_tell(format!("records were lost ({loss})"));
        }
    }

    /// Something without which nothing can be told.
    pub fn cannot_tell(&mut self, reason: String) {
        if self.reasons.len() < MOST_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Whether there is no entry, and nothing that could not be told.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.reasons.is_empty()
    }

    /// What happened since the last call of this kind. Where not everything could be
    /// told, the entries that are known are forgotten with it.
    pub fn finish(&mut self) -> Timeline {
        let findings = std::mem::take(&mut self.findings);
        let unwitnessed = std::mem::take(&mut self.reasons);
        self.seen.clear();
        if !unwitnessed.is_empty() {
            self.entries.clear();
        }
        Timeline {
            verdict: if !findings.is_empty() {
                Verdict::Fail
            } else if unwitnessed.is_empty() {
                Verdict::Pass
            } else {
                Verdict::Unwitnessed
            },
            counts: std::mem::take(&mut self.counts),
            reached: std::mem::take(&mut self.reached),
            left: std::mem::take(&mut self.left),
            tables_agree: self.tables_agree.take().unwrap_or(false),
            findings,
            unwitnessed,
            course: self.course.take(&self.plan),
        }
    }

    fn event(&mut self, event: &Event, stretch: &Stretch<'_>) {
        let who = self.who(event.tid, stretch);
        let by_own_thread = matches!(who, Who::Guest | Who::Prefault);
        match event.what {
            What::Mark(_) => {}
            What::Changed {
                gfn,
                level,
                address_space,
                old,
                new,
            } => {
                let Some(levels) = Level::numbered(level) else {
                    self.cannot_tell(format!("a record tells of an entry of level {level}"));
                    return;
                };
                let change = Change {
                    key: (address_space, level, gfn),
                    old: self.format.maps(levels, old),
                    new: self.format.maps(levels, new),
                };
                self.changed(event.order, who, &change, stretch);
            }
            _ if !by_own_thread => self.counts.foreign += 1,
            What::Fault { gpa, .. } => self.fault(event.order, who, gpa),
            What::Widened { gpa, old, new } => self.widened(event.order, who, gpa, (old, new)),
            What::Split { gfn, level } => {
                self.counts.events += 1;
                let touches = self.window_under(gfn, level).is_some();
                if touches {
                    self.cannot_tell(format!(
                        "a page of level {level} at gfn {gfn} was split, and the parts have no \
                         records of their own"
                    ));
                }
            }
            What::Mmio { gfn } => {
                self.counts.events += 1;
                if let Some(page) = gfn.base().and_then(|gpa| self.plan.page_at(gpa)) {
                    let what = "finds no memory behind";
                    self.course.add(event.order, who, what, page, &self.plan);
                }
            }
            What::Served { .. } | What::TableZapped { .. } | What::AllZapped => {
                self.counts.events += 1;
            }
        }
    }

    fn who(&self, tid: i32, stretch: &Stretch<'_>) -> Who {
        if stretch.threads.vcpus.contains(&tid) {
            Who::Guest
        } else if self.prefault.contains(&tid) {
            Who::Prefault
        } else {
            Who::Thread(tid)
        }
    }
}
