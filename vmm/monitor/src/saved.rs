//! A guest in a file, as it stood when its agent greeted: another process takes it up
//! there instead of booting.
//!
//! Nothing of the device is kept. No driver has used it by then, so that the windows are
//! built and filled anew by whoever takes the guest up, in frames and in an order of
//! their own, and the registers are those of a new device. The event timer, which the
//! kernel's own driver sets going, goes on where it was.
//!
//! The file's pages are mapped copy-on-write: those that a guest never stores to are
//! shared by all guests of one file, in this process and in others.

mod error;
mod header;
mod runs;
mod state;

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use addr::PAGE_SIZE;
use kvm_ioctls::Kvm;
use vm_memory::GuestMemoryBackend;
use xxhash_rust::xxh64::Xxh64;

use crate::config::VmConfig;
use crate::cpuid;
use crate::error::VmError;
use crate::hpet::Hpet;
use crate::layout;
use crate::mapping::FileView;
use crate::slots::Slots;
use crate::snapshot::{MachineState, SavedRegion};
use crate::vm::Vm;
use crate::window::{self, Window};
pub use error::{SaveError, Unusable};
pub use header::{KEY_LEN, Key};
pub(crate) use runs::Run;

use header::{HEADER_LEN, Header, Part, sum};
use state::State;

/// Most bytes of a guest's state: eight vCPUs and the longest console take less.
const MAX_STATE_LEN_BYTES: u64 = 16 << 20;
/// Bytes that are written at once.
const COPY_LEN: usize = 1 << 20;
/// The time stamp counters of two hosts may differ by one part in so many; KVM tells the
/// guest's clock of the difference.
const TSC_TOLERANCE: u32 = 16;
/// RAM and message area: the memslots that are kept, before those of the windows.
const KEPT: usize = 2;

/// Names the sources of this crate and the libraries that it is built with: a guest that
/// one build has saved, only a build of the same can take up.
pub const SOURCES: &str = env!("MONITOR_SOURCES");

/// What a guest sees of the host: the kernel whose KVM runs it, and what that offers.
///
/// # Errors
/// [`VmError`] when KVM is out of reach or does not tell.
pub fn host_identity() -> Result<String, VmError> {
    let kvm = Kvm::new()
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
        .map_err(VmError::OpenKvm)?;
    let cpuid = cpuid::supported(&kvm)?;
    let msrs = kvm
        .get_msr_index_list()
        .map_err(VmError::kvm("KVM_GET_MSR_INDEX_LIST"))?;
    let mut offered = Xxh64::new(0);
    for entry in cpuid.as_slice() {
        let words = [entry.function, entry.index, entry.flags];
        let words = words.into_iter();
        let words = words.chain([entry.eax, entry.ebx, entry.ecx, entry.edx]);
        words.for_each(|word| offered.update(&word.to_le_bytes()));
    }
    for index in msrs.as_slice() {
        offered.update(&index.to_le_bytes());
    }
    let system = rustix::system::uname();
    let [release, version] = [system.release(), system.version()].map(CStr::to_string_lossy);
    let offered = offered.digest();
    Ok(format!("{release} {version}, processor {offered:016x}"))
}

/// A guest in a file that was found whole. Any number of VMs can be started from it.
pub struct Saved {
    file: File,
    head: [u8; HEADER_LEN],
    memory: Part,
    /// In its file's words.
    state: Vec<u8>,
}

/// Pages of one memslot in a file.
#[derive(Clone, Copy)]
pub(crate) struct SavedPages<'s> {
    /// The file.
    pub(crate) file: &'s File,
    /// Byte of the file where the first run's pages are.
    pub(crate) offset_bytes: u64,
    pub(crate) runs: &'s [Run],
}

impl Saved {
    /// Reads a file that [`Vm::save`] wrote under the same `key`, and checks every byte
    /// of it.
    ///
    /// # Errors
    /// [`Unusable`], with what is wrong with it.
    pub fn open(file: File, key: &Key) -> Result<Self, Unusable> {
        let saved = Self::open_checked_before(file, key)?;
        check_memory(&saved.file, saved.memory)?;
        Ok(saved)
    }

