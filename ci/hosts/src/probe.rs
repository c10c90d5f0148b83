//! What /dev/kvm can really do, found by running a tiny real guest.
//!
//! That the device opens proves nothing: there are KVMs that make VMs and vCPUs and
//! then die on the first instruction that their emulator does not know.

mod found;
mod guest;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

pub use found::{Failure, Probe, SecondLevel, Vendor};

/// The KVM device.
pub const KVM_DEVICE: &str = "/dev/kvm";
/// `KVM_API_VERSION` of every kernel since 2.6.22 (Documentation/virt/kvm/api.rst).
const API_VERSION: i32 = 12;
/// Far above what the guest needs, even in an emulated CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Offset above `SIGRTMIN` of the signal that ends a guest that does not end itself;
/// high, to stay clear of those that a VMM uses for its own vCPUs.
const KICK_OFFSET: i32 = 9;

/// Runs the tiny guest and says what came of it. Takes milliseconds, and ends in
/// any case.
pub fn probe() -> Probe {
    if !Path::new(KVM_DEVICE).exists() {
        return Probe::NoDevice;
    }
    let vendor = vendor();
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) if matches!(error.errno(), libc::EACCES | libc::EPERM) => {
            return Probe::NoPermission;
        }
        // The node is there but nothing serves it.
        Err(error) if matches!(error.errno(), libc::ENODEV | libc::ENXIO | libc::ENOENT) => {
            return Probe::NoDevice;
        }
        Err(error) => {
            let failure = Failure::Call {
                name: "open",
                error: error.to_string(),
            };
            return Probe::Foreign { vendor, failure };
        }
    };
    match run_guest(&kvm) {
        Ok(()) => Probe::Usable {
            vendor,
            second_level: second_level(vendor),
        },
        Err(failure) => Probe::Foreign { vendor, failure },
    }
}

fn vendor() -> Vendor {
    let loaded = |name: &str| Path::new("/sys/module").join(name).exists();
    // A paravirtual KVM stands in front of the others where it is loaded.
    if loaded("kvm_pvm") {
        Vendor::KvmPvm
    } else if loaded("kvm_intel") {
        Vendor::KvmIntel
    } else if loaded("kvm_amd") {
        Vendor::KvmAmd
    } else {
        Vendor::Unknown
    }
}

fn second_level(vendor: Vendor) -> SecondLevel {
    let (parameter, level) = match vendor {
        Vendor::KvmIntel => ("kvm_intel/parameters/ept", SecondLevel::Ept),
        Vendor::KvmAmd => ("kvm_amd/parameters/npt", SecondLevel::Npt),
        Vendor::KvmPvm | Vendor::Unknown => return SecondLevel::Shadow,
    };
    let value = fs::read_to_string(Path::new("/sys/module").join(parameter));
    match value.unwrap_or_default().trim() {
        "Y" | "1" => level,
        _ => SecondLevel::Shadow,
    }
}

fn call<T>(name: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Call {
        name,
        error: error.to_string(),
    })
}

fn run_guest(kvm: &Kvm) -> Result<(), Failure> {
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Failure::ApiVersion(version));
    }
    let memory = guest::Memory::with_guest().map_err(|error| Failure::Call {
        name: "mmap",
        error: error.to_string(),
    })?;
    let cpuid = call(
        "KVM_GET_SUPPORTED_CPUID",
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES),
    )?;
    let vm = call("KVM_CREATE_VM", kvm.create_vm())?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: guest::MEMORY_LEN_BYTES as u64,
        userspace_addr: memory.hva(),
    };
    // SAFETY: the region is the whole of `memory`, which outlives `vm` and its vCPU.
    let registered = unsafe { vm.set_user_memory_region(region) };
    call("KVM_SET_USER_MEMORY_REGION", registered)?;
    let vcpu = call("KVM_CREATE_VCPU", vm.create_vcpu(0))?;
    prepare(&vcpu, &cpuid)?;
    run_bounded(vcpu)
}

fn prepare(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), Failure> {
    // Before the registers: KVM judges long mode by the CPUID that it was told.
    call("KVM_SET_CPUID2", vcpu.set_cpuid2(cpuid))?;
    let mut sregs = call("KVM_GET_SREGS", vcpu.get_sregs())?;
    guest::enter_long_mode(&mut sregs);
    call("KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
    let regs = kvm_regs {
        rip: guest::CODE,
        rsi: guest::DATA,
        rdi: if has_bmi2(cpuid) { guest::WITH_BMI2 } else { 0 },
        r12: guest::ALIAS,
        rflags: 2,
        ..kvm_regs::default()
    };
    call("KVM_SET_REGS", vcpu.set_regs(&regs))
}

/// CPUID leaf 7, subleaf 0, EBX bit 8 (SDM vol. 2A, CPUID).
fn has_bmi2(cpuid: &CpuId) -> bool {
    cpuid
        .as_slice()
        .iter()
        .any(|entry| entry.function == 7 && entry.index == 0 && entry.ebx & (1 << 8) != 0)
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn run_bounded(mut vcpu: VcpuFd) -> Result<(), Failure> {
    let kick = SIGRTMIN() + KICK_OFFSET;
    // Without a handler the signal would end the process instead of KVM_RUN.
    call("sigaction", register_signal_handler(kick, ignore))?;
    let expired = Arc::new(AtomicBool::new(false));
    let expired_there = Arc::clone(&expired);
    let (done, finished) = mpsc::channel();
    let runner = thread::spawn(move || {
        let result = run_vcpu(&mut vcpu, &expired_there);
        // The receiver outlives this thread; it is joined below.
        let _ = done.send(());
        result
    });
    if finished.recv_timeout(PATIENCE).is_err() {
        expired.store(true, Ordering::SeqCst);
        // Repeated, for a signal that arrives between two KVM_RUN is lost.
        while !runner.is_finished() {
            if runner.kill(kick).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    runner.join().unwrap_or(Err(Failure::WrongResult))
}

fn run_vcpu(vcpu: &mut VcpuFd, expired: &AtomicBool) -> Result<(), Failure> {
    let mut reported = false;
    loop {
        if expired.load(Ordering::SeqCst) {
            return Err(Failure::Timeout);
        }
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) if port == guest::REPORT_PORT => {
                reported = data == guest::REPORT_VALUE.to_le_bytes();
            }
            Ok(VcpuExit::Hlt) if reported => return Ok(()),
            Ok(VcpuExit::Hlt) => return Err(Failure::WrongResult),
            Ok(VcpuExit::InternalError) => break,
            Ok(other) => return Err(Failure::Exit(format!("{other:?}"))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return call("KVM_RUN", Err(error)),
        }
    }
    // SAFETY: KVM filled the `internal` variant, as the exit reason says.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    Err(Failure::InternalError { suberror })
}
