//! What an entry must be at any moment.

use addr::{Gfn, Level, PAGE_SIZE, Pfn};
use walk::Mapped;

use super::entries::pages_of;
use super::{MOST_FINDINGS, Replay, Stretch};
use crate::contract::{DevicePage, WindowPlan};
use crate::timeline::Finding;

impl Replay {
    /// An entry must lead each page to the frame that the host gave to it, and take
    /// stores only where the window does.
    pub(super) fn judge(&mut self, order: u64, gfn: Gfn, new: &Mapped, stretch: &Stretch<'_>) {
        let npages = pages_of(new);
        let window = self.window_under(gfn, new.level.number());
        let within = window.filter(|index| self.covers(*index, gfn, npages));
        let Some(window) = within else {
            let page = DevicePage {
                window: window.unwrap_or(0),
                page: 0,
            };
            let found = format!("{npages} from gfn {gfn}, to hpa {}", new.address);
            self.find(order, page, "pages of one window".into(), found);
            return;
        };
        let read_only = self
            .plan
            .windows
            .get(window)
            .is_some_and(|window| window.read_only);
        for offset in 0..npages {
            let place = gfn.checked_add(offset).and_then(Gfn::base);
            let pfn = Pfn::containing(new.address).checked_add(offset);
            let (Some(page), Some(pfn)) = (place.and_then(|gpa| self.plan.page_at(gpa)), pfn)
            else {
                continue;
            };
            if !stretch.gave(page, pfn) {
                self.wrong_frame(order, page, pfn, stretch);
            } else if read_only && new.write {
                let expected = "no stores through a read-only window".into();
                self.find(order, page, expected, "an entry that takes them".into());
            }
        }
    }

    fn wrong_frame(&mut self, order: u64, page: DevicePage, pfn: Pfn, stretch: &Stretch<'_>) {
        let name = self.plan.name(page);
        let Some(own) = stretch
            .after
            .frames
            .get(page)
            .filter(|_| stretch.is_still())
        else {
            self.cannot_tell(format!(
                "an entry led {name} to pfn {pfn} while the host was moving pages"
            ));
            return;
        };
        let expected = format!("pfn {own}, the frame of {name}");
        self.find(
            order,
            page,
            expected,
            format!("an entry that leads to pfn {pfn}"),
        );
    }

    pub(super) fn find(&mut self, order: u64, page: DevicePage, expected: String, found: String) {
        let name = self.plan.name(page);
        let line = format!("WRONG #{order} {name}: expected {expected}; found {found}");
        self.course.remark(line, &self.plan);
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding {
                phase: self.phase.clone(),
                order,
                name,
                page,
                expected,
                found,
            });
        }
    }

    /// The first window of which an entry covers a page.
    pub(super) fn window_under(&self, gfn: Gfn, level: u8) -> Option<usize> {
        let bytes = Level::numbered(level)?.bytes();
        let start = gfn.base()?.raw();
        let end = start.saturating_add(bytes);
        self.plan.windows.iter().position(|window| {
            let base = window.base.raw();
            base < end && start < base.saturating_add(window.npages.saturating_mul(PAGE_SIZE))
        })
    }

    /// Whether a frame is the one after a window, where nothing may be.
    pub(super) fn is_past_a_window(&self, gfn: Gfn) -> bool {
        let past = |window: &WindowPlan| {
            let len_bytes = window.npages.checked_mul(PAGE_SIZE)?;
            Some(Gfn::containing(window.base.checked_add(len_bytes)?))
        };
        let is_device_page = gfn
            .base()
            .is_some_and(|gpa| self.plan.page_at(gpa).is_some());
        !is_device_page
            && self
                .plan
                .windows
                .iter()
                .any(|window| past(window) == Some(gfn))
    }

    fn covers(&self, window: usize, gfn: Gfn, npages: u64) -> bool {
        let found = self.plan.windows.get(window).zip(gfn.base());
        found.is_some_and(|(window, gpa)| {
            gpa.checked_offset_from(window.base)
                .and_then(|bytes| (bytes / PAGE_SIZE).checked_add(npages))
                .is_some_and(|end| end <= window.npages)
        })
    }
}