    /// As [`Saved::open`] but for guest memory, which takes nearly all of the time. For
    /// copies of what was found whole, in places where nothing goes wrong by itself.
    ///
    /// # Errors
    /// As [`Saved::open`].
    pub fn open_checked_before(file: File, key: &Key) -> Result<Self, Unusable> {
        let found = file.metadata().map_err(Unusable::io("looked at"))?.len();
        let mut head = [0; HEADER_LEN];
        if found < HEADER_LEN as u64 {
            let wanted = HEADER_LEN as u64;
            return Err(Unusable::Length { found, wanted });
        }
        file.read_exact_at(&mut head, 0)
            .map_err(Unusable::io("read"))?;
        let header = Header::parse(&head, key)?;
        let wanted = header.file_len_bytes().unwrap_or(u64::MAX);
        if found != wanted {
            return Err(Unusable::Length { found, wanted });
        }
        let most = layout::MAX_RAM_LEN_BYTES + wire::AREA_LEN_BYTES as u64;
        let Header { memory, state, .. } = header;
        if memory.len_bytes > most || state.len_bytes > MAX_STATE_LEN_BYTES {
            return Err(Unusable::Damaged("its header"));
        }
        let len = usize::try_from(state.len_bytes).map_err(|_| Unusable::Damaged("its header"))?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, HEADER_LEN as u64 + memory.len_bytes)
            .map_err(Unusable::io("read"))?;
        if sum(&bytes) != state.sum {
            return Err(Unusable::Damaged("its state"));
        }
        Ok(Self {
            file,
            head,
            memory,
            state: bytes,
        })
    }

    /// Writes all of it to another, empty file.
    ///
    /// # Errors
    /// [`Unusable::Io`].
    pub fn copy_to(&self, to: &mut File) -> Result<(), Unusable> {
        let failed = || Unusable::io("copied");
        let mut out = io::BufWriter::with_capacity(COPY_LEN, to);
        out.write_all(&self.head).map_err(failed())?;
        let mut written = Ok(());
        view(&self.file, self.memory)?.each_page(|page| {
            if written.is_ok() {
                written = out.write_all(page);
            }
        });
        written
            .and_then(|()| out.write_all(&self.state))
            .and_then(|()| out.flush())
            .map_err(failed())
    }
}

impl Saved {
    fn state(&self) -> Result<State, Unusable> {
        postcard::from_bytes(&self.state).map_err(|_| Unusable::Damaged("its state"))
    }
}

/// All pages of guest memory, as they stand in the file.
fn view(file: &File, memory: Part) -> Result<FileView, Unusable> {
    let len = usize::try_from(memory.len_bytes)
        .ok()
        .filter(|len| *len > 0 && memory.len_bytes.is_multiple_of(PAGE_SIZE))
        .ok_or(Unusable::Damaged("its header"))?;
    FileView::of(file, HEADER_LEN as u64, len).map_err(Unusable::io("mapped"))
}

fn check_memory(file: &File, memory: Part) -> Result<(), Unusable> {
    let mut found = Xxh64::new(0);
    view(file, memory)?.each_page(|page| found.update(page));
    if found.digest() == memory.sum {
        return Ok(());
    }
    Err(Unusable::Damaged("its guest memory"))
}

impl Vm {
    /// Writes the guest to an empty `file`, for [`Vm::start_saved`]. Its agent has just
    /// rung for the first time and no driver has used the device. The guest stays as it is.
    ///
    /// # Errors
    /// [`SaveError`]; what the file holds then is no guest.
    pub fn save(&mut self, key: &Key, file: &mut File) -> Result<(), SaveError> {
        let device = self.shared.bus().state();
        let serial = device.serial_alone().ok_or(SaveError::DeviceUsed)?;
        self.bring_to_rest()?;
        let msrs = self.restorable_msrs()?;
        let (mut memory, mut pages) = (Vec::new(), Vec::new());
        for (slot, region) in self.slots.memory().iter().take(KEPT).enumerate() {
            if !self.slots.filed_pages(slot).is_empty() {
                return Err(SaveError::NotBooted);
            }
            let saved = SavedRegion::of(region, &[])?;
            memory.push(runs::runs(saved.filled()));
            pages.push(saved);
        }
        let state = State {
            cpus: self.cpu_states(&msrs)?,
            machine: MachineState::of(&self.vm)?,
            serial: serial.into(),
            timer: self.timer_page().map_or(Vec::new(), Hpet::registers),
            console: self.console.bytes(),
            at_doorbell: self
                .at_doorbell
                .and_then(|index| u8::try_from(index).ok())
                .ok_or_else(|| VmError::Config("no vCPU stands at the doorbell".into()))?,
            tsc_khz: self.tsc_khz()?,
            memory: memory
                .try_into()
                .map_err(|_| VmError::Config("fewer memslots than there must be".into()))?,
        };
        let memory = write_memory(file, &state.memory, &pages)?;
        let state = postcard::to_allocvec(&state)?;
        file.write_all(&state)?;
        let state = Part {
            len_bytes: state.len() as u64,
            sum: sum(&state),
        };
        let header = Header::new(*key, memory, state).to_bytes()?;
        file.write_all_at(&header, 0)?;
        Ok(())
    }

