//! A VM from its configuration to its end.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use addr::Gpa;
use kvm_bindings::{KVM_CAP_PRE_FAULT_MEMORY, kvm_regs, kvm_sregs};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use walk::{PagingRegs, Vendor};

use crate::boot::{self, Entry};
use crate::buffers::Buffer;
use crate::bus::Bus;
use crate::config::VmConfig;
use crate::console::Console;
use crate::cpuid::{self, Topology};
use crate::dma::{Dma, DmaRegisters};
use crate::error::{Ended, VmError};
use crate::events::EventLoop;
use crate::foreign::ForeignRegisters;
use crate::hpet::Hpet;
use crate::layout;
use crate::prefault::prefault;
use crate::slots::{MemSlot, Offer, Slots};
use crate::threads::{Noted, Threads};
use crate::vcpu::{self, AddressLimits, Report, Shared, Vcpu};
use crate::window::{self, Window};

/// A VM whose guest stands still, except within [`Vm::run_to_doorbell`].
///
/// Whoever holds a shared reference to it may look at the guest at leisure: only
/// the methods that take `&mut self` let it run.
pub struct Vm {
    // The order is that of dropping: threads and descriptors go before the memory
    // that KVM knows by its addresses.
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) vm: VmFd,
    pub(crate) shared: Arc<Shared>,
    pub(crate) reports: Receiver<(usize, Report)>,
    pub(crate) events: EventLoop,
    pub(crate) slots: Slots,
    pub(crate) windows: Vec<Window>,
    pub(crate) hpet: Option<Hpet>,
    prefault_threads: Noted,
    pub(crate) console: Console,
    pub(crate) echo: bool,
    pub(crate) hang_after: Duration,
    /// The vCPU that rang last.
    pub(crate) at_doorbell: Option<usize>,
    pub(crate) ended: Option<Box<Ended>>,
    /// Of the processor, as the guest is told.
    pub(crate) vendor: Vendor,
    /// Asked for once: it is a long list that never changes.
    limits: OnceLock<AddressLimits>,
}

impl Vm {
    /// Builds the VM and loads the guest. Nothing runs yet.
    ///
    /// # Errors
    /// [`VmError`] for a configuration, an image or a host that does not do.
    pub fn new(config: &VmConfig) -> Result<Self, VmError> {
        config.check()?;
        let windows = window::place(config)?;
        let slots = Slots::new(config, &windows)?;
        let device = &windows[..config.windows.len()];
        let entry = boot::load(config, slots.memory(), device)?;
        Self::build(config, windows, slots, Some(entry))
    }

