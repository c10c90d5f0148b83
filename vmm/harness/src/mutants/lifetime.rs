//! Memory that is taken away from its mappings, and given back.

use addr::PAGE_SIZE;
use contract::When;
use wire::ioctls::{CONTROL_PATH, RESTORE, REVOKE, Target};
use wire::{OpenMode, Prot, Reply, Request, Sharing, Value};

use super::files::{BASE, WINDOW};
use super::trials::{in_use, mapped, only, spec, unmapped};
use super::{Caught, Trial};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::Mapping;
use crate::outcome::Refusal;
use crate::steps::{close, needed, open};

/// The device's name on its bus.
const DEVICE: &str = "MAPW0001:00";

/// Revokes and restores a window, then takes the device away from its driver; with
/// mappings by all kinds of files at once, in two processes.
pub(super) fn trial(guest: &mut Guest) -> Trial {
    let mappings = all_in_use(guest)?;
    if let found @ Some(_) = revoke(guest, &mappings)? {
        return Ok(found);
    }
    if let found @ Some(_) = restore(guest, &mappings)? {
        return Ok(found);
    }
    for mapping in &mappings {
        unmapped(guest, mapping)?;
    }
    let mappings = all_in_use(guest)?;
    write(guest, "/sys/bus/platform/drivers/mapwitness/unbind", DEVICE)?;
    if let found @ Some(_) = gone(guest, &mappings, "after the driver was unbound")? {
        return Ok(found);
    }
    let kept = guest.vm().buffers().into_iter().any(|buffer| {
        let mut pages = buffer.pages.into_iter();
        pages.any(|page| page.is_some())
    });
    if kept && !guest.sees_data_alone() {
        return Ok(Some(Caught::rule(
            "the device's buffer table",
            "after the driver was unbound",
            "no page",
            "pages of a buffer",
        )));
    }
    write(guest, "/sys/bus/platform/drivers/mapwitness/bind", DEVICE)?;
    if let found @ Some(_) = gone(guest, &mappings, "after the driver was bound again")? {
        return Ok(found);
    }
    for mapping in &mappings {
        unmapped(guest, mapping)?;
    }
    for mapping in all_in_use(guest)? {
        unmapped(guest, &mapping)?;
    }
    Ok(None)
}

/// A mapping by each kind of file, each used once.
fn all_in_use(guest: &mut Guest) -> Result<Vec<Mapping>, HarnessError> {
    let mut mappings = Vec::new();
    for strategy in BASE {
        if let Some(spec) = spec(guest, strategy, WINDOW) {
            let mapping = mapped(guest, &spec)?;
            // What is wrong with it was found by other trials.
            guest.witness_in_use(&mapping)?;
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

fn revoke(guest: &mut Guest, mappings: &[Mapping]) -> Trial {
    needed(|| "fork".into(), guest.fork()?)?;
    for mapping in mappings {
        guest.witness_in_use(mapping)?;
    }
    control(guest, REVOKE)?;
    if let found @ Some(_) = gone(guest, mappings, "revoked, in a child")? {
        return Ok(found);
    }
    needed(|| "the child's exit".into(), guest.exit_child(0)?)?;
    if let found @ Some(_) = gone(guest, mappings, "revoked")? {
        return Ok(found);
    }
    for mapping in mappings {
        let path = &mapping.spec.file.path;
        let fd = open(guest, path, OpenMode::ReadWrite)?;
        let answer = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ, Sharing::Shared)?;
        close(guest, fd)?;
        let expected = Refusal::Errno(libc::ENXIO);
        if answer != Err(expected) {
            let found = match answer {
                Ok(gva) => format!("mapped at {gva}"),
                Err(refusal) => refusal.to_string(),
            };
            let place = format!("mmap of {path}, revoked");
            return Ok(Some(Caught::rule(
                "answer",
                place,
                expected.to_string(),
                found,
            )));
        }
    }
    Ok(None)
}

fn restore(guest: &mut Guest, mappings: &[Mapping]) -> Trial {
    control(guest, RESTORE)?;
    for mapping in mappings {
        let range = mapping.spec.file.ranges.first();
        let is_lazy = range.is_some_and(|range| range.present == When::OnTouch);
        let found = if is_lazy {
            in_use(guest, mapping, "restored")?
        } else {
            gone(guest, std::slice::from_ref(mapping), "restored")?
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Nothing is there, and no touch brings anything in.
fn gone(guest: &mut Guest, mappings: &[Mapping], place: &str) -> Trial {
    for mapping in mappings {
        if let found @ Some(_) = only(guest, mapping, [], place)? {
            return Ok(found);
        }
        for page in [0, mapping.spec.npages / 2, mapping.spec.npages - 1] {
            let Some(gva) = mapping.page_gva(page) else {
                continue;
            };
            let load = guest.load(gva, PAGE_SIZE, 1)?;
            let is_bus_error = matches!(
                load,
                Err(Refusal::Signal(signal)) if signal.number == libc::SIGBUS
            );
            if !is_bus_error {
                let found = match load {
                    Ok(words) => format!("a load of {words:#x?}"),
                    Err(refusal) => refusal.to_string(),
                };
                let place = format!("{}, page {page}, {place}", mapping.spec.file.name);
                return Ok(Some(Caught::rule("signal", place, "SIGBUS", found)));
            }
        }
    }
    Ok(None)
}

/// An ioctl of the driver's control file, on the window.
fn control(guest: &mut Guest, command: u32) -> Result<(), HarnessError> {
    let windows = &guest.plan().windows;
    let index = windows.iter().position(|one| one.name == WINDOW);
    let target = Target {
        is_buffer: false,
        index: index
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(u32::MAX),
    };
    let fd = open(guest, CONTROL_PATH, OpenMode::ReadWrite)?;
    let answer = guest.ioctl(fd, command, target.to_bytes().to_vec())?;
    close(guest, fd)?;
    needed(|| format!("ioctl {command:#x}"), answer).map(drop)
}

/// Writes to a file of the guest.
pub(super) fn write(guest: &mut Guest, path: &str, text: &str) -> Result<(), HarnessError> {
    let fd = open(guest, path, OpenMode::WriteOnly)?;
    let request = Request::Write {
        fd,
        offset_bytes: 0,
        bytes: text.as_bytes().to_vec(),
    };
    let reply = guest.request(&request)?;
    close(guest, fd)?;
    match reply {
        Reply::Done(Value::Len(_)) => Ok(()),
        Reply::Errno(errno) => Err(HarnessError::Refused {
            operation: format!("writing to {path}"),
            refusal: Refusal::Errno(errno),
        }),
        reply => Err(HarnessError::Mismatched {
            request: format!("{request:?}"),
            reply: Box::new(reply),
        }),
    }
}