    /// Builds a VM whose guest goes on where `saved` stands. The windows are new ones,
    /// in an order that follows from the configuration's seed; fill them as before a
    /// boot.
    ///
    /// # Errors
    /// [`Unusable`], when it does not fit the configuration or KVM does not take it.
    pub fn start_saved(config: &VmConfig, saved: &Saved) -> Result<Self, Unusable> {
        config.check()?;
        let state = saved.state()?;
        if state.cpus.len() != usize::from(config.vcpus) || state.at_doorbell >= config.vcpus {
            return Err(Unusable::Unfit("its vCPUs"));
        }
        let windows = window::place(config)?;
        let pages = saved.pages(config, &state)?;
        let slots = Slots::of_saved(config, &windows, pages)?;
        let mut vm = Self::build(config, windows, slots, None)?;
        if vm.tsc_khz()?.abs_diff(state.tsc_khz) > state.tsc_khz / TSC_TOLERANCE {
            return Err(Unusable::Unfit("its time stamp counter"));
        }
        state.machine.put(&vm.vm)?;
        for (vcpu, state) in vm.vcpus.iter().zip(&state.cpus) {
            state.put(&vcpu.fd(), vm.vendor)?;
        }
        // KVM writes to guest memory when some registers are set.
        vm.slots
            .revert_to_file()
            .map_err(Unusable::io("mapped anew"))?;
        if let Some(page) = vm.timer_page() {
            Hpet::resume(page, &state.timer);
        }
        let console = vm.console.clone();
        console.resume(state.console);
        let restored = vm
            .shared
            .bus()
            .restore_serial(&state.serial.into(), &console);
        restored?;
        vm.at_doorbell = Some(usize::from(state.at_doorbell));
        vm.echo_console();
        Ok(vm)
    }

    fn timer_page(&self) -> Option<&Window> {
        self.windows.get(self.hpet.as_ref()?.window())
    }

    fn tsc_khz(&self) -> Result<u32, VmError> {
        let first = self.vcpus.first().map(crate::vcpu::Vcpu::fd);
        let khz = first.map_or(Ok(0), |fd| fd.get_tsc_khz());
        khz.map_err(VmError::kvm("KVM_GET_TSC_KHZ"))
    }
}

impl Saved {
    /// Where the pages of RAM and message area are.
    fn pages<'s>(
        &'s self,
        config: &VmConfig,
        state: &'s State,
    ) -> Result<[SavedPages<'s>; KEPT], Unusable> {
        let [ram, messages] = &state.memory;
        let sound = runs::are_sound(ram, config.ram_len_bytes / PAGE_SIZE)
            && runs::are_sound(messages, wire::AREA_LEN_BYTES as u64 / PAGE_SIZE);
        let lengths = runs::len_bytes(ram).zip(runs::len_bytes(messages));
        let (true, Some((ram_len_bytes, messages_len_bytes))) = (sound, lengths) else {
            return Err(Unusable::Unfit("its memory"));
        };
        let start = HEADER_LEN as u64;
        let all = ram_len_bytes.checked_add(messages_len_bytes);
        if all != Some(self.memory.len_bytes) {
            return Err(Unusable::Damaged("its state"));
        }
        let pages = |offset_bytes, runs| SavedPages {
            file: &self.file,
            offset_bytes,
            runs,
        };
        Ok([pages(start, ram), pages(start + ram_len_bytes, messages)])
    }
}

/// Writes the pages of all runs, region by region, behind the room for the header.
fn write_memory(
    file: &mut File,
    runs: &[Vec<Run>; KEPT],
    regions: &[SavedRegion],
) -> io::Result<Part> {
    let mut sum = Xxh64::new(0);
    let mut len_bytes = 0;
    file.seek(SeekFrom::Start(HEADER_LEN as u64))?;
    let mut out = io::BufWriter::with_capacity(COPY_LEN, file);
    for (runs, region) in runs.iter().zip(regions) {
        let pages = runs
            .iter()
            .flat_map(|run| (run.first..).take(run.npages as usize));
        for page in pages {
            let bytes = region.page(page as usize);
            sum.update(bytes);
            out.write_all(bytes)?;
            len_bytes += PAGE_SIZE;
        }
    }
    out.flush()?;
    Ok(Part {
        len_bytes,
        sum: sum.digest(),
    })
}

/// The header of a file with this memory and this state.
#[cfg(fuzzing)]
pub(crate) fn header_of(
    key: Key,
    memory: &[u8],
    state: &[u8],
) -> Result<[u8; HEADER_LEN], postcard::Error> {
    let part = |bytes: &[u8]| Part {
        len_bytes: bytes.len() as u64,
        sum: sum(bytes),
    };
    Header::new(key, part(memory), part(state)).to_bytes()
}

#[cfg(fuzzing)]
impl Saved {
    /// Goes as far as [`Vm::start_saved`] does without KVM.
    pub(crate) fn parse(&self, config: &VmConfig) {
        let Ok(state) = self.state() else {
            return;
        };
        let _ = self.pages(config, &state);
        let console = crate::console::Console::new(None);
        console.resume(state.console);
        let _ = crate::bus::serial(&state.serial.into(), &console);
    }
}
