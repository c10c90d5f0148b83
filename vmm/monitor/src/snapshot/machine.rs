//! State of what all vCPUs share: interrupt controllers and the clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::error::VmError;

const CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];
/// Bytes of `kvm_irqchip` that hold a chip's registers.
const CHIP_LEN_BYTES: usize = 512;

/// The interrupt controllers' registers, and the paravirtual clock in nanoseconds.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct MachineState {
    chips: Vec<kvm_irqchip>,
    clock: u64,
}

impl MachineState {
    pub(crate) fn of(vm: &VmFd) -> Result<Self, VmError> {
        let mut chips = Vec::new();
        for chip_id in CHIPS {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(VmError::kvm("KVM_GET_IRQCHIP"))?;
            chips.push(chip);
        }
        let clock = vm.get_clock().map_err(VmError::kvm("KVM_GET_CLOCK"))?;
        Ok(Self {
            chips,
            clock: clock.clock,
        })
    }

    pub(crate) fn put(&self, vm: &VmFd) -> Result<(), VmError> {
        for chip in &self.chips {
            vm.set_irqchip(chip)
                .map_err(VmError::kvm("KVM_SET_IRQCHIP"))?;
        }
        let clock = kvm_clock_data {
            clock: self.clock,
            ..Default::default()
        };
        vm.set_clock(&clock).map_err(VmError::kvm("KVM_SET_CLOCK"))
    }

    /// Names the chips whose registers differ in `other`.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let pairs = self.chips.iter().zip(&other.chips);
        pairs
            .filter(|(ours, theirs)| registers(ours) != registers(theirs))
            .map(|(ours, _)| format!("interrupt controller {}", ours.chip_id))
            .collect()
    }
}

fn registers(chip: &kvm_irqchip) -> [u8; CHIP_LEN_BYTES] {
    // SAFETY: all members of the union are plain integers of at most these bytes, so
    // that every byte of it is initialised and any value of it is valid.
    let dummy = unsafe { chip.chip.dummy };
    dummy.map(libc::c_char::cast_unsigned)
}
