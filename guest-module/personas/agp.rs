// SPDX-License-Identifier: GPL-2.0

//! agp: the aperture of a graphics bridge, as `drivers/char/agp/frontend.c` shared it out before Linux 6.8.
//!
//! One file at a time is the controller's: it acquires the backend, and gives clients, which are named
//! by their pid, segments of the aperture. The newest file that a client's process has open becomes the
//! client's. `mmap`, under one mutex and in this order:
//!
//! 1. nobody ever acquired the backend: `EPERM`
//! 2. the file is not valid, by having acquired, or by being a client of the controller that has: `EPERM`
//! 3. a client's file:
//!    1. offset and size reach beyond the aperture: `EINVAL`
//!    2. the calling process is no client: `EPERM`
//!    3. none of its segments has this start, this size and this protection, exactly: `EINVAL`
//! 4. a controller's file: a size other than the aperture's: `EINVAL`. The offset is never looked at.
//! 5. else `EPERM`
//!
//! Closing a client's file ends the client, closing the controller's ends all of its clients.
//!
//! What is mapped is shown at once and write-combined (`io_remap_pfn_range()`; a failure is `EAGAIN`), or
//! by the operations of the bridge, which answer faults. Those are alpha's: a page is counted from the
//! start of its vma, with no regard to the offset.
//!
//! Hazards of the original, kept:
//!
//! - The size is an `unsigned int`: of a mapping of 4 GiB and a page only the page is looked at. It is
//!   mapped at the start of the vma, uncached: x86 keeps the memory type only of a remap that fills its vma.
//! - Faults of the lazy bridge see the whole aperture, whatever the segment; after the front of a mapping
//!   has been unmapped, each page that is touched first then is another.
//! - A mapping outlives its segment, its client, its controller and its file.
//!
//! Where the original could harm the kernel, this one refuses: of a mapping of exactly 4 GiB it would
//! map nothing, at which `remap_pfn_range()` stops the machine (here `EAGAIN`). Memory of the aperture
//! has no `struct page` here, so the lazy bridge answers no fault of a private mapping (`SIGBUS`). Of the
//! commands only those are here that `mmap` depends on.

use super::{
    abi,
    node::Persona,
    SharedWindow, //
};
use crate::mm::{
    Caching,
    FaultError,
    Memory,
    PageProt,
    PlainFaults,
    PlainMapped,
    PlainPage,
    PlainVma, //
};
use kernel::{
    fs::File,
    mm::virt::{flags, vm_flags_t},
    new_mutex,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::{Arc, Mutex},
    task::{Kuid, Pid},
    uaccess::{UserSlice, UserSliceReader}, //
};

extern "C" {
    /// `task_pid_nr(current)`.
    fn mapwitness_current_pid() -> Pid;
}

/// The calling thread.
fn current_pid() -> Pid {
    // SAFETY: The function has no requirements: there always is a current task.
    unsafe { mapwitness_current_pid() }
}

/// What the size of an aperture is counted in.
pub(super) const MIB: usize = 0x10_0000;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;

/// When a bridge maps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bridge {
    /// At once.
    Eager,
    /// By vm operations of its own.
    Lazy,
}

#[pin_data]
pub(super) struct Agp {
    window: SharedWindow,
    bridge: Bridge,
    #[pin]
    state: Mutex<State>,
}

/// What the original has in `agp_fe` and in the bridge.
struct State {
    /// Whether somebody ever acquired the backend.
    acquired: bool,
    /// Whether somebody has it now.
    in_use: bool,
    /// The controller that has it.
    current: Option<Pid>,
    controllers: KVec<Controller>,
    /// The newest last.
    files: KVec<OpenFile>,
    next: u64,
}

struct Controller {
    pid: Pid,
    clients: KVec<Client>,
}

struct Client {
    pid: Pid,
    segments: KVec<Segment>,
}

struct Segment {
    start: usize,
    npages: usize,
    prot: PageProt,
}

struct OpenFile {
    number: u64,
    pid: Pid,
    valid: bool,
    client: bool,
    controller: bool,
    may_control: bool,
}

