//! Buffers of RAM that driver, device and user space share.

use addr::{Gfn, Gpa, Gva, PAGE_SIZE};
use guest_kernel::KernelFacts;
use wire::{OpenMode, Prot, Sharing};
use witness::guest_walk::FrozenTables;

use super::{Caught, Trial};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::steps::{close, needed, open};

const EAGER: [&str; 4] = ["pages", "mappages", "prepare-pages", "prepare-mappages"];
const LAZY: [&str; 2] = ["pagefault", "prepare-pagefault"];
/// Where in a page a process stores.
const SLOT: u64 = 64;

/// Each page of a buffer's mapping is the page that the device was told of, and each
/// mapping holds it by one reference.
pub(super) fn trial(guest: &mut Guest, facts: &KernelFacts) -> Trial {
    let Some(pages) = device_pages(guest) else {
        return Ok(Some(Caught::rule(
            "the device's buffer table",
            "",
            "every page of its buffer",
            "some are missing",
        )));
    };
    for name in EAGER.into_iter().chain(LAZY) {
        let before = references(guest, facts, &pages)?;
        let gva = map(guest, name, pages.len() as u64)?;
        let at_first = if LAZY.contains(&name) { None } else { Some(()) };
        let wanted: Vec<_> = pages.iter().map(|page| at_first.map(|()| *page)).collect();
        if let found @ Some(_) = walked(guest, name, gva, &wanted, "before touch")? {
            return Ok(found);
        }
        if let found @ Some(_) = used(guest, name, gva, &pages)? {
            return Ok(found);
        }
        let there: Vec<_> = pages.iter().copied().map(Some).collect();
        if let found @ Some(_) = walked(guest, name, gva, &there, "in use")? {
            return Ok(found);
        }
        let one_more: Vec<_> = before.iter().map(|count| count + 1).collect();
        if let found @ Some(_) = held(guest, facts, &pages, &one_more, name, "mapped")? {
            return Ok(found);
        }
        let answer = guest.munmap(gva, pages.len() as u64 * PAGE_SIZE)?;
        needed(|| format!("munmap of {name}"), answer)?;
        let nothing = vec![None; pages.len()];
        if let found @ Some(_) = walked(guest, name, gva, &nothing, "after munmap")? {
            return Ok(found);
        }
        if let found @ Some(_) = held(guest, facts, &pages, &before, name, "after munmap")? {
            return Ok(found);
        }
    }
    outlives(guest, facts)
}

/// What the device was told of its first buffer.
fn device_pages(guest: &Guest) -> Option<Vec<Gpa>> {
    let buffers = guest.vm().buffers();
    let pages: Option<Vec<Gpa>> = buffers.first()?.pages.iter().copied().collect();
    pages.filter(|pages| !pages.is_empty())
}

fn map(guest: &mut Guest, name: &str, npages: u64) -> Result<Gva, HarnessError> {
    let path = format!("/dev/mapwitness-{name}0");
    let fd = open(guest, &path, OpenMode::ReadWrite)?;
    let len_bytes = npages * PAGE_SIZE;
    let answer = guest.mmap(fd, 0, len_bytes, Prot::READ_WRITE, Sharing::Shared)?;
    close(guest, fd)?;
    needed(|| format!("mmap of {path}"), answer)
}

/// Words of the host's reach the process, and the process's the host.
fn used(guest: &mut Guest, name: &str, gva: Gva, pages: &[Gpa]) -> Trial {
    let mut words = Vec::new();
    for (number, gpa) in (0x5eed_0000_u64..).zip(pages) {
        guest.vm_mut().write(*gpa, &number.to_le_bytes())?;
        words.push(number);
    }
    let wrong = |what: &str, expected: &[u64], found: String| {
        let place = format!("{name}: {what}");
        Some(Caught::rule(
            "stamp",
            place,
            format!("{expected:x?}"),
            found,
        ))
    };
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    match guest.load(gva, PAGE_SIZE, count)? {
        Ok(found) if found == words => {}
        Ok(found) => return Ok(wrong("loads", &words, format!("{found:x?}"))),
        Err(refusal) => return Ok(wrong("loads", &words, refusal.to_string())),
    }
    let stored: Vec<u64> = words.iter().map(|word| !word).collect();
    let at = Gva::new(gva.raw() + SLOT);
    if let Err(refusal) = guest.store(at, PAGE_SIZE, stored.clone())? {
        return Ok(wrong("stores", &stored, refusal.to_string()));
    }
    let mut arrived = Vec::new();
    for gpa in pages {
        arrived.push(guest.vm().read_u64(Gpa::new(gpa.raw() + SLOT))?);
    }
    if arrived != stored {
        return Ok(wrong("stores", &stored, format!("{arrived:x?}")));
    }
    Ok(None)
}

