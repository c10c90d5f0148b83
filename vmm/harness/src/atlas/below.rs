//! Below the guest: the host's memory behind a frame, and the entry by which the
//! processor gets there.

use addr::{Gpa, Hva, Pfn};
use monitor::Vm;
use serde::Serialize;
use witness::host_frame::{self, Frame as HostFrame, FrameError, Pagemap};
use witness::memslot;
use witness::second_level::{LiveTables, chain};

/// What is under a frame of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Below {
    /// Where this process has it, by its table of memslots.
    pub hva: String,
    /// The frame of the host, by pagemap.
    pub host_frame: String,
    /// The frame of the host, by the live second-level tables.
    pub second_level: String,
    /// Whether the two are one; `None` where either could not be read.
    pub agrees: Option<bool>,
}

/// Looks under `gpa`.
pub(super) fn look(vm: &Vm, gpa: Gpa) -> Below {
    let Some(hit) = memslot::find(vm.memslots(), gpa) else {
        return Below {
            hva: "no memslot backs it".into(),
            host_frame: String::new(),
            second_level: String::new(),
            agrees: Some(false),
        };
    };
    let (mapped, entry) = frames(vm, gpa, hit.hva);
    let text = |frame: &Result<Pfn, String>| match frame {
        Ok(pfn) => format!("host frame {:#x}", pfn.raw()),
        Err(reason) => reason.clone(),
    };
    Below {
        hva: hit.hva.to_string(),
        host_frame: text(&mapped),
        second_level: text(&entry),
        agrees: mapped
            .ok()
            .zip(entry.ok())
            .map(|(mapped, entry)| mapped == entry),
    }
}

/// The frame by pagemap and the frame by the second level, at one moment.
fn frames(vm: &Vm, gpa: Gpa, hva: Hva) -> (Result<Pfn, String>, Result<Pfn, String>) {
    let pagemap = match Pagemap::open() {
        Ok(pagemap) => pagemap,
        Err(error) => return (Err(chain(&error)), Err("not asked".into())),
    };
    let tables = match LiveTables::of(vm) {
        Ok(tables) => tables,
        Err(error) => return (pagemap.pfn(hva).map_err(|e| chain(&e)), Err(chain(&error))),
    };
    let by_entry = || -> HostFrame {
        tables.reread();
        let walked = tables.page(gpa).map(|entry| entry.walked);
        match walked {
            Ok(Ok(found)) => Ok(Pfn::containing(found.address)),
            // Neither a move nor an absence differs from this for whoever compares.
            _ => Err(FrameError::NotPresent { hva, entry: 0 }),
        }
    };
    let access = || {
        // Only a page that moves is looked at again, and this waits for its move.
        let _ = vm.read_u64(gpa);
    };
    let (mapped, entry) = host_frame::at_one_moment(|| pagemap.pfn(hva), by_entry, access);
    let heard = |frame: HostFrame| frame.map_err(|error| chain(&error));
    let entry = match entry {
        Err(FrameError::NotPresent { .. }) => Err("the second level has no entry".to_owned()),
        other => heard(other),
    };
    (heard(mapped), entry)
}
