//! Has KVM grant stores for many pages at once.

use std::collections::BTreeMap;

use addr::PAGE_SIZE;
use witness::DevicePage;
use witness::second_level::LiveTables;

use crate::guest::Guest;
use crate::mapping::Mapping;

/// Pages of a mapping from which on the call takes less time than it spares.
const MANY: u64 = 64;

/// Pages of a window: the first and the last.
type Span = (u64, u64);

impl Guest {
    /// Has KVM grant the guest's stores to the pages of windows that large ones of these
    /// mappings show. Where KVM notes which pages are stored to, it withholds the right to,
    /// and each first store is an exit that takes many times as long as a page takes here.
    ///
    /// A matter of time alone: pages for which KVM does not do so are stored to all the same.
    pub(crate) fn grant_stores<'m>(&self, mappings: impl Iterator<Item = &'m Mapping>) {
        if !self.vm().notes_stores() || !self.vm().can_prefault() {
            return;
        }
        let spans = self.spans(mappings.filter(|mapping| mapping.spec.npages >= MANY));
        // With a root that was retired, Linux 6.12 would not come to an end.
        if spans.is_empty() || LiveTables::of(self.vm()).is_err() {
            return;
        }
        for (window, (first, last)) in spans {
            let start = DevicePage {
                window,
                page: first,
            };
            if let Some(gpa) = self.plan().gpa(start) {
                let npages = last.saturating_sub(first).saturating_add(1);
                let _ = self.vm().prefault(gpa, npages.saturating_mul(PAGE_SIZE));
            }
        }
    }

    /// What the mappings show of each window, with what lies between.
    fn spans<'m>(&self, mappings: impl Iterator<Item = &'m Mapping>) -> BTreeMap<usize, Span> {
        let mut spans: BTreeMap<usize, Span> = BTreeMap::new();
        let pages = mappings.flat_map(|mapping| mapping.spec.device_pages(self.plan()));
        for DevicePage { window, page } in pages.flatten() {
            let (first, last) = spans.entry(window).or_insert((page, page));
            *first = page.min(*first);
            *last = page.max(*last);
        }
        let windows = self.plan().windows.len();
        spans.retain(|window, _| *window < windows);
        spans
    }
}
