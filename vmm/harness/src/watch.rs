//! The timeline of a guest's mappings: KVM's records beside what the harness does.

use std::collections::BTreeSet;

use addr::{Gfn, Pfn};
use monitor::{Vm, VmError};
use second_level::Processor;
use timeline::{Options, Recorder};
use witness::host_frame::FrameError;
use witness::second_level::{LiveTables, chain};
use witness::timeline::{InTables, Ledger, Replay, Timeline};
use witness::{DevicePage, Expected, Link, Mismatch};

use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec, Presence};

/// Room for the records of one CPU in KiB. A use of the largest standard window leaves
/// some 250 KiB, and the buffers are emptied at each step.
const BUFFER_KIB: u32 = 1024;

/// Room enough to see that there are records.
const LEAST_BUFFER_KIB: u32 = 64;

/// Looks at tables that disagree with the records.
const LOOKS: usize = 4;

/// Why there is no timeline.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// KVM's records cannot be had.
    #[error("KVM's records")]
    Recorder(#[from] timeline::Error),
    /// Entries cannot be understood.
    #[error("the processor's second level")]
    Processor(#[from] second_level::Error),
    /// Entries cannot be understood.
    #[error("the processor's second level")]
    Format(#[from] walk::UnsupportedMode),
    /// Frames to compare with are not known.
    #[error("host frames of the device's windows")]
    Frames(#[from] FrameError),
    /// The VM refuses.
    #[error("the guest")]
    Vm(#[from] VmError),
    /// The device has no window.
    #[error("the device has no window to watch")]
    NoWindow,
}

/// A guest whose second-level entries are followed by KVM's records.
#[derive(Debug)]
pub struct Watch {
    recorder: Recorder,
    replay: Replay,
    marks: u32,
}

impl Watch {
    /// Begins with no entry at all: the windows' memory is withdrawn once.
    ///
    /// # Errors
    /// [`WatchError`], with what would help.
    pub fn start(guest: &mut Guest) -> Result<Self, WatchError> {
        Self::in_room_of(guest, BUFFER_KIB)
    }

    /// As [`Watch::start`], with buffers of so many KiB for each CPU.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub fn in_room_of(guest: &mut Guest, buffer_kib: u32) -> Result<Self, WatchError> {
        let format = Processor::of_this_host()?.entries()?;
        let options = Options {
            gfns: frames_of_windows(guest.vm()).ok_or(WatchError::NoWindow)?,
            buffer_kib,
        };
        let mut recorder = Recorder::start(&options)?;
        for window in 0..guest.vm().windows().len() {
            guest.vm_mut().forget_window(window)?;
        }
        // How the entries ended that were there before is nobody's concern.
        recorder.take(0)?;
        let ledger = Ledger::of(guest.vm(), None)?;
        Ok(Self {
            recorder,
            replay: Replay::new(guest.plan().clone(), format, ledger),
            marks: 0,
        })
    }

    /// Whether KVM's records can be had here, as a short recording shows.
    ///
    /// # Errors
    /// [`WatchError`], with what would help.
    pub fn is_possible() -> Result<(), WatchError> {
        Processor::of_this_host()?.entries()?;
        Recorder::start(&Options {
            gfns: Gfn::new(0)..Gfn::new(1),
            buffer_kib: LEAST_BUFFER_KIB,
        })?;
        Ok(())
    }

    /// Tracepoints that this kernel lacks and that can be done without.
    pub fn absent(&self) -> Vec<String> {
        self.recorder
            .absent()
            .iter()
            .map(|name| (*name).to_owned())
            .collect()
    }

    /// Something else is done from here on.
    pub fn phase(&mut self, guest: &Guest, name: &str) {
        self.step(guest);
        self.replay.phase(name);
    }

    /// The guest has used every page of a mapping: each must have its entry, and the
    /// tables must be what the records say.
    pub fn used(&mut self, guest: &Guest, spec: &MappingSpec) {
        self.step(guest);
        let contract = spec.contract(guest.plan(), &Presence::All);
        self.replay.used(contract.iter().filter_map(device_page));
        self.reread(guest, &windows_of(&contract));
    }

    /// Withdraws the memory of all windows that a mapping shows, so that the next
    /// access of each page makes a new entry, and sees to it that no entry of theirs is
    /// left.
    ///
    /// # Errors
    /// [`VmError`] when the memory cannot be withdrawn.
    pub fn withdraw(&mut self, guest: &mut Guest, spec: &MappingSpec) -> Result<(), VmError> {
        self.phase(guest, "memory withdrawn");
        let contract = spec.contract(guest.plan(), &Presence::All);
        let windows = windows_of(&contract);
        for window in &windows {
            guest.vm_mut().forget_window(*window)?;
        }
        self.step(guest);
        let found = self.reread(guest, &windows);
        self.replay.nothing_left(&windows, found.as_deref());
        Ok(())
    }

    /// Whether no window has an entry now, and nothing happened that could not be told.
    pub fn is_empty(&mut self, guest: &Guest) -> bool {
        self.step(guest);
        self.replay.is_empty()
    }

    /// What happened since the last call of this kind.
    pub fn finish(&mut self, guest: &Guest) -> Timeline {
        self.step(guest);
        self.replay.finish()
    }

    /// Goes through what was recorded until now.
    fn step(&mut self, guest: &Guest) {
        self.marks = self.marks.wrapping_add(1);
        let batch = match self.recorder.take(self.marks) {
            Ok(batch) => batch,
            Err(error) => {
                self.replay.cannot_tell(chain(&error));
                return;
            }
        };
        let ledger = match Ledger::of(guest.vm(), Some(self.replay.ledger())) {
            Ok(ledger) => ledger,
            Err(error) => {
                self.replay.cannot_tell(chain(&error));
                Ledger {
                    moves: None,
                    ..self.replay.ledger().clone()
                }
            }
        };
        self.replay.advance(&batch, &guest.vm().threads(), ledger);
    }

    /// Holds the tables of these windows against the records, and gives what they have. `None` where
    /// they cannot be read: the records then have to account for themselves.
    fn reread(&mut self, guest: &Guest, windows: &BTreeSet<usize>) -> Option<Vec<InTables>> {
        let mut found = in_tables(guest, windows)?;
        // The kernel may move pages between the reading of one and of the other.
        for _ in 1..LOOKS {
            if self.replay.agrees(&found) {
                break;
            }
            self.step(guest);
            found = in_tables(guest, windows)?;
        }
        self.replay.reconcile(&found);
        Some(found)
    }
}

/// The first entry that was wrong, as a page of the mapping. It is the host's side that
/// is to blame: no driver of the guest can make one.
pub fn blame(guest: &Guest, mapping: Option<&Mapping>, timeline: &Timeline) -> Option<Mismatch> {
    let finding = timeline.findings.first()?;
    let place = mapping.and_then(|mapping| {
        let is_it =
            |page: &u64| mapping.spec.device_page(guest.plan(), *page) == Some(finding.page);
        let page = (0..mapping.spec.npages).find(is_it)?;
        Some((page, mapping.page_gva(page)?.to_string()))
    });
    let (page, gva) = place.unwrap_or((finding.page.page, String::new()));
    Some(Mismatch {
        link: Link::SecondLevel,
        page,
        gva,
        expected: finding.expected.clone(),
        found: format!(
            "{} for {}, while \"{}\" (record #{})",
            finding.found, finding.name, finding.phase, finding.order
        ),
        guest_walk: Vec::new(),
        host: timeline.course.clone(),
    })
}

/// The page of a window that is expected; entries of the guest's RAM are not followed.
fn device_page(expected: &Expected) -> Option<DevicePage> {
    match expected {
        Expected::Present { page, .. } if page.buffer().is_none() => Some(*page),
        Expected::Present { .. } | Expected::Absent => None,
    }
}

/// The windows that a mapping shows.
fn windows_of(contract: &[Expected]) -> BTreeSet<usize> {
    let pages = contract.iter().filter_map(device_page);
    pages.map(|page| page.window).collect()
}

/// What the tables have for each page of these windows.
fn in_tables(guest: &Guest, windows: &BTreeSet<usize>) -> Option<Vec<InTables>> {
    let tables = LiveTables::of(guest.vm()).ok()?;
    let plan = guest.plan();
    let pages = windows.iter().flat_map(|window| {
        let described = plan.windows.get(*window);
        let npages = described.map_or(0, |described| described.npages);
        (0..npages).map(|page| DevicePage {
            window: *window,
            page,
        })
    });
    let found = pages.filter_map(|page| {
        let leaf = tables.look(plan.gpa(page)?).walked.ok();
        Some(InTables {
            page,
            pfn: leaf.map(|leaf| Pfn::containing(leaf.address)),
        })
    });
    Some(found.collect())
}

/// From the first frame of the first window to the one after the last.
fn frames_of_windows(vm: &Vm) -> Option<std::ops::Range<Gfn>> {
    let first = vm.windows().iter().map(|window| window.base()).min()?;
    let ends = vm
        .windows()
        .iter()
        .filter_map(|window| window.base().checked_add(window.len_bytes()));
    let past = Gfn::containing(ends.max()?).checked_add(1)?;
    Some(Gfn::containing(first)..past)
}
