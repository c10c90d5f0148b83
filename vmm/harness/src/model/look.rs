//! Holds everything that is mapped, in every process, against the model.

use std::collections::BTreeSet;
use std::ops::Range;

use addr::{Gpa, Gva, PAGE_SIZE};
use monitor::SlotUse;
use witness::guest_walk::{FrozenTables, NoMemory};
use witness::{Evidence, Expected, Mismatch, judge_page, memslot};

use super::{Area, Model, Operation, Pages, Shows, Space, Surprise};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, Presence};
use crate::observe::Judged;

/// End of user space with 4-level paging.
const USER_END: u64 = 1 << 47;

/// A look at all pages of the process at the doorbell.
type Look = fn(&mut Guest, &Model, &Space) -> Result<Judged, HarnessError>;

/// The first thing that was not as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Place of the operation in its sequence.
    pub step: usize,
    /// The operation.
    pub operation: Operation,
    /// What was wrong with it, or after it.
    pub wrong: Wrong,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The operation came to something else.
    Outcome(Box<Surprise>),
    /// A page is not what it must be.
    Page(Box<Mismatch>),
}

impl Guest {
    /// Does all of `operations`, and after each looks at every page of every process
    /// ([`Guest::look_at_all`]). Stops at the first thing that is wrong.
    ///
    /// # Errors
    /// As [`Guest::perform`] and [`Guest::witness_all`].
    pub fn run(
        &mut self,
        model: &mut Model,
        operations: &[Operation],
        tally: &mut Judged,
    ) -> Result<Option<Finding>, HarnessError> {
        self.go_through(model, operations, tally, |_| true)
    }

