//! Holding the addresses that a driver published against what the host reads itself,
//! while the driver stands at the device's doorbell.

use addr::{Gpa, Gva, PAGE_SIZE};
use guest_kernel::KernelView;
use wire::atlas::{Published, VMALLOC_NPAGES, VMAP_COHERENT_PAGE};

use super::chart::{Chart, Claim, Frame, Name, ScatteredPage};
use super::{Session, below, claims};
use crate::error::HarnessError;
use crate::guest::Guest;

/// Where user space ends with 4 levels of tables; with 5 it is higher.
const USER_END: u64 = 1 << 56;
/// The kernel's image, its modules and its fixed mappings: the last 2 GiB of addresses.
const TOP: u64 = 0xffff_ffff_8000_0000;

/// A part of the address space.
#[derive(Clone, Copy)]
pub(super) enum Part {
    User,
    DirectMap,
    Vmalloc,
    Fixed,
}

impl Part {
    pub(super) fn holds(self, view: &KernelView<'_>, gva: Gva) -> bool {
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
    guest: &Guest,
    view: &KernelView<'_>,
    window: Gpa,
    bus: Gpa,
    published: &Published,
) -> Result<Chart, HarnessError> {
    let mut claims = claims::conversions(view, published);
    claims.extend(claims::scattered(view, published));
    claims.extend(claims::kept(session, view, bus)?);
    claims.push(Claim::new(
        "the process that the driver serves",
        session.pid,
        published.pid,
    ));
    Ok(Chart {
        ram: Frame {
            what: "a page of RAM, coherent with the device",
            gpa: bus,
            names: ram(session, view, bus, published),
            below: below::look(guest.vm(), bus),
        },
        device: Frame {
            what: "a page of the device",
            gpa: window,
            names: device(session, view, window, published),
            below: below::look(guest.vm(), window),
        },
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
fn ram(session: &Session, view: &KernelView<'_>, bus: Gpa, published: &Published) -> Vec<Name> {
    let walked = |kind, by, gva, part| walked(view, bus, kind, by, gva, part);
    let given = |kind, by, address| Name {
        kind,
        by,
        address,
        expected: bus.to_string(),
        found: "no table has a say".into(),
        agrees: address == bus.raw(),
    };
    vec![
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
    ]
}

/// The first page of the first window, which is where the host put it.
fn device(
    session: &Session,
    view: &KernelView<'_>,
    window: Gpa,
    published: &Published,
) -> Vec<Name> {
    let walked = |kind, by, gva, part| walked(view, window, kind, by, gva, part);
    vec![
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
    ]
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

pub(super) fn page_of(start: u64, page: u64) -> Gva {
    Gva::new(start.wrapping_add(page.wrapping_mul(PAGE_SIZE)))
}