    /// Puts a VM around its memory. Without an entry point the vCPUs have no state yet.
    pub(crate) fn build(
        config: &VmConfig,
        windows: Vec<Window>,
        slots: Slots,
        entry: Option<Entry>,
    ) -> Result<Self, VmError> {
        let device = &windows[..config.windows.len()];
        let hpet = windows
            .get(device.len())
            .map(|page| Hpet::new(device.len(), page, config.scramble_seed));
        let kvm = Kvm::new()
            .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
            .map_err(VmError::OpenKvm)?;
        let vm = kvm.create_vm().map_err(VmError::kvm("KVM_CREATE_VM"))?;
        vm.set_tss_address(layout::KVM_TSS)
            .map_err(VmError::kvm("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip()
            .map_err(VmError::kvm("KVM_CREATE_IRQCHIP"))?;
        slots.register(&vm)?;

        let (reported, line) = (eventfd()?, eventfd()?);
        let events = EventLoop::new(&reported, &line)?;
        let console = Console::new(config.echo_console.then_some(line));
        let dma = Dma::new(slots.memory().clone(), config.ram_len_bytes, device);
        let mut bus = Bus::new(console.clone(), device, &config.buffers, dma);
        bus.foreign = ForeignRegisters::of(&config.registers);
        let shared = Arc::new(Shared {
            bus: Mutex::new(bus),
            pause: AtomicBool::new(false),
            reported,
        });
        let (sender, reports) = channel();
        let mut vcpus = Vec::new();
        let supported = cpuid::supported(&kvm)?;
        for index in 0..config.vcpus {
            let fd = vm
                .create_vcpu(u64::from(index))
                .map_err(VmError::kvm("KVM_CREATE_VCPU"))?;
            let topology = Topology {
                apic_id: index,
                vcpus: config.vcpus,
            };
            let cpuid = cpuid::for_vcpu(&supported, topology);
            vcpu::configure(&fd, &cpuid, entry.filter(|_| index == 0))?;
            let shared = Arc::clone(&shared);
            vcpus.push(Vcpu::spawn(usize::from(index), fd, shared, sender.clone())?);
        }
        Ok(Self {
            vcpus,
            vm,
            shared,
            reports,
            events,
            slots,
            windows,
            hpet,
            prefault_threads: Noted::default(),
            console,
            echo: config.echo_console,
            hang_after: config.hang_after,
            at_doorbell: None,
            ended: None,
            vendor: cpuid::vendor(&supported),
            limits: OnceLock::new(),
        })
    }

    /// A handle by which another thread can stop the guest.
    ///
    /// # Errors
    /// [`VmError::Host`] when no descriptor is left.
    pub fn stop_handle(&mut self) -> Result<EventFd, VmError> {
        self.events.stop_handle()
    }

    /// What the guest printed.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The windows of the device, in the order of its window table, then the page of
    /// the event timer if there is one.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The high precision event timer.
    pub fn hpet(&self) -> Option<&Hpet> {
        self.hpet.as_ref()
    }

    /// Changes what the guest has of window `index` from now on. The memory behind it
    /// stays what it is, and nobody tells the guest.
    ///
    /// # Errors
    /// [`VmError::Config`] when there is no such window, [`VmError::Kvm`] when KVM
    /// refuses the change.
    pub fn offer_window(&mut self, index: usize, offer: Offer) -> Result<(), VmError> {
        self.slots.offer(&self.vm, index, offer)
    }

    /// The VMM's own table of memslots, as KVM has them now.
    pub fn memslots(&self) -> &[MemSlot] {
        self.slots.table()
    }

    /// Whether KVM notes which pages the guest stores to, as it does from the first snapshot
    /// on: it withholds the right to store to a page until the guest does.
    pub fn notes_stores(&self) -> bool {
        self.slots.logs_dirty_pages()
    }

    /// Values that the driver wrote to the device's doorbell since the last call.
    pub fn take_device_doorbells(&mut self) -> Vec<u32> {
        self.shared.bus().registers.take_doorbells()
    }

    /// The buffers of the device as the driver has set them up: what the device itself
    /// would read and write. The addresses come from the guest and need not be RAM.
    pub fn buffers(&self) -> Vec<Buffer> {
        self.shared.bus().registers.buffers.buffers().to_vec()
    }

    /// What the registers of the device's DMA engine hold; they come from the guest.
    pub fn dma_registers(&self) -> DmaRegisters {
        self.shared.bus().dma.registers()
    }

    /// Reads an aligned word of guest memory.
    ///
    /// # Errors
    /// [`VmError::GuestMemory`] where no memslot backs it.
    pub fn read_u64(&self, gpa: Gpa) -> Result<u64, VmError> {
        self.slots.read_u64(gpa)
    }

    /// Reads words of guest memory that follow one another, each in one piece.
    ///
    /// # Errors
    /// [`VmError::GuestMemory`] where no memslot backs all of it.
    pub fn read_words(&self, gpa: Gpa, into: &mut [u64]) -> Result<(), VmError> {
        self.slots.read_words(gpa, into)
    }

    /// Copies from guest memory.
    ///
    /// # Errors
    /// [`VmError::GuestMemory`] where no memslot backs it.
    pub fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), VmError> {
        let len_bytes = into.len() as u64;
        self.slots
            .memory()
            .read_slice(into, GuestAddress(gpa.raw()))
            .map_err(|_| VmError::GuestMemory { gpa, len_bytes })
    }

    /// Copies to guest memory.
    ///
    /// # Errors
    /// [`VmError::GuestMemory`] where no memslot backs it.
    pub fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), VmError> {
        let len_bytes = bytes.len() as u64;
        self.slots
            .memory()
            .write_slice(bytes, GuestAddress(gpa.raw()))
            .map_err(|_| VmError::GuestMemory { gpa, len_bytes })
    }