impl Agp {
    /// The whole window as the aperture.
    pub(super) fn new(window: SharedWindow, bridge: Bridge) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                window,
                bridge,
                state <- new_mutex!(State {
                    acquired: false,
                    in_use: false,
                    current: None,
                    controllers: KVec::new(),
                    files: KVec::new(),
                    next: 0,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// Size of the aperture in bytes, by the arithmetic of the original.
    fn size(&self) -> u32 {
        let mib = self.window.memory().npages() * PAGE_SIZE / MIB;

        (mib as u32).wrapping_mul(MIB as u32)
    }

    /// Shows `size` bytes of the aperture from `offset` on.
    fn show<'a>(&self, vma: PlainVma<'a>, offset: usize, size: u32) -> Result<PlainMapped<'a>> {
        let window = self.window.memory();

        match self.bridge {
            Bridge::Eager => vma
                .io_remap(window, offset >> PAGE_SHIFT, size as usize, Caching::WriteCombined)
                .map_err(|_| EAGAIN),
            Bridge::Lazy => {
                let aperture = Aperture {
                    window: self.window.clone(),
                };
                Ok(vma.on_fault(Arc::new(aperture, GFP_KERNEL)?))
            }
        }
    }
}

impl Persona for Agp {
    type File = u64;

    fn open(self: &Arc<Self>, _: &File) -> Result<u64> {
        let pid = current_pid();
        let mut state = self.state.lock();
        let number = state.next;
        let client = state.client(pid).is_some();

        state.files.push(
            OpenFile {
                number,
                pid,
                valid: client,
                client,
                controller: false,
                may_control: Kuid::current_euid().into_uid_in_current_ns() == 0,
            },
            GFP_KERNEL,
        )?;
        state.next += 1;
        Ok(number)
    }

    fn mmap<'a>(self: &Arc<Self>, file: &u64, vma: PlainVma<'a>) -> Result<PlainMapped<'a>> {
        let mut state = self.state.lock();

        if !state.acquired {
            return Err(EPERM);
        }
        let file = state.file(*file)?;
        if !file.valid {
            return Err(EPERM);
        }
        let (is_client, is_controller) = (file.client, file.controller);
        // As in the original, of a size only 32 bits are seen.
        let size = vma.len_bytes() as u32;
        let offset = vma.pgoff() << PAGE_SHIFT;

        if is_client {
            if (size as usize).wrapping_add(offset) > self.size() as usize {
                return Err(EINVAL);
            }
            let client = state.client(current_pid()).ok_or(EPERM)?;
            let is_this = |segment: &Segment| {
                segment.start == offset >> PAGE_SHIFT
                    && segment.npages == size as usize >> PAGE_SHIFT
                    && segment.prot == vma.page_prot()
            };
            if !client.segments.iter().any(is_this) {
                return Err(EINVAL);
            }
            return self.show(vma, offset, size);
        }
        if is_controller {
            if size != self.size() {
                return Err(EINVAL);
            }
            return self.show(vma, 0, size);
        }
        Err(EPERM)
    }

    fn ioctl(&self, file: &u64, command: u32, argument: UserSlice) -> Result {
        let mut state = self.state.lock();

        if command == abi::AGP_ACQUIRE {
            return state.acquire(*file);
        }
        let current = state.current.ok_or(EINVAL)?;
        let file = state.file(*file)?;
        if !file.controller {
            return Err(EPERM);
        }
        if file.pid != current {
            return Err(EBUSY);
        }
        match command {
            abi::AGP_RELEASE => {
                file.valid = false;
                state.release();
                Ok(())
            }
            abi::AGP_RESERVE => state.reserve(argument.reader()),
            _ => Err(ENOTTY),
        }
    }

    fn release(&self, file: &u64) {
        let mut state = self.state.lock();
        let Some(at) = state.files.iter().position(|one| one.number == *file) else {
            return;
        };
        let Ok(file) = state.files.remove(at) else {
            return;
        };

        if file.controller {
            if state.current == Some(file.pid) {
                state.release();
            }
            state.remove_controller(file.pid);
        }
        if file.client {
            state.remove_client(file.pid);
        }
    }
}

impl State {
    fn file(&mut self, number: u64) -> Result<&mut OpenFile> {
        self.files
            .iter_mut()
            .find(|file| file.number == number)
            .ok_or(EBADF)
    }

    /// The newest file of a process.
    fn file_of(&mut self, pid: Pid) -> Option<&mut OpenFile> {
        self.files.iter_mut().rev().find(|file| file.pid == pid)
    }

