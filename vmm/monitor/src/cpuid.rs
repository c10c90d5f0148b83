//! What the guest is told of its processor: KVM's supported set, made consistent.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use walk::Vendor;

use crate::error::VmError;

/// XSAVE and OSXSAVE, and what needs them: FMA, AVX, F16C (leaf 1, ecx).
const LEAF1_ECX_XSAVE: u32 = 1 << 26 | 1 << 27 | 1 << 12 | 1 << 28 | 1 << 29;
/// TSC-deadline timer (leaf 1, ecx): KVM emulates it but leaves it to the VMM to say.
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Running under a hypervisor (leaf 1, ecx).
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// AVX2, MPX and the AVX-512 family (leaf 7, ebx).
const LEAF7_EBX_XSAVE: u32 =
    1 << 5 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21 | 0xf << 26 & !(1 << 29) | 1 << 30 | 1 << 31;
/// Fast `rep movsb` and `rep stosb` (leaf 7, ebx): a kernel that is told of them clears and
/// copies by bytes, of which a software host emulates each. By words it is as fast elsewhere.
const LEAF7_EBX_FAST_BYTES: u32 = 1 << 9;
/// AVX-512 VBMI, PKU, OSPKE, VBMI2, shadow stacks, VAES, VPCLMULQDQ and three more
/// of AVX-512 (leaf 7, ecx).
const LEAF7_ECX_XSAVE: u32 =
    1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
/// AVX-512, AMX and IBT (leaf 7, edx).
const LEAF7_EDX_XSAVE: u32 = 1 << 2 | 1 << 3 | 1 << 8 | 1 << 20 | 0xf << 22;
/// 57-bit addresses (leaf 7, ecx). A kernel that is entered without paging, as PVH
/// does, never turns them on: only its decompressor would.
const LEAF7_ECX_LA57: u32 = 1 << 16;
/// LWP, XOP and FMA4 (leaf 0x8000_0001, ecx).
const AMD_ECX_XSAVE: u32 = 1 << 11 | 1 << 15 | 1 << 16;
/// KVM's paravirtual features that the guest is offered (leaf 0x4000_0001, eax;
/// Documentation/virt/kvm/x86/cpuid.rst): its clock, in the later form and with its promise
/// of one time on all vCPUs, and no delays after port I/O.
///
/// The others keep state that no call tells: a page fault that KVM lets the guest sleep
/// over, say, or an end of interrupt that it has not taken note of. A reset could not bring
/// that back, and the write that turns asynchronous faults on again sends the guest an
/// interrupt that it would not have had.
const KVM_FEATURES: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

/// What to tell one vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Topology {
    pub(crate) apic_id: u8,
    pub(crate) vcpus: u8,
}

/// KVM's supported set, once a VM.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, VmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(VmError::kvm("KVM_GET_SUPPORTED_CPUID"))
}

/// The set for one vCPU.
///
/// XSAVE is taken away with all that needs it. Its leaf 0xD must agree with the
/// processor in every size, which it does not under software emulation; a kernel
/// that sees them differ turns XSAVE off so late that it dies. No driver's mmap
/// depends on it.
pub(crate) fn for_vcpu(supported: &CpuId, topology: Topology) -> CpuId {
    let mut cpuid = supported.clone();
    cpuid.retain(|entry| entry.function != 0xd);
    for entry in cpuid.as_mut_slice() {
        adapt(entry, topology);
    }
    cpuid
}