    /// As [`Guest::run`], with one look after the last operation.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn run_at_once(
        &mut self,
        model: &mut Model,
        operations: &[Operation],
        tally: &mut Judged,
    ) -> Result<Option<Finding>, HarnessError> {
        let last = operations.len().saturating_sub(1);
        self.go_through(model, operations, tally, |step| step == last)
    }

    fn go_through(
        &mut self,
        model: &mut Model,
        operations: &[Operation],
        tally: &mut Judged,
        is_looked_after: impl Fn(usize) -> bool,
    ) -> Result<Option<Finding>, HarnessError> {
        for (step, operation) in operations.iter().enumerate() {
            let wrong = match self.step(model, operation)? {
                None if is_looked_after(step) => self.look_at_all(model, tally)?,
                surprise => surprise,
            };
            if let Some(wrong) = wrong {
                let operation = operation.clone();
                return Ok(Some(Finding {
                    step,
                    operation,
                    wrong,
                }));
            }
        }
        Ok(None)
    }

    fn step(
        &mut self,
        model: &mut Model,
        operation: &Operation,
    ) -> Result<Option<Wrong>, HarnessError> {
        let came = self.perform(model, operation)?;
        Ok(model.apply(operation, &came)?.err().map(Wrong::Outcome))
    }

    /// Looks at every page of every process, from below and then through the guest's
    /// own loads and stores. Only pages that are mapped are touched, so that looking
    /// changes nothing.
    ///
    /// # Errors
    /// As [`Guest::witness_all`].
    pub fn look_at_all(
        &mut self,
        model: &Model,
        tally: &mut Judged,
    ) -> Result<Option<Wrong>, HarnessError> {
        let looks: [Look; 2] = [Self::witness_space, Self::witness_space_in_use];
        self.look_in_turn(model, tally, looks)
    }

    /// As [`Guest::look_at_all`], through loads and stores first. Of pages that were touched
    /// while nothing was there KVM has noted so in its tables, and finds that to be out of
    /// date at the next access only.
    ///
    /// # Errors
    /// As [`Guest::witness_all`].
    pub fn look_at_all_in_use_first(
        &mut self,
        model: &Model,
        tally: &mut Judged,
    ) -> Result<Option<Wrong>, HarnessError> {
        let looks: [Look; 2] = [Self::witness_space_in_use, Self::witness_space];
        self.look_in_turn(model, tally, looks)
    }

    fn look_in_turn(
        &mut self,
        model: &Model,
        tally: &mut Judged,
        looks: [Look; 2],
    ) -> Result<Option<Wrong>, HarnessError> {
        for (process, space) in model.spaces() {
            self.go_to(model, process)?;
            for look in looks {
                let mut judged = look(self, model, space)?;
                let mismatch = judged.mismatch.take();
                tally.merge(judged);
                if let Some(mismatch) = mismatch {
                    return Ok(Some(Wrong::Page(Box::new(mismatch))));
                }
            }
        }
        Ok(None)
    }

    /// Holds every page of every process against `model`, from below: each page of its
    /// areas, and all else that a process may reach, where nothing of the device may
    /// be. No process touches anything meanwhile.
    ///
    /// # Errors
    /// As [`Guest::request`], which goes from process to process, and
    /// [`Guest::witness`].
    pub fn witness_all(&mut self, model: &Model) -> Result<Judged, HarnessError> {
        let mut all = Judged::default();
        for (process, space) in model.spaces() {
            if !self.sees_data_alone() {
                self.go_to(model, process)?;
            }
            all.merge(self.witness_space(model, space)?);
        }
        Ok(all)
    }

    /// As [`Guest::witness_all`], of the process at the doorbell.
    fn witness_space(&mut self, model: &Model, space: &Space) -> Result<Judged, HarnessError> {
        if self.sees_data_alone() {
            return Ok(Judged::default());
        }
        let strays = self.strays(space)?;
        let vacant = model.vacant(space);
        self.steadily(|evidence| {
            let mut judged = Judged {
                absent: vacant.difference(&strays).count() as u64,
                ..Judged::default()
            };
            for (mapping, presence) in areas(space) {
                let contract = mapping.spec.contract(self.plan(), &presence);
                judged.merge(self.judge_by(evidence, &mapping, &contract, None));
            }
            judged.merge(self.judge_strays(evidence, &strays));
            judged
        })
    }

    /// Loads from every page that is mapped, stores to it where that is allowed, and
    /// holds it against `model` by all links; in every process.
    ///
    /// # Errors
    /// As [`Guest::witness_all`].
    pub fn witness_all_in_use(&mut self, model: &Model) -> Result<Judged, HarnessError> {
        let mut all = Judged::default();
        for (process, space) in model.spaces() {
            self.go_to(model, process)?;
            all.merge(self.witness_space_in_use(model, space)?);
        }
        Ok(all)
    }

    /// As [`Guest::witness_all_in_use`], of the process at the doorbell.
    fn witness_space_in_use(
        &mut self,
        _model: &Model,
        space: &Space,
    ) -> Result<Judged, HarnessError> {
        let mut mappings = mapped(space);
        for mapping in &mut mappings {
            mapping.id = self.next_mapping();
        }
        if mappings.is_empty() {
            return Ok(Judged::default());
        }
        let seen = self.use_several(&mappings)?;
        let used = mappings.iter().zip(&seen);
        if self.sees_data_alone() {
            let mut judged = Judged::default();
            for (mapping, seen) in used {
                let contract = mapping.spec.contract(self.plan(), &Presence::All);
                judged.merge(self.judge_data(mapping, &contract, seen));
            }
            return Ok(judged);
        }
        self.steadily(|evidence| {
            let mut judged = Judged::default();
            for (mapping, seen) in used.clone() {
                let contract = mapping.spec.contract(self.plan(), &Presence::All);
                judged.merge(self.judge_by(evidence, mapping, &contract, Some(seen)));
            }
            judged
        })
    }

    fn judge_strays(&self, evidence: &Evidence<'_>, strays: &BTreeSet<Gva>) -> Judged {
        let mut judged = Judged::default();
        for gva in strays {
            let found = evidence.page(*gva, None, None);
            let (verdict, _) = judge_page(self.plan(), self.stamps(), 0, &Expected::Absent, &found);
            judged.add(&Expected::Absent, verdict, 1);
        }
        judged
    }

    /// Whether all of what the tables have there lies in one memslot that is the guest's own.
    fn is_own(&self, extent: &Piece) -> bool {
        let Ok(found) = &extent.found else {
            return false;
        };
        let Some(last) = extent
            .last
            .checked_offset_from(extent.start)
            .and_then(|len_bytes| found.address.checked_add(len_bytes))
        else {
            return false;
        };
        let slots = self.vm().memslots();
        let (first, last) = (
            memslot::find(slots, found.address),
            memslot::find(slots, last),
        );
        match (first, last) {
            (Some(first), Some(last)) => first.slot == last.slot && is_the_guests(first.used_for),
            _ => false,
        }
    }

    /// Addresses outside of the areas of `space` where something other than the
    /// guest's RAM is, of all that the process at the doorbell can have.
    fn strays(&self, space: &Space) -> Result<BTreeSet<Gva>, HarnessError> {
        let tables = FrozenTables::of(self.vm())?;
        let mut strays = BTreeSet::new();
        for extent in tables.extents(Gva::new(0), USER_END) {
            if extent.is_absent() || self.is_own(&extent) {
                continue;
            }
            let pages = (extent.start.raw()..=extent.last.raw()).step_by(PAGE_LEN);
            for gva in pages.map(Gva::new) {
                let is_alien = match &extent.found {
                    Ok(found) => {
                        let offset = gva.raw() - extent.start.raw();
                        let gpa = found.address.checked_add(offset);
                        let slot = gpa.and_then(|gpa| memslot::find(self.vm().memslots(), gpa));
                        !slot.is_some_and(|slot| is_the_guests(slot.used_for))
                    }
                    // Entries that mean nothing are nobody's.
                    Err(_) => true,
                };
                if is_alien && !space.has_device(gva) {
                    strays.insert(gva);
                }
            }
        }
        Ok(strays)
    }
}

