//! Buffers of RAM that driver, device and user space share.

use std::sync::Arc;

use addr::{Gpa, Gva, PAGE_SIZE};
use contract::FileContract;
use guest_kernel::KernelFacts;
use wire::{OpenMode, Prot, Sharing};

use super::trials::followed;
use super::{Caught, Trial, areas};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::own_driver::BUFFER_STRATEGIES;
use crate::promises::{check_references, page_references};
use crate::report::Verdict;
use crate::steps::{close, needed, open};

/// Where in a page a process stores.
const SLOT: u64 = 64;

/// The files of the driver's first buffer.
pub(super) fn files(guest: &Guest) -> Vec<Arc<FileContract>> {
    let plan = guest.plan();
    let file = |strategy: crate::Strategy| strategy.buffer_file(plan, 0).map(Arc::new);
    BUFFER_STRATEGIES.into_iter().filter_map(file).collect()
}

/// Each page of a buffer's mapping is the page that the device was told of, and each
/// mapping holds it by one reference.
pub(super) fn trial(guest: &mut Guest, facts: &KernelFacts) -> Trial {
    if device_pages(guest).is_none() {
        return Ok(Some(Caught::rule(
            "the device's buffer table",
            "",
            "every page of its buffer",
            "some are missing",
        )));
    }
    for file in files(guest) {
        for promise in check_references(guest, facts, &file)? {
            if promise.verdict != Verdict::Pass {
                return Ok(Some(Caught::promise(&promise)));
            }
        }
        if let found @ Some(_) = followed(guest, &file)? {
            return Ok(found);
        }
    }
    let files = files(guest);
    if let found @ Some(_) = areas::flags_of(guest, facts, &files)? {
        return Ok(found);
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
    let counts = if guest.sees_data_alone() {
        Vec::new()
    } else {
        page_references(guest, facts, pages)?
    };
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
