//! Holding the addresses that a driver published against what the host reads itself,
//! while the driver stands at the device's doorbell.

use addr::{Gfn, Gpa, Gva, PAGE_SIZE};
use guest_kernel::{KernelView, PageView};
use wire::atlas::{Published, VMALLOC_NPAGES, VMAP_COHERENT_PAGE};

use super::Session;
use super::chart::{Chart, Claim, Frame, Name, ScatteredPage};
use crate::error::HarnessError;

/// Where user space ends with 4 levels of tables; with 5 it is higher.
const USER_END: u64 = 1 << 56;
/// The kernel's image, its modules and its fixed mappings: the last 2 GiB of addresses.
const TOP: u64 = 0xffff_ffff_8000_0000;

/// A part of the address space.
#[derive(Clone, Copy)]
enum Part {
    User,
    DirectMap,
    Vmalloc,
    Fixed,
}

impl Part {
    fn holds(self, view: &KernelView<'_>, gva: Gva) -> bool {
        let bases = view.bases();
        let (start, end) = match self {
            Self::User => (0, USER_END),
            Self::DirectMap => (bases.direct_map, bases.vmalloc),
            Self::Vmalloc => (bases.vmalloc, bases.vmemmap),
            Self::Fixed => (TOP, u64::MAX),
        };
        (start..end).contains(&gva.raw())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::User => "user space",
            Self::DirectMap => "the direct map",
            Self::Vmalloc => "the vmalloc area",
            Self::Fixed => "the fixed mappings",
        }
    }
}

/// Everything that can be said while all addresses are valid.
pub(super) fn chart(
    session: &Session,
    view: &KernelView<'_>,
    window: Gpa,
    bus: Gpa,
    published: &Published,
) -> Result<Chart, HarnessError> {
    let mut claims = conversions(view, published);
    claims.extend(scattered(view, published));
    claims.extend(kept(session, view, bus)?);
    claims.push(Claim::new(
        "the process that the driver serves",
        session.pid,
        published.pid,
    ));
    Ok(Chart {
        ram: ram(session, view, bus, published),
        device: device(session, view, window, published),
        vmalloc: (0..VMALLOC_NPAGES as u64)
            .map(|page| {
                let gva = page_of(published.vmalloc, page);
                let found = found(view, gva);
                ScatteredPage { gva, found }
            })
            .collect(),
        claims,
    })
}

/// The coherent page. Its truth is the device's: the bus address that the DMA engine
/// was given, at which data arrive.
fn ram(session: &Session, view: &KernelView<'_>, bus: Gpa, published: &Published) -> Frame {
    let walked = |kind, by, gva, part| walked(view, bus, kind, by, gva, part);
    let given = |kind, by, address| Name {
        kind,
        by,
        address,
        expected: bus.to_string(),
        found: "no table has a say".into(),
        agrees: address == bus.raw(),
    };
    Frame {
        what: "a page of RAM, coherent with the device",
        gpa: bus,
        names: vec![
            walked("user virtual", "mmap", session.user, Part::User),
            walked(
                "kernel logical",
                "dma_alloc_coherent",
                Gva::new(published.coherent),
                Part::DirectMap,
            ),
            walked(
                "kernel virtual",
                "vmap",
                page_of(published.vmap, VMAP_COHERENT_PAGE),
                Part::Vmalloc,
            ),
            walked(
                "kmap_local",
                "__kmap_local_page_prot",
                Gva::new(published.kmap_local),
                Part::Fixed,
            ),
            given("physical", "virt_to_phys", published.physical),
            given("bus", "dma_alloc_coherent", published.bus),
        ],
    }
}

/// The first page of the first window, which is where the host put it.
fn device(session: &Session, view: &KernelView<'_>, window: Gpa, published: &Published) -> Frame {
    let walked = |kind, by, gva, part| walked(view, window, kind, by, gva, part);
    Frame {
        what: "a page of the device",
        gpa: window,
        names: vec![
            walked("user virtual", "mmap", session.device, Part::User),
            walked(
                "kernel virtual",
                "ioremap",
                Gva::new(published.ioremap),
                Part::Vmalloc,
            ),
            Name {
                kind: "physical",
                by: "window table",
                address: published.ioremap_physical,
                expected: window.to_string(),
                found: "no table has a say".into(),
                agrees: published.ioremap_physical == window.raw(),
            },
        ],
    }
}

fn walked(
    view: &KernelView<'_>,
    frame: Gpa,
    kind: &'static str,
    by: &'static str,
    gva: Gva,
    part: Part,
) -> Name {
    let leads_there = view.walk(gva).is_ok_and(|found| found.address == frame);
    let mut found = found(view, gva);
    let in_part = part.holds(view, gva);
    if !in_part {
        found.push_str(&format!(", outside {}", part.name()));
    }
    Name {
        kind,
        by,
        address: gva.raw(),
        expected: frame.to_string(),
        found,
        agrees: leads_there && in_part,
    }
}

/// Where an address leads and how, in words.
fn found(view: &KernelView<'_>, gva: Gva) -> String {
    match view.walk(gva) {
        Ok(found) => {
            let letter = |is, letter| if is { letter } else { '-' };
            format!(
                "{} {}{}{} {}, {} page",
                found.address,
                letter(found.access.user, 'u'),
                letter(found.access.write, 'w'),
                letter(found.access.exec, 'x'),
                found.memory_type,
                size(found.page_bytes()),
            )
        }
        Err(error) => format!("nothing: {error}"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0x4000_0000.. => format!("{} GiB", bytes >> 30),
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

fn page_of(start: u64, page: u64) -> Gva {
    Gva::new(start.wrapping_add(page.wrapping_mul(PAGE_SIZE)))
}

/// Every conversion of the driver's kernel, done again from the kernel's own bases.
fn conversions(view: &KernelView<'_>, published: &Published) -> Vec<Claim> {
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
fn scattered(view: &KernelView<'_>, published: &Published) -> Vec<Claim> {
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
fn kept(session: &Session, view: &KernelView<'_>, bus: Gpa) -> Result<Vec<Claim>, HarnessError> {
    let mut claims = page_claims(view.page_of(Gfn::containing(bus))?.as_ref(), 1);
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
pub(super) fn page_claims(page: Option<&PageView>, tables: u32) -> Vec<Claim> {
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
