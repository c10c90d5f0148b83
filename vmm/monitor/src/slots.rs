//! The VMM's own table of memslots, and the memory behind them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use addr::{Gpa, Hva, PAGE_SIZE};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionCollection,
    GuestRegionMmap, MmapRegion,
};

use crate::config::VmConfig;
use crate::error::VmError;
use crate::layout;
use crate::mapping::{lay_over, memfd, no_huge_pages};
use crate::saved::{Run, SavedPages};
use crate::snapshot::merge;
use crate::window::Window;

/// Memory behind a memslot; it notes which of its pages the VMM stores to.
pub(crate) type Region = GuestRegionMmap<AtomicBitmap>;
/// Everything that a slot backs, by guest physical address.
pub(crate) type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

/// What a memslot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUse {
    /// RAM of the guest.
    Ram,
    /// The agent's message area.
    MessageArea,
    /// The window of this index.
    Window(usize),
}

/// One memslot as it was given to KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemSlot {
    /// KVM's slot number.
    pub id: u32,
    /// What it is for.
    pub used_for: SlotUse,
    /// First guest physical address.
    pub base: Gpa,
    /// Bytes.
    pub len_bytes: u64,
    /// First host virtual address.
    pub hva: Hva,
    /// Whether it is `KVM_MEM_READONLY`.
    pub read_only: bool,
}

/// What the guest has of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What its configuration says.
    AsConfigured,
    /// It may be read and not written, whatever its configuration says.
    ReadOnly,
    /// Nothing: its addresses lead nowhere, as those of a device that is gone.
    Withdrawn,
}

impl MemSlot {
    /// Host virtual address behind `gpa`, or `None` outside the slot.
    pub fn translate(&self, gpa: Gpa) -> Option<Hva> {
        let offset = gpa.checked_offset_from(self.base)?;
        if offset >= self.len_bytes {
            return None;
        }
        self.hva.checked_add(offset)
    }
}

/// All memslots of a VM with the memory behind them.
///
/// The windows' memory is only borrowed, by raw address: the owner keeps the
/// windows alive until the VM's descriptors are closed.
pub(crate) struct Slots {
    /// As configured.
    planned: Vec<MemSlot>,
    /// As KVM has them now.
    table: Vec<MemSlot>,
    /// Guest physical view of everything that a slot backs.
    memory: GuestMemory,
    /// KVM notes which pages the guest stores to.
    logs_dirty_pages: bool,
    /// What KVM noted of slots that have gone, by their numbers, a bit for each page.
    notes: BTreeMap<u32, Vec<u64>>,
    /// Which pages of RAM and message area come from a file.
    from_file: [Vec<Run>; 2],
}

impl Slots {
    /// Slots with memory that is all zeroes.
    pub(crate) fn new(config: &VmConfig, windows: &[Window]) -> Result<Self, VmError> {
        let ram = file_region(c"mapwitness-ram", Gpa::new(0), config.ram_len_bytes)?;
        let messages = file_region(
            c"mapwitness-messages",
            layout::MESSAGE_AREA,
            wire::AREA_LEN_BYTES as u64,
        )?;
        Self::with([ram, messages], windows, [const { Vec::new() }; 2])
    }

    /// Slots whose RAM and message area are those of a file.
    pub(crate) fn of_saved(
        config: &VmConfig,
        windows: &[Window],
        [ram, messages]: [SavedPages; 2],
    ) -> Result<Self, VmError> {
        let from_file = [ram.runs.to_vec(), messages.runs.to_vec()];
        let ram = saved_region(ram, Gpa::new(0), config.ram_len_bytes)?;
        let area_len_bytes = wire::AREA_LEN_BYTES as u64;
        let messages = saved_region(messages, layout::MESSAGE_AREA, area_len_bytes)?;
        Self::with([ram, messages], windows, from_file)
    }

    fn with(
        ours: [Region; 2],
        windows: &[Window],
        from_file: [Vec<Run>; 2],
    ) -> Result<Self, VmError> {
        let mut regions = Vec::from(ours);
        for window in windows {
            regions.push(window_region(window)?);
        }
        let table = table_of(&regions, windows)?;
        let memory = GuestRegionCollection::from_regions(regions)
            .map_err(|error| VmError::Config(format!("memory regions: {error}")))?;
        Ok(Self {
            planned: table.clone(),
            table,
            memory,
            logs_dirty_pages: false,
            notes: BTreeMap::new(),
            from_file,
        })
    }

    pub(crate) fn register(&self, vm: &VmFd) -> Result<(), VmError> {
        for slot in &self.table {
            self.set(vm, slot, slot.len_bytes)?;
        }
        Ok(())
    }

