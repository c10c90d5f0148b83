//! What each record does to the entries that are known.

use addr::{Gpa, Level, PAGE_SIZE, Pfn};
use walk::Mapped;

use super::{Key, Replay, Stretch};
use crate::timeline::Reached;
use crate::timeline::lines::{REACHES, SETS, Who};

impl Replay {
    pub(super) fn fault(&mut self, order: u64, who: Who, gpa: Gpa) {
        self.counts.events += 1;
        let Some(page) = self.plan.page_at(gpa) else {
            return;
        };
        self.counts.faults += 1;
        self.course.add(order, who, REACHES, page, &self.plan);
        if !self.seen.insert(page) {
            return;
        }
        match self.reached.last_mut() {
            Some(last) if last.phase == self.phase => last.pages += 1,
            _ => self.reached.push(Reached {
                phase: self.phase.clone(),
                pages: 1,
            }),
        }
    }

    /// An entry was given more rights in place: the frame stays what it was.
    pub(super) fn widened(&mut self, order: u64, who: Who, gpa: Gpa, (old, new): (u64, u64)) {
        self.counts.events += 1;
        let Some(page) = self.plan.page_at(gpa) else {
            return;
        };
        if old == new {
            return;
        }
        self.counts.changed += 1;
        self.course.add(order, who, "widens", page, &self.plan);
        // The record does not tell the level; the right to store stands in one place
        // at each of them.
        let mapped = self.format.maps(Level::Pte, new);
        let read_only = self
            .plan
            .windows
            .get(page.window)
            .is_some_and(|window| window.read_only);
        if read_only && mapped.is_some_and(|mapped| mapped.write) {
            let expected = "no stores through a read-only window".into();
            self.find(
                order,
                page,
                expected,
                format!("an entry that takes them ({new:#x})"),
            );
        }
    }

    pub(super) fn changed(&mut self, order: u64, who: Who, change: &Change, stretch: &Stretch<'_>) {
        let (_, level, gfn) = change.key;
        if self.window_under(gfn, level).is_none() && !self.is_past_a_window(gfn) {
            self.counts.foreign += 1;
            return;
        }
        if !self.is_ours(who, change, stretch) {
            self.counts.foreign += 1;
            return;
        }
        self.counts.events += 1;
        if let Some(old) = &change.old {
            self.end(order, change, old);
        }
        let page = gfn.base().and_then(|gpa| self.plan.page_at(gpa));
        let what = match (&change.old, &change.new) {
            (None, None) => return,
            (None, Some(_)) => {
                self.counts.set += 1;
                match who {
                    Who::Guest => self.counts.set_by_guest += 1,
                    Who::Prefault => self.counts.set_by_host += 1,
                    Who::Thread(_) => {}
                }
                SETS
            }
            (Some(_), Some(_)) => {
                self.counts.changed += 1;
                "changes"
            }
            (Some(_), None) => {
                self.counts.zapped += 1;
                "zaps"
            }
        };
        if let Some(page) = page {
            self.course.add(order, who, what, page, &self.plan);
        }
        if let Some(new) = &change.new {
            self.entries.entry(change.key).or_default().push(*new);
            self.judge(order, gfn, new, stretch);
        }
    }

    /// Whether a record is about this VM.
    fn is_ours(&self, who: Who, change: &Change, stretch: &Stretch<'_>) -> bool {
        let leads_home = |mapped: &Mapped| stretch.owns(Pfn::containing(mapped.address));
        let is_known = |old: &Mapped| {
            let known = self.entries.get(&change.key);
            known.is_some_and(|known| known.iter().any(|one| one.address == old.address))
        };
        match who {
            Who::Guest | Who::Prefault => true,
            Who::Thread(_) => {
                change
                    .old
                    .as_ref()
                    .is_some_and(|old| is_known(old) || leads_home(old))
                    || change.new.as_ref().is_some_and(leads_home)
            }
        }
    }

    /// An entry that was there is so no longer, or no longer like that.
    fn end(&mut self, order: u64, change: &Change, old: &Mapped) {
        let known = self.entries.entry(change.key).or_default();
        let place = known.iter().position(|one| one.address == old.address);
        match place {
            Some(place) => drop(known.swap_remove(place)),
            None => {
                let (_, level, gfn) = change.key;
                let pfn = Pfn::containing(old.address);
                self.cannot_tell(format!(
                    "record #{order} ends an entry for gfn {gfn}, level {level}, pfn {pfn}, of \
                     whose beginning there is no record"
                ));
            }
        }
        self.entries.retain(|_, found| !found.is_empty());
    }
}

/// An entry's way from one value to another, as far as it maps.
pub(super) struct Change {
    pub key: Key,
    pub old: Option<Mapped>,
    pub new: Option<Mapped>,
}

pub(super) const fn pages_of(mapped: &Mapped) -> u64 {
    mapped.level.bytes() / PAGE_SIZE
}
