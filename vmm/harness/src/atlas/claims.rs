//! What must hold besides where addresses lead: conversions, the vmalloc area, and what
//! the kernel notes of the page.

use addr::{Gfn, Gpa, Gva, PAGE_SIZE};
use guest_kernel::{KernelView, PageView};
use wire::atlas::{Published, VMALLOC_NPAGES};

use super::Session;
use super::chart::Claim;
use super::look::{Part, page_of};
use crate::error::HarnessError;

/// Every conversion of the driver's kernel, done again from the kernel's own bases.
pub(super) fn conversions(view: &KernelView<'_>, published: &Published) -> Vec<Claim> {
    let gpa = view.direct_map_gpa(Gva::new(published.coherent));
    let page = gpa.and_then(|gpa| view.pfn_to_page(Gfn::containing(gpa)));
    let gfn = view.page_to_pfn(Gva::new(published.page));
    let of_pfn = view.pfn_to_page(Gfn::new(published.pfn));
    let address = gfn.and_then(Gfn::base).and_then(|gpa| view.direct_map(gpa));
    vec![
        claim("virt_to_phys", gpa.map(Gpa::raw), published.physical),
        claim("virt_to_page", page.map(Gva::raw), published.page),
        claim("page_to_pfn", gfn.map(Gfn::raw), published.pfn),
        claim("pfn_to_page", of_pfn.map(Gva::raw), published.page_of_pfn),
        claim(
            "page_address",
            address.map(Gva::raw),
            published.page_address,
        ),
    ]
}

/// A number that the host knows, or why it knows none, and the driver's.
fn claim(what: impl Into<String>, expected: Option<u64>, found: u64) -> Claim {
    let expected = expected.map_or_else(
        || "what is no such address at all".to_owned(),
        |expected| format!("{expected:#x}"),
    );
    Claim::new(what, expected, format!("{found:#x}"))
}

/// The vmalloc area: one stretch of addresses, and frames that are none.
pub(super) fn scattered(view: &KernelView<'_>, published: &Published) -> Vec<Claim> {
    let walk = |page| view.walk(page_of(published.vmalloc, page)).ok();
    let frames: Vec<Option<Gfn>> = (0..VMALLOC_NPAGES as u64)
        .map(|page| walk(page).map(|found| Gfn::containing(found.address)))
        .collect();
    let mut claims: Vec<Claim> = (0..)
        .zip(&frames)
        .zip(published.vmalloc_pages)
        .map(|((page, frame), given)| {
            let expected = frame.and_then(|gfn: Gfn| view.pfn_to_page(gfn));
            let what = format!("vmalloc_to_page of page {page}");
            claim(what, expected.map(Gva::raw), given)
        })
        .collect();
    let follows = |pair: &[Option<Gfn>]| match pair {
        [Some(first), Some(next)] => first.checked_add(1) == Some(*next),
        _ => false,
    };
    let all_there = frames.iter().all(Option::is_some);
    let one_run = frames.windows(2).all(follows);
    let start = Gva::new(published.vmalloc);
    let in_part = Part::Vmalloc.holds(view, start) && start.is_page_aligned();
    claims.push(Claim::new(
        "vmalloc: one stretch of addresses, frames that do not follow one another",
        "all mapped, scattered, whole pages of the vmalloc area",
        match (all_there, one_run, in_part) {
            (true, false, true) => "all mapped, scattered, whole pages of the vmalloc area",
            (false, ..) => "not all mapped",
            (_, true, _) => "one run of frames",
            (.., false) => "no whole pages of the vmalloc area",
        },
    ));
    let first_of_vmap = view.walk(Gva::new(published.vmap)).ok();
    claims.push(Claim::new(
        "vmap: its first page is the last of the vmalloc area",
        frames
            .last()
            .copied()
            .flatten()
            .map_or_else(text_none, text),
        first_of_vmap.map_or_else(text_none, |found| text(Gfn::containing(found.address))),
    ));
    claims
}

fn text(gfn: Gfn) -> String {
    format!("frame {:#x}", gfn.raw())
}

fn text_none() -> String {
    "nothing".to_owned()
}

/// What the kernel keeps of the page and of the area that shows it.
pub(super) fn kept(
    session: &Session,
    view: &KernelView<'_>,
    bus: Gpa,
) -> Result<Vec<Claim>, HarnessError> {
    let mut claims = page(view.page_of(Gfn::containing(bus))?.as_ref(), 1);
    let task = view.current()?;
    claims.push(Claim::new(
        "task_struct: the process whose tables CR3 names",
        session.pid,
        task.pid,
    ));
    let area = view.vma_of(&task, session.user)?;
    let end = session.user.checked_add(PAGE_SIZE);
    claims.push(Claim::new(
        "vm_area_struct of the page: start, end, offset",
        format!("{} {} 0", session.user, end.unwrap_or(session.user)),
        area.as_ref().map_or_else(text_none, |area| {
            format!("{} {} {}", area.start, area.end, area.pgoff)
        }),
    ));
    claims.push(Claim::new(
        "vm_area_struct of the page: flags",
        "shared, MIXEDMAP, DONTEXPAND, not PFNMAP, not IO",
        area.as_ref().map_or_else(text_none, |area| {
            let flags = &area.flags;
            let shared = flags.has("SHARED") && flags.has("MAYSHARE");
            let set = shared && flags.has("MIXEDMAP") && flags.has("DONTEXPAND");
            match set && !flags.has("PFNMAP") && !flags.has("IO") {
                true => "shared, MIXEDMAP, DONTEXPAND, not PFNMAP, not IO".to_owned(),
                false => flags.to_string(),
            }
        }),
    ));
    Ok(claims)
}

/// The page's own references: one of its allocation, and one of each of `tables` page
/// tables that show it to user space. Mappings of the kernel take none.
pub(super) fn page(page: Option<&PageView>, tables: u32) -> Vec<Claim> {
    let words = |refcount: i64, mapcount: u32| {
        format!("referenced {refcount} times, mapped by {mapcount} user entries")
    };
    let found = page.map_or_else(text_none, |page| {
        words(page.refcount.into(), page.mapcount())
    });
    let what = match tables {
        0 => "struct page without its user mapping: _refcount, _mapcount",
        _ => "struct page: _refcount, _mapcount",
    };
    vec![Claim::new(
        what,
        words(i64::from(tables) + 1, tables),
        found,
    )]
}
