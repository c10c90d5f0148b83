//! A VM from its configuration to its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use addr::{Gpa, PAGE_SIZE};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_sregs};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot;
use crate::bus::Bus;
use crate::config::VmConfig;
use crate::console::Console;
use crate::cpuid::{self, Topology};
use crate::error::{End, Ended, VmError};
use crate::events::{EventLoop, Wakeup};
use crate::layout;
use crate::slots::{MemSlot, Slots};
use crate::vcpu::{self, Report, Shared, Vcpu};
use crate::window::Window;

/// Lines of the console that an error carries.
const TAIL_LINES: usize = 20;
/// How long a kicked vCPU is given before it is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(10);

/// A VM whose guest stands still, except within [`Vm::run_to_doorbell`].
///
/// Whoever holds a shared reference to it may look at the guest at leisure: only
/// the methods that take `&mut self` let it run.
pub struct Vm {
    // The order is that of dropping: threads and descriptors go before the memory
    // that KVM knows by its addresses.
    vcpus: Vec<Vcpu>,
    /// Keeps the VM itself open.
    _vm: VmFd,
    shared: Arc<Shared>,
    reports: Receiver<(usize, Report)>,
    events: EventLoop,
    slots: Slots,
    windows: Vec<Window>,
    console: Console,
    echo: bool,
    hang_after: Duration,
    /// The vCPU that rang last.
    at_doorbell: Option<usize>,
    ended: Option<Box<Ended>>,
}

/// Registers of a vCPU that decide how its addresses are translated, as KVM gives
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingState {
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// `IA32_EFER`.
    pub efer: u64,
    /// `IA32_PAT`.
    pub pat: u64,
    /// Physical address width that the guest was told, in bits.
    pub maxphyaddr: u8,
    /// Whether the guest was told of 1 GiB pages.
    pub gib_pages: bool,
    /// Whether the guest was told that its processor is AMD's or Hygon's.
    pub amd: bool,
}