const PAGE_LEN: usize = 4096;

/// A piece of a guest's address space.
type Piece = walk::Extent<Gva, Gpa, NoMemory>;

/// Whether a process may have it mapped without the driver's doing.
const fn is_the_guests(used_for: SlotUse) -> bool {
    matches!(used_for, SlotUse::Ram | SlotUse::MessageArea)
}

/// Every area, with the pages that have entries.
fn areas(space: &Space) -> impl Iterator<Item = (Mapping, Presence)> {
    space.areas().filter_map(|(gva, area)| {
        let Shows::File(pages) = &area.shows else {
            return None;
        };
        let entries = (0..).zip(&pages.entries);
        let present = entries.filter_map(|(page, there)| there.then_some(page));
        Some((whole(gva, area, pages), Presence::Only(present.collect())))
    })
}

/// An area as one mapping.
fn whole(gva: Gva, area: &Area, pages: &Pages) -> Mapping {
    Mapping {
        id: 0,
        spec: pages.spec(area),
        gva,
    }
}

/// The pages that the processor finds, each run of them as one mapping.
fn mapped(space: &Space) -> Vec<Mapping> {
    let mut all = Vec::new();
    for (gva, area) in space.areas().filter(|(_, area)| area.is_reachable()) {
        let Shows::File(pages) = &area.shows else {
            continue;
        };
        for run in runs(&pages.entries) {
            let mut mapping = whole(gva, area, pages);
            mapping.spec.file = pages.file_from(run.start);
            mapping.spec.first_page += run.start;
            mapping.spec.npages = run.end - run.start;
            // Within the area, which does not wrap.
            mapping.gva = Gva::new(gva.raw() + run.start * PAGE_SIZE);
            all.push(mapping);
        }
    }
    all
}

/// Runs of pages that have entries.
fn runs(entries: &[bool]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (page, _) in (0..).zip(entries).filter(|(_, there)| **there) {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end = page + 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_no_gap_and_leave_none_out() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[false, false]), []);
        assert_eq!(runs(&[true, true, false, true]), [0..2, 3..4]);
        assert_eq!(runs(&[false, true, false, true]), [1..2, 3..4]);
    }
}
