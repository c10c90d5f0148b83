//! Whether the records account for everything.

use std::collections::BTreeSet;

use addr::{Gfn, Pfn};
use timeline::Loss;
use walk::Mapped;

use super::entries::pages_of;
use super::{InTables, Key, Replay};
use crate::contract::DevicePage;

impl Replay {
    /// Whether the tables, as far as `found` has them, are what the records add up to.
    pub fn agrees(&self, found: &[InTables]) -> bool {
        found.iter().all(|one| self.accounts_for(one))
    }

    /// Holds the tables against what the records add up to.
    pub fn reconcile(&mut self, found: &[InTables]) {
        let agree = self.agrees(found);
        self.tables_agree = Some(self.tables_agree.unwrap_or(true) && agree);
        for one in found {
            if self.accounts_for(one) {
                continue;
            }
            let nothing = || "nothing".to_owned();
            let frames = self.frames_of(one.page);
            let frames: Vec<_> = frames.iter().map(|pfn| format!("pfn {pfn}")).collect();
            self.cannot_tell(format!(
                "the tables have {} for {}, the records add up to {}",
                one.pfn.map_or_else(nothing, |pfn| format!("pfn {pfn}")),
                self.plan.name(one.page),
                if frames.is_empty() {
                    nothing()
                } else {
                    frames.join(" and ")
                },
            ));
        }
    }

    /// Nothing may be left of these windows: their memory was withdrawn. `found` has
    /// every page as the tables have it, where these can be read.
    pub fn nothing_left(&mut self, windows: &BTreeSet<usize>, found: Option<&[InTables]>) {
        let withdrawn = |page: DevicePage| windows.contains(&page.window);
        let in_tables = found.into_iter().flatten();
        let left: Vec<_> = in_tables
            .filter(|one| withdrawn(one.page))
            .filter_map(|one| Some((one.page, one.pfn?)))
            .collect();
        for (page, pfn) in left {
            let expected = "no entry, after the memory was withdrawn".into();
            self.find(
                0,
                page,
                expected,
                format!("an entry that leads to pfn {pfn}"),
            );
        }
        let known = self.entries.keys().filter(|(_, level, gfn)| {
            let window = self.window_under(*gfn, *level);
            window.is_some_and(|window| windows.contains(&window))
        });
        let count = known.count();
        self.left = count as u64;
        if found.is_none() && count > 0 {
            self.cannot_tell(format!("{count} entries of whose end there is no record"));
        }
    }

    /// Holds the records against a use of every one of `pages` by the guest, which
    /// cannot have been without an entry.
    pub fn used(&mut self, pages: impl Iterator<Item = DevicePage>) {
        for page in pages {
            if self.frames_of(page).is_empty() {
                let name = self.plan.name(page);
                self.cannot_tell(format!(
                    "the guest used {name}, and no record tells of its entry"
                ));
            }
        }
    }

    fn accounts_for(&self, found: &InTables) -> bool {
        let recorded = self.frames_of(found.page);
        match &found.pfn {
            Some(pfn) => recorded.contains(pfn),
            None => recorded.is_empty(),
        }
    }

    /// Frames that the recorded entries give to a page.
    fn frames_of(&self, page: DevicePage) -> Vec<Pfn> {
        let Some(gfn) = self.plan.gpa(page).map(Gfn::containing) else {
            return Vec::new();
        };
        let covering = |((_, _, first), found): (&Key, &Vec<Mapped>)| {
            let offset = gfn.raw().checked_sub(first.raw())?;
            let frames = found
                .iter()
                .filter(move |mapped| offset < pages_of(mapped))
                .filter_map(move |mapped| Pfn::containing(mapped.address).checked_add(offset));
            Some(frames.collect::<Vec<_>>())
        };
        self.entries.iter().filter_map(covering).flatten().collect()
    }
}

/// How many records a loss is known to be.
pub(super) fn number(loss: &Loss) -> u64 {
    match loss {
        Loss::Overwritten { records, .. }
        | Loss::Dropped { records, .. }
        | Loss::NotKept { records } => *records,
        // Counted by the others, or not at all.
        Loss::Marked { .. }
        | Loss::Unreadable { .. }
        | Loss::Miscounted { .. }
        | Loss::Unread { .. } => 0,
    }
}