fn walked(guest: &Guest, name: &str, gva: Gva, wanted: &[Option<Gpa>], place: &str) -> Trial {
    if guest.sees_data_alone() {
        return Ok(None);
    }
    let tables = FrozenTables::of(guest.vm())?;
    for (page, wanted) in (0..).zip(wanted) {
        let walked = tables.walk(Gva::new(gva.raw() + page * PAGE_SIZE));
        let found = walked.as_ref().ok().map(|found| found.address);
        if found != *wanted {
            let word =
                |gpa: Option<Gpa>| gpa.map_or("nothing mapped".into(), |gpa| gpa.to_string());
            return Ok(Some(Caught::rule(
                "guest-walk",
                format!("{name}, {place}, page {page}"),
                word(*wanted),
                word(found),
            )));
        }
    }
    Ok(None)
}

/// `_refcount` of each page's `struct page`.
fn references(guest: &Guest, facts: &KernelFacts, pages: &[Gpa]) -> Result<Vec<i32>, HarnessError> {
    if guest.sees_data_alone() {
        return Ok(Vec::new());
    }
    let view = guest.kernel(facts)?;
    let mut counts = Vec::new();
    for gpa in pages {
        let page = view.page_of(Gfn::containing(*gpa))?;
        counts.push(page.map_or(0, |page| page.refcount));
    }
    Ok(counts)
}

fn held(
    guest: &Guest,
    facts: &KernelFacts,
    pages: &[Gpa],
    wanted: &[i32],
    name: &str,
    place: &str,
) -> Trial {
    let found = references(guest, facts, pages)?;
    Ok((found != wanted).then(|| {
        let (expected, found) = (format!("{wanted:?}"), format!("{found:?}"));
        Caught::rule(
            "page references",
            format!("{name}, {place}"),
            expected,
            found,
        )
    }))
}

/// A mapping keeps its pages when the driver goes, whatever becomes of others, and they
/// go with it.
fn outlives(guest: &mut Guest, facts: &KernelFacts) -> Trial {
    use super::lifetime::write;
    for name in ["pages", "prepare-pagefault"] {
        let Some(pages) = device_pages(guest) else {
            continue;
        };
        let gva = map(guest, name, pages.len() as u64)?;
        if let found @ Some(_) = used(guest, name, gva, &pages)? {
            return Ok(found);
        }
        let device = "MAPW0001:00";
        write(guest, "/sys/bus/platform/drivers/mapwitness/unbind", device)?;
        write(guest, "/sys/bus/platform/drivers/mapwitness/bind", device)?;
        if let found @ Some(_) = used(guest, name, gva, &pages)? {
            return Ok(found);
        }
        let answer = guest.munmap(gva, pages.len() as u64 * PAGE_SIZE)?;
        needed(|| format!("munmap of {name}"), answer)?;
        if let found @ Some(_) = freed(guest, facts, &pages, name)? {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Nobody holds the pages of a driver that is gone once their last mapping is. Some may
/// serve others by now; that all of them still do what they did is no such chance.
fn freed(guest: &Guest, facts: &KernelFacts, pages: &[Gpa], name: &str) -> Trial {
    let counts = references(guest, facts, pages)?;
    let mut kept = !counts.is_empty() && counts.iter().all(|count| *count > 0);
    for (number, gpa) in (0x5eed_0000_u64..).zip(pages) {
        kept &= guest.vm().read_u64(Gpa::new(gpa.raw() + SLOT))? == !number;
    }
    Ok(kept.then(|| {
        Caught::rule(
            "page references",
            format!("{name}, after unbind and munmap"),
            "its pages are free",
            format!("{counts:?}"),
        )
    }))
}