    /// A client of the controller that has the backend.
    fn client(&mut self, pid: Pid) -> Option<&mut Client> {
        let current = self.current?;
        let controller = self.controllers.iter_mut().find(|one| one.pid == current)?;

        controller.clients.iter_mut().find(|client| client.pid == pid)
    }

    fn acquire(&mut self, number: u64) -> Result {
        let file = self.file(number)?;
        if !file.may_control {
            return Err(EPERM);
        }
        let pid = file.pid;
        if self.current.is_some() || self.in_use {
            return Err(EBUSY);
        }
        if !self.controllers.iter().any(|one| one.pid == pid) {
            let clients = KVec::new();
            self.controllers.push(Controller { pid, clients }, GFP_KERNEL)?;
        }
        self.in_use = true;
        self.acquired = true;
        self.current = Some(pid);
        self.mark_clients(pid, |file| {
            file.valid = true;
            file.client = true;
        });
        let file = self.file(number)?;
        file.controller = true;
        file.valid = true;
        Ok(())
    }

    /// Gives the backend back; that it was ever acquired stays.
    fn release(&mut self) {
        if let Some(current) = self.current.take() {
            self.mark_clients(current, |file| file.valid = false);
        }
        self.in_use = false;
    }

    /// Does something to the newest file of each client of `controller`.
    fn mark_clients(&mut self, controller: Pid, mark: impl Fn(&mut OpenFile)) {
        let mut controllers = self.controllers.iter();
        let Some(controller) = controllers.find(|one| one.pid == controller) else {
            return;
        };

        for client in &controller.clients {
            let mut files = self.files.iter_mut().rev();
            if let Some(file) = files.find(|file| file.pid == client.pid) {
                mark(file);
            }
        }
    }

    fn reserve(&mut self, mut argument: UserSliceReader) -> Result {
        let pid: Pid = argument.read()?;
        let count: u32 = argument.read()?;

        if count as usize > abi::AGP_MAX_SEGMENTS {
            return Err(EINVAL);
        }
        let mut segments = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        for _ in 0..count {
            segments.push(Segment::read(&mut argument)?, GFP_KERNEL)?;
        }
        if count == 0 {
            // The original marks the file of a client that it is about to remove.
            self.make_client_file(pid);
            self.remove_client(pid);
            return Ok(());
        }
        if let Some(client) = self.client(pid) {
            client.segments = segments;
            return Ok(());
        }
        let current = self.current.ok_or(EINVAL)?;
        let mut controllers = self.controllers.iter_mut();
        let controller = controllers.find(|one| one.pid == current).ok_or(EINVAL)?;
        controller.clients.push(Client { pid, segments }, GFP_KERNEL)?;
        self.make_client_file(pid);
        Ok(())
    }

    fn make_client_file(&mut self, pid: Pid) {
        if let Some(file) = self.file_of(pid) {
            file.client = true;
            file.valid = true;
        }
    }

    fn remove_controller(&mut self, pid: Pid) {
        self.mark_clients(pid, |file| {
            file.valid = false;
            file.client = false;
        });
        self.controllers.retain(|controller| controller.pid != pid);
    }

    fn remove_client(&mut self, pid: Pid) {
        for controller in &mut self.controllers {
            controller.clients.retain(|client| client.pid != pid);
        }
    }
}

impl Segment {
    fn read(argument: &mut UserSliceReader) -> Result<Self> {
        let start = argument.read::<u64>()?;
        let npages = argument.read::<u64>()?;
        let prot = argument.read::<u64>()?;
        let flag = |bit, flag: vm_flags_t| if prot & bit != 0 { flag } else { 0 };

        Ok(Self {
            start: usize::try_from(start)?,
            npages: usize::try_from(npages)?,
            // Whatever is asked for, it is that of a shared mapping.
            prot: PageProt::of_flags(
                flag(PROT_READ, flags::READ)
                    | flag(PROT_WRITE, flags::WRITE)
                    | flag(PROT_EXEC, flags::EXEC)
                    | flags::SHARED,
            ),
        })
    }
}

/// The lazy bridge's view of the aperture.
struct Aperture {
    window: SharedWindow,
}

// SAFETY: No page of RAM is ever answered.
unsafe impl PlainFaults for Aperture {
    fn fault(&self, index: usize, _pgoff: usize) -> Result<PlainPage<'_>, FaultError> {
        Ok(PlainPage::Device(self.window.memory(), index))
    }
}