fn adapt(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let apic_id = u32::from(topology.apic_id);
    match (entry.function, entry.index) {
        (0x1, _) => {
            entry.ecx &= !LEAF1_ECX_XSAVE;
            entry.ecx |= LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR;
            let low = entry.ebx & 0xff00;
            entry.ebx = apic_id << 24 | u32::from(topology.vcpus) << 16 | low;
        }
        (0x7, 0) => {
            entry.ebx &= !(LEAF7_EBX_XSAVE | LEAF7_EBX_FAST_BYTES);
            entry.ecx &= !(LEAF7_ECX_XSAVE | LEAF7_ECX_LA57);
            entry.edx &= !LEAF7_EDX_XSAVE;
        }
        // AVX again, in all its later forms.
        (0x7, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (0xb | 0x1f, index) => adapt_topology_leaf(entry, index, topology),
        (0x4000_0001, _) => entry.eax &= KVM_FEATURES,
        (0x8000_0001, _) => entry.ecx &= !AMD_ECX_XSAVE,
        (0x8000_001e, _) => entry.eax = apic_id,
        _ => {}
    }
}

/// One package with a core for each vCPU (SDM volume 2A, CPUID, leaf 0xB).
fn adapt_topology_leaf(entry: &mut kvm_cpuid_entry2, index: u32, topology: Topology) {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    let vcpus = u32::from(topology.vcpus);
    let core_bits = vcpus.next_power_of_two().trailing_zeros();
    let (shift, count, kind) = match index {
        0 => (0, 1, SMT),
        1 => (core_bits, vcpus, CORE),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = count;
    entry.ecx = kind << 8 | index;
    entry.edx = u32::from(topology.apic_id);
}

fn leaf(cpuid: &CpuId, function: u32) -> Option<&kvm_cpuid_entry2> {
    cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == function)
}

/// Bits of a physical address (leaf 0x8000_0008, eax).
pub(crate) fn maxphyaddr(cpuid: &CpuId) -> u8 {
    /// Of a processor that does not tell.
    const DEFAULT: u8 = 36;
    leaf(cpuid, 0x8000_0008).map_or(DEFAULT, |entry| entry.eax.to_le_bytes()[0])
}

/// Whether pages of 1 GiB exist (leaf 0x8000_0001, edx).
pub(crate) fn gib_pages(cpuid: &CpuId) -> bool {
    leaf(cpuid, 0x8000_0001).is_some_and(|entry| entry.edx & 1 << 26 != 0)
}

/// Whose processor it is (leaf 0; ebx, edx and ecx spell the name).
pub(crate) fn vendor(cpuid: &CpuId) -> Vendor {
    let amd = leaf(cpuid, 0).is_some_and(|entry| {
        let name = [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes);
        matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine")
    });
    if amd { Vendor::Amd } else { Vendor::Intel }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> CpuId {
        let all = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        };
        let entries = [
            all(1, 0),
            all(7, 0),
            all(7, 1),
            all(0xb, 0),
            all(0xb, 1),
            all(0xd, 0),
            all(0xd, 1),
            all(0x4000_0001, 0),
        ];
        CpuId::from_entries(&entries).expect("few entries")
    }

    fn subleaf(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        cpuid
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .copied()
    }

    const SECOND_OF_THREE: Topology = Topology {
        apic_id: 1,
        vcpus: 3,
    };

    #[test]
    fn nothing_of_xsave_is_left() {
        let cpuid = for_vcpu(&everything(), SECOND_OF_THREE);
        assert!(subleaf(&cpuid, 0xd, 0).is_none() && subleaf(&cpuid, 0xd, 1).is_none());
        let one = subleaf(&cpuid, 1, 0).expect("leaf 1");
        assert_eq!(one.ecx & (1 << 26 | 1 << 27 | 1 << 28), 0);
        let seven = subleaf(&cpuid, 7, 0).expect("leaf 7");
        assert_eq!(seven.ebx & (1 << 5 | 1 << 16 | 1 << 31), 0);
        assert_ne!(seven.ebx & (1 << 29), 0, "SHA needs no XSAVE");
        assert_eq!(seven.ecx & LEAF7_ECX_LA57, 0);
    }

    #[test]
    fn only_the_clock_is_paravirtual() {
        let cpuid = for_vcpu(&everything(), SECOND_OF_THREE);
        let features = subleaf(&cpuid, 0x4000_0001, 0).expect("KVM's leaf").eax;
        for (bit, offered) in [(3, true), (24, true), (4, false), (5, false), (6, false)] {
            assert_eq!(features & 1 << bit != 0, offered, "bit {bit}");
        }
    }

    #[test]
    fn each_vcpu_learns_its_place() {
        let cpuid = for_vcpu(&everything(), SECOND_OF_THREE);
        let one = subleaf(&cpuid, 1, 0).expect("leaf 1");
        assert_eq!(one.ebx >> 16, 0x0103);
        let cores = subleaf(&cpuid, 0xb, 1).expect("leaf 0xb");
        assert_eq!(
            (cores.eax, cores.ebx, cores.ecx, cores.edx),
            (2, 3, 0x201, 1)
        );
    }

    #[test]
    fn the_vendor_is_read_from_its_name() {
        let named = |name: &[u8; 12]| {
            let word = |at: usize| {
                u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]])
            };
            let entry = kvm_cpuid_entry2 {
                ebx: word(0),
                edx: word(4),
                ecx: word(8),
                ..Default::default()
            };
            vendor(&CpuId::from_entries(&[entry]).expect("one entry"))
        };
        assert_eq!(named(b"AuthenticAMD"), Vendor::Amd);
        assert_eq!(named(b"GenuineIntel"), Vendor::Intel);
    }
}
