//! What was found for one page, link by link.

mod alike;

use std::cell::OnceCell;

use addr::{Gpa, Gva, Hva, Pfn};
use monitor::{Buffer, Vm};

use crate::contract::DevicePage;
use crate::guest_walk::{FrozenTables, TablesError, Walked};
use crate::host_frame::{self, Frame, FrameError, Pagemap};
use crate::memslot::{self, Hit};
use crate::second_level::{Entry, LiveTables, chain};
use crate::stamp::Seen;

pub use alike::Alike;

/// Looks at a page whose frame and second-level entry disagree. The host may move
/// a page between the reading of one and of the other; it does not do so for ever.
const LOOKS: usize = 4;

/// All that the witnesses say of one page of a mapping.
#[derive(Debug)]
pub struct PageEvidence {
    /// The page.
    pub gva: Gva,
    /// The guest's tables.
    pub walked: Walked,
    /// The memslot behind the gpa that the walk found.
    pub slot: Option<Hit>,
    /// The host's frame behind that memslot's page.
    pub slot_frame: Option<Frame>,
    /// The host's frame that it gave to the device page which the contract names.
    pub device_frame: Option<Frame>,
    /// What the second-level tables have for the gpa that the walk found, or why
    /// that cannot be told.
    pub second_level: Option<Result<Entry, String>>,
    /// The vCPU caches memory at all.
    pub caches: bool,
    /// KVM notes which pages the guest stores to.
    pub notes_stores: bool,
    /// What the guest saw there.
    pub seen: Option<Seen>,
}

impl PageEvidence {
    /// Whether the second-level entry, as far as it and the device's frame are
    /// known, leads to that frame.
    fn frames_agree(&self) -> bool {
        self.leads_to(self.device_frame.as_ref())
    }

    /// Whether the second-level entry, as far as it and the frame behind the memslot
    /// are known, leads to that frame.
    pub fn ends_agree(&self) -> bool {
        self.leads_to(self.slot_frame.as_ref())
    }

    fn leads_to(&self, frame: Option<&Frame>) -> bool {
        let (Some(Ok(entry)), Some(Ok(pfn))) = (&self.second_level, frame) else {
            return true;
        };
        let leads_to = |found: &walk::Translation<_>| Pfn::containing(found.address) == *pfn;
        entry.walked.as_ref().is_ok_and(leads_to)
    }
}

/// Gathers evidence on a guest that stands still.
pub struct Evidence<'vm> {
    vm: &'vm Vm,
    tables: FrozenTables<'vm>,
    pagemap: Result<Pagemap, FrameError>,
    /// Opened when a page is first asked for: finding their root takes longer than a walk.
    second_level: OnceCell<Result<LiveTables<'vm>, String>>,
    /// The device's buffers, as it was told of them.
    buffers: Vec<Buffer>,
}

impl<'vm> Evidence<'vm> {
    /// Opens the sources.
    ///
    /// # Errors
    /// [`TablesError`] when the guest's tables cannot be walked at all. A host that
    /// hides its frames or tables is no error here: it is said of each page.
    pub fn of(vm: &'vm Vm) -> Result<Self, TablesError> {
        Ok(Self {
            vm,
            tables: FrozenTables::of(vm)?,
            pagemap: Pagemap::open(),
            second_level: OnceCell::new(),
            buffers: vm.buffers(),
        })
    }

    /// Everything about the page at `gva`. `device_page` is what the contract
    /// wants there; it is used for nothing but to look up the host's own frame.
    pub fn page(
        &self,
        gva: Gva,
        device_page: Option<DevicePage>,
        seen: Option<Seen>,
    ) -> PageEvidence {
        let walked = self.tables.walk(gva);
        let gpa = walked.as_ref().ok().map(|found| found.address);
        let slot = gpa.and_then(|gpa: Gpa| memslot::find(self.vm.memslots(), gpa));
        let look = || {
            let (device_frame, slot_frame) = self.frames(device_page, slot.map(|hit| hit.hva));
            PageEvidence {
                gva,
                walked,
                slot,
                slot_frame,
                device_frame,
                second_level: gpa.map(|gpa| self.second_level(gpa)),
                caches: self.tables.caches(),
                notes_stores: self.vm.notes_stores(),
                seen: None,
            }
        };
        let mut found = look();
        for _ in 1..LOOKS {
            if found.frames_agree() {
                break;
            }
            self.reread();
            found = look();
        }
        PageEvidence { seen, ..found }
    }

    /// Whether the second-level tables that were looked at are still those of the VM.
    /// Where they are not, all that was found so far is to be found anew.
    pub fn is_current(&self) -> bool {
        match self.second_level.get() {
            Some(Ok(tables)) => tables.are_in_force(),
            // Nothing was found in them.
            Some(Err(_)) | None => true,
        }
    }

    fn second_level(&self, gpa: Gpa) -> Result<Entry, String> {
        let tables = self.live_tables().as_ref().map_err(Clone::clone)?;
        tables.page(gpa).map_err(|error| chain(&error))
    }

    fn reread(&self) {
        if let Some(Ok(tables)) = self.second_level.get() {
            tables.reread();
        }
    }

    fn live_tables(&self) -> &Result<LiveTables<'vm>, String> {
        let open = || LiveTables::of(self.vm).map_err(|error| chain(&error));
        self.second_level.get_or_init(open)
    }

    /// The host's frames behind its own mapping of `device_page`, and behind
    /// `slot_hva`.
    fn frames(
        &self,
        device_page: Option<DevicePage>,
        slot_hva: Option<Hva>,
    ) -> (Option<Frame>, Option<Frame>) {
        let device_hva = device_page.and_then(|page| Some((page, self.device_hva(page)?)));
        match (device_hva, slot_hva) {
            (Some((page, device_hva)), Some(slot_hva)) => {
                let (device, slot) = host_frame::at_one_moment(
                    || self.pfn(device_hva),
                    || self.pfn(slot_hva),
                    || self.access(page),
                );
                (Some(device), Some(slot))
            }
            (device_hva, slot_hva) => (
                device_hva.map(|(_, hva)| self.pfn(hva)),
                slot_hva.map(|hva| self.pfn(hva)),
            ),
        }
    }

    /// Where the host itself has a device page: a window's by a mapping that no guest
    /// reaches, a buffer's by the address that the device was told.
    fn device_hva(&self, page: DevicePage) -> Option<Hva> {
        if page.buffer().is_some() {
            let told = self.told(page)?;
            return memslot::find(self.vm.memslots(), told).map(|hit| hit.hva);
        }
        let window = self.vm.windows().get(page.window)?;
        window.ledger_hva(page.page)
    }

    /// Where the device was told that a page of a buffer is.
    fn told(&self, page: DevicePage) -> Option<Gpa> {
        let buffer = self.buffers.get(page.buffer()?)?;
        *buffer.pages.get(usize::try_from(page.page).ok()?)?
    }

    /// Loads from a device page.
    fn access(&self, page: DevicePage) {
        if let Some(window) = self.vm.windows().get(page.window) {
            drop(window.read(page.page, 0, 1));
        } else if let Some(told) = self.told(page) {
            let _ = self.vm.read(told, &mut [0]);
        }
    }

    fn pfn(&self, hva: Hva) -> Frame {
        match &self.pagemap {
            Ok(pagemap) => pagemap.pfn(hva),
            Err(_) => Pagemap::open()?.pfn(hva),
        }
    }
}