    /// Changes what the guest has of window `index`.
    pub(crate) fn offer(&mut self, vm: &VmFd, index: usize, offer: Offer) -> Result<(), VmError> {
        let wanted = SlotUse::Window(index);
        let planned = self.planned.iter().find(|slot| slot.used_for == wanted);
        let planned = *planned.ok_or_else(|| VmError::Config(format!("no window {index}")))?;
        // KVM does not make a slot read-only or writable in place: it goes first.
        if let Some(at) = self.table.iter().position(|slot| slot.used_for == wanted) {
            self.keep_notes(vm, at)?;
            self.set(vm, &self.table[at], 0)?;
            self.table.remove(at);
        }
        let slot = match offer {
            Offer::Withdrawn => return Ok(()),
            Offer::ReadOnly => MemSlot {
                read_only: true,
                ..planned
            },
            Offer::AsConfigured => planned,
        };
        self.set(vm, &slot, slot.len_bytes)?;
        self.table.push(slot);
        self.table.sort_by_key(|slot| slot.id);
        Ok(())
    }

    /// Gives the guest of each window what its configuration says.
    pub(crate) fn offer_all_as_configured(&mut self, vm: &VmFd) -> Result<(), VmError> {
        for slot in self.planned.clone() {
            if let SlotUse::Window(index) = slot.used_for
                && !self.table.contains(&slot)
            {
                self.offer(vm, index, Offer::AsConfigured)?;
            }
        }
        Ok(())
    }

    /// Takes over what KVM notes of a slot that is about to go: its notes go with it.
    fn keep_notes(&mut self, vm: &VmFd, at: usize) -> Result<(), VmError> {
        let Some(slot) = self.table.get(at).filter(|_| self.logs_dirty_pages) else {
            return Ok(());
        };
        let len_bytes = usize::try_from(slot.len_bytes).unwrap_or(usize::MAX);
        let words = vm
            .get_dirty_log(slot.id, len_bytes)
            .map_err(VmError::kvm("KVM_GET_DIRTY_LOG"))?;
        let notes = self.notes.entry(slot.id).or_default();
        merge(notes, &words);
        Ok(())
    }

