//! One vCPU: its state at entry, and its thread.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    CpuId, KVM_EXIT_INTERNAL_ERROR, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs,
    kvm_segment,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};
use walk::PagingRegs;

use crate::boot::Entry;
use crate::bus::{Bus, Request};
use crate::cpuid;
use crate::error::{End, VmError};
use crate::snapshot::bring_to_rest;
use crate::threads;

/// `IA32_MISC_ENABLE` and its fast-string bit (SDM volume 4, table 2-2).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: enabled, write-back (SDM volume 3A, 13.11.2.1).
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Why a vCPU came back from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It rang the agent's doorbell and stands in that instruction.
    Doorbell,
    /// Its driver rang the device, and it stands in that store.
    DeviceDoorbell,
    /// It was told to pause.
    Paused,
    /// The guest is over.
    Ended(End),
}

/// Sets up a vCPU; only the first is given an entry point, the others wait for it.
pub(crate) fn configure(vcpu: &VcpuFd, cpuid: &CpuId, entry: Option<Entry>) -> Result<(), VmError> {
    vcpu.set_cpuid2(cpuid)
        .map_err(VmError::kvm("KVM_SET_CPUID2"))?;
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[
        msr(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        msr(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ])
    .map_err(|error| VmError::Config(format!("model-specific registers: {error}")))?;
    vcpu.set_msrs(&msrs).map_err(VmError::kvm("KVM_SET_MSRS"))?;
    match entry {
        Some(entry) => enter_at(vcpu, entry),
        None => Ok(()),
    }
}

/// 32-bit protected mode without paging, flat segments, the start info in `ebx`
/// (PVH boot protocol).
fn enter_at(vcpu: &VcpuFd, entry: Entry) -> Result<(), VmError> {
    const CR0_PE_ET: u64 = 0x11;
    let flat = |selector, type_| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.get_sregs().map_err(VmError::kvm("KVM_GET_SREGS"))?;
    sregs.cs = flat(0x08, 0xb);
    let data = flat(0x10, 0x3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        limit: 0x67,
        selector: 0x18,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    (sregs.cr0, sregs.cr4, sregs.efer) = (CR0_PE_ET, 0, 0);
    vcpu.set_sregs(&sregs)
        .map_err(VmError::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: entry.rip,
        rbx: entry.start_info,
        // Bit 1 always reads as one (SDM volume 1, 3.4.3).
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(VmError::kvm("KVM_SET_REGS"))
}

/// What all vCPU threads of a VM share.
pub(crate) struct Shared {
    pub(crate) bus: Mutex<Bus>,
    /// The vCPUs are to come back as soon as they can.
    pub(crate) pause: AtomicBool,
    /// Rung after each report.
    pub(crate) reported: EventFd,
}

impl Shared {
    pub(crate) fn bus(&self) -> MutexGuard<'_, Bus> {
        self.bus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a vCPU's thread is to do. All that enters KVM_RUN is done there: KVM notes which
/// thread does, and waits for all readers of the note (`synchronize_rcu`, 10 ms) when it
/// is another one than before.
enum Order {
    /// Run until there is something to report.
    Run,
    /// Complete what the last exit left to be done, and answer.
    Rest(Sender<Result<(), VmError>>),
}

/// A vCPU with the thread that runs it.
pub(crate) struct Vcpu {
    fd: Arc<Mutex<VcpuFd>>,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Vcpu {
    /// Starts the thread; it runs the vCPU each time that [`Vcpu::run`] is called
    /// and sends its index with the reason why it came back.
    pub(crate) fn spawn(
        index: usize,
        fd: VcpuFd,
        shared: Arc<Shared>,
        reports: Sender<(usize, Report)>,
    ) -> Result<Self, VmError> {
        install_kick_handler()?;
        let fd = Arc::new(Mutex::new(fd));
        let (sender, orders) = channel();
        let (started, tid) = channel();
        let thread = thread::Builder::new().name(format!("vcpu{index}")).spawn({
            let fd = Arc::clone(&fd);
            move || {
                // The other end waits for it.
                let _ = started.send(threads::current());
                serve(index, &fd, &shared, &orders, &reports);
            }
        });
        let thread = thread.map_err(VmError::host("start a vCPU thread"))?;
        let tid = tid
            .recv()
            .map_err(io::Error::other)
            .map_err(VmError::host("learn the number of a vCPU thread"))?;
        Ok(Self {
            fd,
            orders: Some(sender),
            thread: Some(thread),
            tid,
        })
    }

    /// The kernel's number of its thread.
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Lets the vCPU run until it reports.
    pub(crate) fn run(&self) {
        if let Some(orders) = &self.orders {
            // A thread that is gone has reported its end already.
            let _ = orders.send(Order::Run);
        }
    }

    /// Completes what the last exit left to be done. The vCPU must not be running.
    pub(crate) fn bring_to_rest(&self) -> Result<(), VmError> {
        let (answer, outcome) = channel();
        if let Some(orders) = &self.orders {
            // A thread that is gone drops the other end.
            let _ = orders.send(Order::Rest(answer));
        }
        outcome
            .recv()
            .map_err(io::Error::other)
            .map_err(VmError::host("reach a vCPU's thread"))?
    }

    /// Interrupts `KVM_RUN`. May come too early or too late: repeat until the
    /// vCPU has reported.
    pub(crate) fn kick(&self) {
        if let Some(thread) = &self.thread {
            // A thread that is gone needs no kick.
            let _ = thread.kill(SIGRTMIN());
        }
    }

    /// The descriptor; blocks while the vCPU runs.
    pub(crate) fn fd(&self) -> MutexGuard<'_, VcpuFd> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread. The vCPU must not be running.
    pub(crate) fn join(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// An empty handler: the signal's only work is to interrupt `KVM_RUN`.
fn install_kick_handler() -> Result<(), VmError> {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
        .map_err(VmError::host("install the handler that interrupts vCPUs"))
}

fn serve(
    index: usize,
    fd: &Mutex<VcpuFd>,
    shared: &Shared,
    orders: &Receiver<Order>,
    reports: &Sender<(usize, Report)>,
) {
    let vcpu = || fd.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok(order) = orders.recv() {
        let report = match order {
            Order::Run => run_until_report(&mut vcpu(), shared),
            Order::Rest(answer) => {
                // Whoever asked waits for it.
                let _ = answer.send(bring_to_rest(&mut vcpu()));
                continue;
            }
        };
        if reports.send((index, report)).is_err() || shared.reported.write(1).is_err() {
            return;
        }
    }
}

fn run_until_report(vcpu: &mut VcpuFd, shared: &Shared) -> Report {
    loop {
        if shared.pause.load(Ordering::Acquire) {
            return Report::Paused;
        }
        if let Some(report) = run_once(vcpu, shared) {
            return report;
        }
    }
}

/// Runs up to the next exit and handles it. `None`: go on.
fn run_once(vcpu: &mut VcpuFd, shared: &Shared) -> Option<Report> {
    let request = match vcpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => shared.bus().port_write(port, data),
        Ok(VcpuExit::IoIn(port, data)) => {
            shared.bus().port_read(port, data);
            Request::Continue
        }
        Ok(VcpuExit::MmioRead(gpa, data)) => {
            shared.bus().mmio_read(gpa, data);
            Request::Continue
        }
        Ok(VcpuExit::MmioWrite(gpa, data)) => shared.bus().mmio_write(gpa, data),
        Ok(VcpuExit::Intr) => Request::Continue,
        Ok(VcpuExit::Shutdown) => {
            return Some(Report::Ended(End::TripleFault { rip: rip(vcpu) }));
        }
        Ok(VcpuExit::FailEntry(reason, _)) => {
            return Some(Report::Ended(End::FailEntry { reason }));
        }
        Ok(VcpuExit::InternalError) => {
            return Some(Report::Ended(internal_error(vcpu)));
        }
        Ok(other) => {
            let exit = format!("{other:?}");
            return Some(Report::Ended(End::UnexpectedExit { exit }));
        }
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Request::Continue,
        Err(error) => {
            let errno = error.errno();
            return Some(Report::Ended(End::RunFailed { errno }));
        }
    };
    match request {
        Request::Continue => None,
        Request::Doorbell => Some(Report::Doorbell),
        Request::DeviceDoorbell => Some(Report::DeviceDoorbell),
        Request::Reset => Some(Report::Ended(End::Reset)),
        Request::PowerOff => Some(Report::Ended(End::PowerOff)),
    }
}

fn internal_error(vcpu: &mut VcpuFd) -> End {
    let run = vcpu.get_kvm_run();
    let suberror = if run.exit_reason == KVM_EXIT_INTERNAL_ERROR {
        // SAFETY: the exit reason says that KVM filled this member of the union,
        // and every bit pattern is a valid u32.
        unsafe { run.__bindgen_anon_1.internal.suberror }
    } else {
        0
    };
    End::KvmInternalError {
        suberror,
        rip: rip(vcpu),
    }
}

/// Instruction pointer for a report; 0 when KVM does not tell.
pub(crate) fn rip(vcpu: &VcpuFd) -> u64 {
    vcpu.get_regs().map_or(0, |regs| regs.rip)
}

/// Value of a model-specific register.
pub(crate) fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<u64, VmError> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry])
        .map_err(|error| VmError::Config(format!("model-specific registers: {error}")))?;
    let count = vcpu
        .get_msrs(&mut msrs)
        .map_err(VmError::kvm("KVM_GET_MSRS"))?;
    match (count, msrs.as_slice()) {
        (1, [entry]) => Ok(entry.data),
        _ => Err(VmError::Config(format!("KVM does not tell MSR {index:#x}"))),
    }
}

/// What a vCPU's CPUID says of addresses: it never changes once the vCPU has run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressLimits {
    maxphyaddr: u8,
    gib_pages: bool,
    vendor: walk::Vendor,
}

impl AddressLimits {
    /// Those of `vcpu`.
    pub(crate) fn of(vcpu: &VcpuFd) -> Result<Self, VmError> {
        let told = vcpu
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(VmError::kvm("KVM_GET_CPUID2"))?;
        Ok(Self {
            maxphyaddr: cpuid::maxphyaddr(&told),
            gib_pages: cpuid::gib_pages(&told),
            vendor: cpuid::vendor(&told),
        })
    }
}

/// Registers and limits that decide how the vCPU translates addresses.
pub(crate) fn paging_regs(vcpu: &VcpuFd, limits: AddressLimits) -> Result<PagingRegs, VmError> {
    const MSR_PAT: u32 = 0x277;
    let sregs = vcpu.get_sregs().map_err(VmError::kvm("KVM_GET_SREGS"))?;
    Ok(PagingRegs {
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
        pat: read_msr(vcpu, MSR_PAT)?,
        maxphyaddr: limits.maxphyaddr,
        gib_pages: limits.gib_pages,
        vendor: limits.vendor,
    })
}
