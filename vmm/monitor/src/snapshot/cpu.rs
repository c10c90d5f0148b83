//! State of one vCPU.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use walk::Vendor;

use super::special::{differences, meaning};
use super::tsc;
use crate::error::VmError;

/// `IA32_TIME_STAMP_COUNTER`. KVM takes a store to it for an attempt to keep the vCPUs
/// together and rounds it, so the counter is set by its offset instead.
const MSR_TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`: means what it says only once the counter and the APIC are right.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// `MSR_KVM_WALL_CLOCK` and its successor (Documentation/virt/kvm/x86/msr.rst): at each
/// store KVM writes the time to guest memory, so that none is made to try.
const WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
/// Registers of Hyper-V's interface, which guests are not offered; some are clocks.
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;
/// Attempts to bring a vCPU to rest; each does one part of an access that is split.
const ATTEMPTS: usize = 16;
/// Words of the XSAVE area that KVM_GET_XSAVE gives.
const XSAVE_WORDS: usize = 1024;
/// Byte of the local APIC's registers where the timer's current count lies; it runs.
const APIC_CURRENT_COUNT: usize = 0x390;

/// Everything of a vCPU that a guest can tell.
///
/// The floating-point state travels in the XSAVE format although XSAVE is withheld from
/// the guest: KVM_GET_FPU and KVM_SET_FPU leave out which of its parts are in use, and a
/// part that is not is taken for zeroes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    #[serde(with = "words")]
    xsave: [u32; XSAVE_WORDS],
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    mp: kvm_mp_state,
    lapic: kvm_lapic_state,
    msrs: Vec<(u32, u64)>,
    /// Value of the time stamp counter.
    tsc: u64,
}

/// Completes what the last exit left to be done, so that the registers are those
/// between two instructions (Documentation/virt/kvm/api.rst, 5, `immediate_exit`).
pub(crate) fn bring_to_rest(vcpu: &mut VcpuFd) -> Result<(), VmError> {
    vcpu.set_kvm_immediate_exit(1);
    let mut outcome = Err(VmError::Config(format!(
        "a vCPU does not come to rest in {ATTEMPTS} attempts"
    )));
    for _ in 0..ATTEMPTS {
        match vcpu.run() {
            // Another part of an access that is lost with the state that asked for it.
            Ok(_) => {}
            Err(error) if error.errno() == libc::EINTR => {
                outcome = Ok(());
                break;
            }
            Err(error) => {
                outcome = Err(VmError::kvm("KVM_RUN")(error));
                break;
            }
        }
    }
    vcpu.set_kvm_immediate_exit(0);
    outcome
}

impl CpuState {
    /// Reads the state of a vCPU at rest; `msrs` are those to look at.
    pub(crate) fn of(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, VmError> {
        Ok(Self {
            regs: vcpu.get_regs().map_err(VmError::kvm("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(VmError::kvm("KVM_GET_SREGS"))?,
            xsave: vcpu
                .get_xsave()
                .map_err(VmError::kvm("KVM_GET_XSAVE"))?
                .region,
            debug: vcpu
                .get_debug_regs()
                .map_err(VmError::kvm("KVM_GET_DEBUGREGS"))?,
            events: vcpu
                .get_vcpu_events()
                .map_err(VmError::kvm("KVM_GET_VCPU_EVENTS"))?,
            mp: vcpu
                .get_mp_state()
                .map_err(VmError::kvm("KVM_GET_MP_STATE"))?,
            lapic: vcpu.get_lapic().map_err(VmError::kvm("KVM_GET_LAPIC"))?,
            msrs: read_msrs(vcpu, msrs)?,
            tsc: tsc::read(vcpu)?,
        })
    }

    /// Gives a vCPU at rest this state. `vendor` is the processor's.
    pub(crate) fn put(&self, vcpu: &VcpuFd, vendor: Vendor) -> Result<(), VmError> {
        vcpu.set_mp_state(self.mp)
            .map_err(VmError::kvm("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs)
            .map_err(VmError::kvm("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.special_registers(vendor))
            .map_err(VmError::kvm("KVM_SET_SREGS"))?;
        let xsave = kvm_xsave {
            region: self.xsave,
            ..Default::default()
        };
        // SAFETY: KVM reads more than this structure only for features that a process
        // has to ask for first (arch_prctl(2), ARCH_REQ_XCOMP_GUEST_PERM); this one
        // never does.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(VmError::kvm("KVM_SET_XSAVE"))?;
        vcpu.set_debug_regs(&self.debug)
            .map_err(VmError::kvm("KVM_SET_DEBUGREGS"))?;
        // Before the APIC, whose timer may count by it.
        tsc::write(vcpu, self.tsc)?;
        vcpu.set_lapic(&self.lapic)
            .map_err(VmError::kvm("KVM_SET_LAPIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(VmError::kvm("KVM_SET_VCPU_EVENTS"))
    }

    /// AMD's processors keep the type of TR without its busy bit; KVM adds the bit when it
    /// is asked (`svm_get_segment` of arch/x86/kvm/svm/svm.c), and does not take it away
    /// again. With the bit, QEMU's emulation refuses user mode every I/O port.
    fn special_registers(&self, vendor: Vendor) -> kvm_sregs {
        const BUSY: u8 = 2;
        let mut sregs = self.sregs;
        if vendor == Vendor::Amd {
            sregs.tr.type_ &= !BUSY;
        }
        sregs
    }

    /// The state without what goes on by itself while the vCPU stands still, and what means
    /// nothing.
    pub(super) fn still(&self) -> Self {
        let mut still = self.clone();
        still.tsc = 0;
        let sregs = &mut still.sregs;
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
            &mut sregs.ldt,
        ] {
            *segment = meaning(*segment);
        }
        for byte in still.lapic.regs.iter_mut().skip(APIC_CURRENT_COUNT).take(4) {
            *byte = 0;
        }
        still
    }

    /// Names what differs in `other`, for a person.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let parts = [
            ("general registers", self.regs == other.regs),
            ("floating point", self.xsave == other.xsave),
            ("debug registers", self.debug == other.debug),
            ("pending events", self.events == other.events),
            ("multiprocessing state", self.mp == other.mp),
            ("local APIC", self.lapic == other.lapic),
        ];
        let msrs = self.msrs.iter().zip(&other.msrs);
        let msrs = msrs
            .filter(|(ours, theirs)| ours != theirs)
            .map(|((index, ours), (_, theirs))| format!("MSR {index:#x}: {ours:#x}, {theirs:#x}"));
        let parts = parts
            .into_iter()
            .filter(|(_, same)| !same)
            .map(|(name, _)| name.to_owned());
        let special = differences(&self.sregs, &other.sregs);
        parts.chain(special).chain(msrs).collect()
    }
}

/// The registers that KVM both tells of this vCPU and takes back, in the order in which
/// they are to be set.
pub(crate) fn restorable_msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<u32>, VmError> {
    let list = kvm
        .get_msr_index_list()
        .map_err(VmError::kvm("KVM_GET_MSR_INDEX_LIST"))?;
    let mut indices: Vec<u32> = list
        .as_slice()
        .iter()
        .copied()
        .filter(|index| *index != MSR_TSC && !HYPER_V.contains(index))
        .filter(|index| {
            // Some are listed for every processor, and this one does not have them.
            read_msrs(vcpu, &[*index])
                .is_ok_and(|found| WALL_CLOCK.contains(index) || write_msrs(vcpu, &found).is_ok())
        })
        .collect();
    indices.sort_by_key(|index| (*index == MSR_TSC_DEADLINE, *index));
    Ok(indices)
}

fn entries(found: &[(u32, u64)]) -> Result<Msrs, VmError> {
    let entries: Vec<kvm_msr_entry> = found
        .iter()
        .map(|(index, data)| kvm_msr_entry {
            index: *index,
            data: *data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries)
        .map_err(|error| VmError::Config(format!("model-specific registers: {error}")))
}

/// Complains when KVM stopped at one of them.
fn all(done: usize, wanted: &[(u32, u64)], verb: &str) -> Result<(), VmError> {
    match wanted.get(done) {
        None => Ok(()),
        Some((index, data)) => Err(VmError::Config(format!(
            "KVM does not {verb} MSR {index:#x} (value {data:#x})"
        ))),
    }
}

fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, VmError> {
    let wanted: Vec<(u32, u64)> = indices.iter().map(|index| (*index, 0)).collect();
    let mut msrs = entries(&wanted)?;
    let done = vcpu
        .get_msrs(&mut msrs)
        .map_err(VmError::kvm("KVM_GET_MSRS"))?;
    all(done, &wanted, "tell")?;
    let found = msrs.as_slice().iter();
    Ok(found.map(|entry| (entry.index, entry.data)).collect())
}

fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), VmError> {
    let done = vcpu
        .set_msrs(&entries(values)?)
        .map_err(VmError::kvm("KVM_SET_MSRS"))?;
    all(done, values, "take")
}

/// An array that serde has no words for.
mod words {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::XSAVE_WORDS;

    pub(super) fn serialize<S: Serializer>(
        words: &[u32; XSAVE_WORDS],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        words.as_slice().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<[u32; XSAVE_WORDS], D::Error> {
        let words = Vec::<u32>::deserialize(from)?;
        let len = words.len();
        let wrong = |_| D::Error::custom(format!("{len} words of XSAVE"));
        words.try_into().map_err(wrong)
    }
}