    /// Tells KVM of a slot; one of no bytes is one that goes.
    fn set(&self, vm: &VmFd, slot: &MemSlot, len_bytes: u64) -> Result<(), VmError> {
        let access = if slot.read_only { KVM_MEM_READONLY } else { 0 };
        let logging = if self.logs_dirty_pages {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        let region = kvm_userspace_memory_region {
            slot: slot.id,
            flags: access | logging,
            guest_phys_addr: slot.base.raw(),
            memory_size: len_bytes,
            userspace_addr: slot.hva.raw(),
        };
        // SAFETY: the range is a mapping owned by `memory` or by a window, and `Vm`
        // drops both only after the VM's descriptors and vCPU threads.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(VmError::kvm("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Has KVM note from now on which pages the guest stores to.
    pub(crate) fn log_dirty_pages(&mut self, vm: &VmFd) -> Result<(), VmError> {
        if self.table != self.planned {
            return Err(VmError::Config(
                "no snapshot can be taken while a window is withdrawn".into(),
            ));
        }
        if self.logs_dirty_pages {
            return Ok(());
        }
        self.logs_dirty_pages = true;
        self.register(vm)
    }

    /// Pages of a slot that the guest, KVM or the VMM stored to since the last call, a
    /// bit for each.
    pub(crate) fn take_dirty(&mut self, vm: &VmFd, slot: usize) -> Result<Vec<u64>, VmError> {
        let (Some(known), Some(region)) = (self.table.get(slot), self.memory.iter().nth(slot))
        else {
            return Ok(Vec::new());
        };
        let mut words = vm
            .get_dirty_log(known.id, region.size())
            .map_err(VmError::kvm("KVM_GET_DIRTY_LOG"))?;
        merge(&mut words, &region.get_mmap().bitmap().get_and_reset());
        if let Some(notes) = self.notes.remove(&known.id) {
            merge(&mut words, &notes);
        }
        Ok(words)
    }

    /// Brings RAM and message area back to what their file says.
    pub(crate) fn revert_to_file(&self) -> std::io::Result<()> {
        for region in self.memory.iter().take(2) {
            let mapping = region.get_mmap();
            if mapping.flags() & libc::MAP_PRIVATE == 0 {
                return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
            }
            // SAFETY: the range is one private mapping, which the region owns. Nobody
            // holds a reference into guest memory, so nobody sees it change.
            let advised = unsafe {
                libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_DONTNEED)
            };
            if advised != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Forgets which pages of a slot the VMM stored to.
    pub(crate) fn forget_host_stores(&self, slot: usize) {
        if let Some(region) = self.memory.iter().nth(slot) {
            region.get_mmap().bitmap().reset();
        }
    }

    /// Pages of a slot that come from a file.
    pub(crate) fn filed_pages(&self, slot: usize) -> &[Run] {
        self.from_file.get(slot).map_or(&[], Vec::as_slice)
    }

    /// The window behind a slot.
    pub(crate) fn window_of(&self, slot: usize) -> Option<usize> {
        match self.table.get(slot)?.used_for {
            SlotUse::Window(index) => Some(index),
            SlotUse::Ram | SlotUse::MessageArea => None,
        }
    }

    pub(crate) fn table(&self) -> &[MemSlot] {
        &self.table
    }

    /// Whether KVM notes which pages the guest stores to.
    pub(crate) fn logs_dirty_pages(&self) -> bool {
        self.logs_dirty_pages
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub(crate) fn read_u64(&self, gpa: Gpa) -> Result<u64, VmError> {
        self.memory
            .load(GuestAddress(gpa.raw()), Ordering::Relaxed)
            .map_err(|_| VmError::GuestMemory { gpa, len_bytes: 8 })
    }

    /// Reads words that follow one another, each in one piece.
    pub(crate) fn read_words(&self, gpa: Gpa, into: &mut [u64]) -> Result<(), VmError> {
        let len_bytes = size_of_val(into);
        let refused = || VmError::GuestMemory {
            gpa,
            len_bytes: len_bytes as u64,
        };
        let slice = self.memory.get_slice(GuestAddress(gpa.raw()), len_bytes);
        let copied = slice.map_err(|_| refused())?.copy_to(into);
        (copied == into.len()).then_some(()).ok_or_else(refused)
    }
}

fn file_region(name: &std::ffi::CStr, base: Gpa, len_bytes: u64) -> Result<Region, VmError> {
    let memory = |source| VmError::Memory {
        what: "guest memory",
        len_bytes,
        source,
    };
    let file = memfd(name, len_bytes).map_err(memory)?;
    let size = usize::try_from(len_bytes)
        .map_err(|_| VmError::Config(format!("{len_bytes} bytes of guest memory")))?;
    let region = MmapRegion::from_file(FileOffset::new(file, 0), size)
        .map_err(|error| memory(std::io::Error::other(error)))?;
    region_at(region, base)
}

/// Memory that is what a file says until it is stored to, and all zeroes where the file
/// says nothing.
fn saved_region(pages: SavedPages, base: Gpa, len_bytes: u64) -> Result<Region, VmError> {
    let memory = |source| VmError::Memory {
        what: "guest memory",
        len_bytes,
        source,
    };
    let size = usize::try_from(len_bytes)
        .map_err(|_| VmError::Config(format!("{len_bytes} bytes of guest memory")))?;
    let region = MmapRegion::<AtomicBitmap>::new(size)
        .map_err(|error| memory(std::io::Error::other(error)))?;
    no_huge_pages(region.as_ptr(), size).map_err(memory)?;
    let mut offset_bytes = pages.offset_bytes;
    for run in pages.runs {
        let start = u64::from(run.first) * PAGE_SIZE;
        let inside = start
            .checked_add(run.len_bytes())
            .is_some_and(|end| end <= len_bytes);
        let (true, Ok(start), Ok(len)) = (
            inside,
            usize::try_from(start),
            usize::try_from(run.len_bytes()),
        ) else {
            return Err(VmError::Config("pages beyond guest memory".into()));
        };
        let at = region.as_ptr().wrapping_add(start);
        // SAFETY: the run is within the region, as just checked; the region is new, and
        // nobody has seen its contents.
        unsafe { lay_over(at, len, pages.file, offset_bytes) }.map_err(memory)?;
        offset_bytes += run.len_bytes();
    }
    region_at(region, base)
}

fn window_region(window: &Window) -> Result<Region, VmError> {
    let size = usize::try_from(window.len_bytes())
        .map_err(|_| VmError::Config(format!("a window of {} pages", window.npages())))?;
    // SAFETY: the window's view is a mapping of exactly this many bytes, and `Vm`
    // keeps the window as long as this region.
    let region = unsafe {
        MmapRegion::build_raw(
            window.slot_hva(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    }
    .map_err(|error| VmError::Memory {
        what: "a device window",
        len_bytes: window.len_bytes(),
        source: std::io::Error::other(error),
    })?;
    region_at(region, window.base())
}

fn region_at(region: MmapRegion<AtomicBitmap>, base: Gpa) -> Result<Region, VmError> {
    Region::new(region, GuestAddress(base.raw()))
        .ok_or_else(|| VmError::Config(format!("memory at {base} ends past 2^64")))
}

fn table_of(regions: &[Region], windows: &[Window]) -> Result<Vec<MemSlot>, VmError> {
    let mut uses = vec![SlotUse::Ram, SlotUse::MessageArea];
    uses.extend((0..windows.len()).map(SlotUse::Window));
    let bases = [Gpa::new(0), layout::MESSAGE_AREA]
        .into_iter()
        .chain(windows.iter().map(Window::base));
    let mut table = Vec::new();
    for ((region, used_for), base) in regions.iter().zip(uses).zip(bases) {
        let id = u32::try_from(table.len())
            .map_err(|_| VmError::Config("more memslots than KVM has".into()))?;
        let mapping = region.get_mmap();
        table.push(MemSlot {
            id,
            used_for,
            base,
            len_bytes: mapping.size() as u64,
            hva: Hva::new(mapping.as_ptr() as u64),
            read_only: match used_for {
                SlotUse::Window(index) => windows[index].config().read_only,
                SlotUse::Ram | SlotUse::MessageArea => false,
            },
        });
    }
    Ok(table)
}