impl Vm {
    /// Builds the VM and loads the guest. Nothing runs yet.
    ///
    /// # Errors
    /// [`VmError`] for a configuration, an image or a host that does not do.
    pub fn new(config: &VmConfig) -> Result<Self, VmError> {
        check(config)?;
        let windows = place_windows(config)?;
        let kvm = Kvm::new()
            .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
            .map_err(VmError::OpenKvm)?;
        let vm = kvm.create_vm().map_err(VmError::kvm("KVM_CREATE_VM"))?;
        vm.set_tss_address(layout::KVM_TSS)
            .map_err(VmError::kvm("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip()
            .map_err(VmError::kvm("KVM_CREATE_IRQCHIP"))?;
        let slots = Slots::new(config, &windows)?;
        slots.register(&vm)?;
        let entry = boot::load(config, slots.memory(), &windows)?;

        let (reported, line) = (eventfd()?, eventfd()?);
        let events = EventLoop::new(&reported, &line)?;
        let console = Console::new(config.echo_console.then_some(line));
        let shared = Arc::new(Shared {
            bus: Mutex::new(Bus::new(console.clone(), &windows)),
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
            vcpu::configure(&fd, &cpuid, (index == 0).then_some(entry))?;
            let shared = Arc::clone(&shared);
            vcpus.push(Vcpu::spawn(usize::from(index), fd, shared, sender.clone())?);
        }
        Ok(Self {
            vcpus,
            _vm: vm,
            shared,
            reports,
            events,
            slots,
            windows,
            console,
            echo: config.echo_console,
            hang_after: config.hang_after,
            at_doorbell: None,
            ended: None,
        })
    }

    /// Lets the guest run until its agent rings, and stops all of its vCPUs.
    ///
    /// # Errors
    /// [`VmError::Ended`] when the guest ends or hangs instead; ever after, too.
    pub fn run_to_doorbell(&mut self) -> Result<(), VmError> {
        if let Some(ended) = &self.ended {
            return Err(VmError::Ended(ended.clone()));
        }
        self.shared.pause.store(false, Ordering::Release);
        self.events.arm(self.hang_after)?;
        self.vcpus.iter().for_each(Vcpu::run);
        let mut running = self.vcpus.len();
        let first = loop {
            match self.events.wait()? {
                Wakeup::Stop => break Outcome::End(End::Stopped),
                Wakeup::Watchdog => break Outcome::Hang,
                Wakeup::Console => self.echo_console(),
                Wakeup::Reported => {
                    if let Ok((index, report)) = self.reports.try_recv() {
                        running -= 1;
                        break Outcome::of(index, report);
                    }
                }
            }
        };
        let run = self.conclude(first, running);
        self.echo_console();
        run
    }

    /// Prints new lines of the console when the configuration asks for it.
    fn echo_console(&self) {
        if self.echo {
            for line in self.console.take_lines() {
                eprintln!("guest| {line}");
            }
        }
    }

    /// Brings the remaining vCPUs to a halt and says how the run ended.
    fn conclude(&mut self, first: Outcome, running: usize) -> Result<(), VmError> {
        let mut outcome = first;
        for (index, report) in self.pause_all(running) {
            outcome = outcome.and(Outcome::of(index, report));
        }
        match outcome {
            Outcome::Doorbell(index) => {
                self.at_doorbell = Some(index);
                Ok(())
            }
            Outcome::Hang => {
                let rip = self.vcpus.first().map_or(0, |vcpu| vcpu::rip(&vcpu.fd()));
                let after = self.hang_after;
                Err(self.end(End::Hang { after, rip }))
            }
            Outcome::End(cause) => Err(self.end(cause)),
            // A pause that nobody asked for cannot be told from a stop.
            Outcome::Paused => Err(self.end(End::Stopped)),
        }
    }

    /// Stops `running` vCPUs and gives what each says, in the order of arrival.
    fn pause_all(&self, running: usize) -> Vec<(usize, Report)> {
        self.shared.pause.store(true, Ordering::Release);
        let mut reports = Vec::new();
        while reports.len() < running {
            self.vcpus.iter().for_each(Vcpu::kick);
            match self.reports.recv_timeout(KICK_AGAIN) {
                Ok(report) => reports.push(report),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        reports
    }

    fn end(&mut self, cause: End) -> VmError {
        let cause = match (cause, self.console.find_line("Kernel panic - not syncing")) {
            (End::Reset | End::TripleFault { .. }, Some(line)) => End::Panic { line },
            (cause, _) => cause,
        };
        let ended = Box::new(Ended {
            cause,
            console_tail: self.console.tail(TAIL_LINES),
        });
        self.ended = Some(ended.clone());
        VmError::Ended(ended)
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

    /// The windows of the device, in the order of its window table.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The VMM's own table of memslots.
    pub fn memslots(&self) -> &[MemSlot] {
        self.slots.table()
    }

    /// Values that the driver wrote to the device's doorbell since the last call.
    pub fn take_device_doorbells(&mut self) -> Vec<u32> {
        self.shared.bus().registers.take_doorbells()
    }

    /// Reads an aligned word of guest memory.
    ///
    /// # Errors
    /// [`VmError::GuestMemory`] where no memslot backs it.
    pub fn read_u64(&self, gpa: Gpa) -> Result<u64, VmError> {
        self.slots.read_u64(gpa)
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
    pub fn paging_state(&self) -> Result<PagingState, VmError> {
        const MSR_PAT: u32 = 0x277;
        let fd = self.frozen_vcpu()?.fd();
        let sregs = fd.get_sregs().map_err(VmError::kvm("KVM_GET_SREGS"))?;
        let told = fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(VmError::kvm("KVM_GET_CPUID2"))?;
        Ok(PagingState {
            cr0: sregs.cr0,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            pat: vcpu::read_msr(&fd, MSR_PAT)?,
            maxphyaddr: cpuid::maxphyaddr(&told),
            gib_pages: cpuid::gib_pages(&told),
            amd: cpuid::is_amd(&told),
        })
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

/// How a run ended, the most serious report of all vCPUs.
enum Outcome {
    Doorbell(usize),
    Paused,
    Hang,
    End(End),
}

impl Outcome {
    fn of(index: usize, report: Report) -> Self {
        match report {
            Report::Doorbell => Self::Doorbell(index),
            Report::Paused => Self::Paused,
            Report::Ended(end) => Self::End(end),
        }
    }

    fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Doorbell(_), Self::Doorbell(_)) => Self::End(End::DoorbellCollision),
            (Self::Doorbell(_), Self::End(end)) => Self::End(end),
            (first, _) => first,
        }
    }
}

fn eventfd() -> Result<EventFd, VmError> {
    EventFd::new(EFD_NONBLOCK).map_err(VmError::host("create an eventfd"))
}

fn check(config: &VmConfig) -> Result<(), VmError> {
    let wrong = |what: String| Err(VmError::Config(what));
    if !(1..=8).contains(&config.vcpus) {
        return wrong(format!("{} vCPUs; 1 to 8 can be had", config.vcpus));
    }
    let ram = config.ram_len_bytes;
    let fits = (layout::MIN_RAM_LEN_BYTES..=layout::MAX_RAM_LEN_BYTES).contains(&ram);
    if !fits || !ram.is_multiple_of(2 << 20) {
        return wrong(format!(
            "{ram} bytes of RAM; it takes a multiple of 2 MiB from {} to {}",
            layout::MIN_RAM_LEN_BYTES,
            layout::MAX_RAM_LEN_BYTES
        ));
    }
    if config.windows.len() > wire::regs::MAX_WINDOWS as usize {
        return wrong(format!("{} windows", config.windows.len()));
    }
    Ok(())
}

/// Gives each window its guest physical address, an unbacked gap after each.
fn place_windows(config: &VmConfig) -> Result<Vec<Window>, VmError> {
    let mut next = layout::WINDOWS;
    let mut windows = Vec::new();
    for (index, window) in config.windows.iter().enumerate() {
        let align = window.align_bytes;
        if !align.is_power_of_two() || align < PAGE_SIZE || window.npages == 0 {
            return Err(VmError::Config(format!(
                "window {}: {} pages aligned to {align} bytes",
                window.name, window.npages
            )));
        }
        let end = window
            .npages
            .checked_mul(PAGE_SIZE)
            .and_then(|len| next.checked_next_multiple_of(align)?.checked_add(len))
            .filter(|end| *end <= layout::WINDOWS_END)
            .ok_or_else(|| VmError::Config(format!("no room for window {}", window.name)))?;
        let base = Gpa::new(end - window.npages * PAGE_SIZE);
        let seed = config.scramble_seed.wrapping_add(index as u64);
        windows.push(Window::new(window, base, seed)?);
        next = end + layout::WINDOW_GAP;
    }
    Ok(windows)
}