    /// Descriptor of the VM, which this value keeps open.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.vm`, which `self` owns for
        // the lifetime of this borrow.
        unsafe { BorrowedFd::borrow_raw(self.vm.as_raw_fd()) }
    }

    /// Number of the descriptor of the vCPU that rang. It stays open as long as
    /// this VM.
    ///
    /// # Errors
    /// [`VmError::Config`] before the first doorbell.
    pub fn vcpu_descriptor(&self) -> Result<RawFd, VmError> {
        Ok(self.frozen_vcpu()?.fd().as_raw_fd())
    }

    /// Whether KVM maps guest memory without an access of the guest, as Linux does
    /// from 6.11 on.
    pub fn can_prefault(&self) -> bool {
        let capability = u64::from(KVM_CAP_PRE_FAULT_MEMORY);
        self.vm.check_extension_raw(capability) > 0
    }

    /// Makes KVM map guest memory in its second-level tables, as an access of the
    /// vCPU that rang would, without one (`KVM_PRE_FAULT_MEMORY`).
    ///
    /// # Errors
    /// [`VmError::Kvm`] where KVM cannot (before Linux 6.11, under shadow paging)
    /// or no memslot backs all of it.
    pub fn prefault(&self, start: Gpa, len_bytes: u64) -> Result<(), VmError> {
        let fd = self.frozen_vcpu()?.fd();
        prefault(&fd, &self.prefault_threads, start, len_bytes).map_err(|source| VmError::Kvm {
            call: "KVM_PRE_FAULT_MEMORY",
            source,
        })
    }

    /// Takes the memory of window `index` away from this process's page tables and
    /// gives it back, upon which KVM drops every second-level entry that leads there.
    /// Contents, frames and memslots stay; the guest's next access makes a new entry.
    ///
    /// # Errors
    /// [`VmError::Config`] without such a window; [`VmError::Host`] when the kernel
    /// refuses, after which the window may be out of reach.
    pub fn forget_window(&mut self, index: usize) -> Result<(), VmError> {
        let window = self
            .windows
            .get(index)
            .ok_or_else(|| VmError::Config(format!("no window {index}")))?;
        window
            .withdraw()
            .map_err(VmError::host("withdraw a window's memory"))
    }

    /// Gives a page of window `index` another frame of the host, with the same contents.
    ///
    /// # Errors
    /// [`VmError::Config`] without such a window; [`VmError::Host`] without such a page,
    /// or when the kernel refuses.
    pub fn exchange_frame(&mut self, index: usize, page: u64) -> Result<(), VmError> {
        let window = self.windows.get_mut(index);
        let window = window.ok_or_else(|| VmError::Config(format!("no window {index}")))?;
        window
            .exchange_frame(page)
            .map_err(VmError::host("give a window's page another frame"))
    }

    /// The threads through which this VM alone reaches KVM.
    pub fn threads(&self) -> Threads {
        Threads {
            vcpus: self.vcpus.iter().map(Vcpu::tid).collect(),
            prefault: self.prefault_threads.all(),
        }
    }

    fn frozen_vcpu(&self) -> Result<&Vcpu, VmError> {
        self.at_doorbell
            .and_then(|index| self.vcpus.get(index))
            .ok_or_else(|| VmError::Config("no vCPU stands at the doorbell".into()))
    }

    /// How the vCPU that rang translates addresses.
    ///
    /// # Errors
    /// [`VmError::Config`] before the first doorbell, [`VmError::Kvm`] when KVM
    /// does not tell.
    pub fn paging_regs(&self) -> Result<PagingRegs, VmError> {
        let fd = self.frozen_vcpu()?.fd();
        let limits = match self.limits.get() {
            Some(limits) => *limits,
            None => {
                let limits = AddressLimits::of(&fd)?;
                *self.limits.get_or_init(|| limits)
            }
        };
        vcpu::paging_regs(&fd, limits)
    }

    /// General registers of the vCPU that rang.
    ///
    /// # Errors
    /// As [`Vm::paging_state`].
    pub fn regs(&self) -> Result<kvm_regs, VmError> {
        let fd = self.frozen_vcpu()?.fd();
        fd.get_regs().map_err(VmError::kvm("KVM_GET_REGS"))
    }

    /// Special registers of the vCPU that rang.
    ///
    /// # Errors
    /// As [`Vm::paging_state`].
    pub fn sregs(&self) -> Result<kvm_sregs, VmError> {
        let fd = self.frozen_vcpu()?.fd();
        fd.get_sregs().map_err(VmError::kvm("KVM_GET_SREGS"))
    }

    /// KVM's own translation of a guest virtual address (`KVM_TRANSLATE`), by the
    /// vCPU that rang. `None` when KVM finds it unmapped.
    ///
    /// # Errors
    /// As [`Vm::paging_state`].
    pub fn kvm_translate(&self, gva: addr::Gva) -> Result<Option<Gpa>, VmError> {
        let fd = self.frozen_vcpu()?.fd();
        let answer = fd
            .translate_gva(gva.raw())
            .map_err(VmError::kvm("KVM_TRANSLATE"))?;
        Ok((answer.valid != 0).then(|| Gpa::new(answer.physical_address)))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Every vCPU has reported whenever this value is free to be dropped, so
        // that the threads wait for an order that never comes and end at once.
        self.vcpus.iter_mut().for_each(Vcpu::join);
    }
}

fn eventfd() -> Result<EventFd, VmError> {
    EventFd::new(EFD_NONBLOCK).map_err(VmError::host("create an eventfd"))
}
