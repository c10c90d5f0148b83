//! What a load or a store runs into, and what it brings in.

use addr::{Gva, PAGE_SIZE};
use contract::When;

use super::Device;
use super::space::{HUGE_NPAGES, Shows, Space};
use crate::mapping::Mapping;

/// What a load or store runs into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// The page with this number in its area, which has an entry now.
    Page(u64),
    /// No area.
    Nothing,
    /// An area that does not allow it.
    Denied,
    /// A page that the file does not give.
    NoPage,
    /// A page that may come in with others or alone.
    Unclear,
}

impl Space {
    /// A load or store: `do_user_addr_fault` of arch/x86/mm/fault.c where there is no
    /// entry, then `do_fault` of mm/memory.c. Of what is revoked no page comes in.
    pub(super) fn touch(&mut self, device: &Device, gva: Gva, is_store: bool) -> Touch {
        let Some((start, area)) = self.area_at(gva) else {
            return Touch::Nothing;
        };
        let page = (gva.raw() - start.raw()) / PAGE_SIZE;
        // x86 has no page that may be stored to or run but not loaded from.
        let allowed = if is_store {
            area.prot.write
        } else {
            area.is_reachable()
        };
        if !allowed {
            return Touch::Denied;
        }
        let Shows::File(pages) = &area.shows else {
            // Memory that comes where addresses were only taken is nobody's.
            return Touch::Unclear;
        };
        if pages.has(page) {
            return Touch::Page(page);
        }
        let shown = pages.file.shown(pages.first_page, page);
        let is_given = shown.is_some_and(|shown| shown.range.present != When::AtMmap);
        if !is_given || pages.gone || device.is_revoked(&pages.file) {
            return Touch::NoPage;
        }
        // The area is the vma of the fault: nothing is brought in beyond it.
        let mapping = Mapping {
            id: 0,
            spec: pages.spec(area),
            gva: start,
        };
        let mut there = mapping.brought_in(&device.plan, page);
        let mut is_huge = there.end - there.start == HUGE_NPAGES
            && shown.is_some_and(|shown| shown.range.present == When::OnTouchHuge);
        if is_huge && pages.moved {
            // Where there is a page table none of 2 MiB is tried (`__handle_mm_fault`).
            if !there.clone().any(|page| pages.has(page)) {
                return Touch::Unclear;
            }
            there = page..page + 1;
            is_huge = false;
        }
        if let Some(area) = self.area_mut(start.raw())
            && let Shows::File(pages) = &mut area.shows
        {
            if is_huge {
                pages.huge.insert(there.start);
            }
            there.for_each(|page| pages.set(page, true));
        }
        Touch::Page(page)
    }
}
