//! A VM's whole state at a doorbell, and the way back to it.
//!
//! A reset restores what changed and nothing else: KVM notes which pages the guest
//! stores to, the VMM which ones it stored to itself.

mod cpu;
mod machine;
mod memory;
mod present;
mod special;
pub(crate) mod tsc;

use vm_memory::GuestMemoryBackend;

use crate::bus::DeviceState;
use crate::console::Text;
use crate::error::VmError;
use crate::vm::Vm;
pub(crate) use cpu::{CpuState, bring_to_rest};
pub(crate) use machine::MachineState;
pub(crate) use memory::{SavedRegion, merge};

use memory::changed_pages;

/// Everything that a guest could tell from what was there before, as it stood at the
/// doorbell: memory, vCPUs, interrupt controllers, clocks, devices. What was printed
/// belongs to it, too.
pub struct Snapshot {
    cpus: Vec<CpuState>,
    msrs: Vec<u32>,
    machine: MachineState,
    devices: DeviceState,
    console: Text,
    memory: Vec<SavedRegion>,
    at_doorbell: Option<usize>,
}

impl Snapshot {
    /// Bytes of memory contents that it keeps.
    pub fn len_bytes(&self) -> u64 {
        self.memory.iter().map(SavedRegion::len_bytes).sum()
    }
}

/// What a reset had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetStats {
    /// Pages of guest memory whose contents were put back.
    pub pages: u64,
}

impl Vm {
    /// Takes the state of a VM whose agent has just rung, and has KVM note from now on
    /// what changes. Pages that are mapped large below the guest are mapped small
    /// afterwards, since KVM notes changes page by page.
    ///
    /// # Errors
    /// [`VmError`] when KVM does not tell all of the state.
    pub fn snapshot(&mut self) -> Result<Snapshot, VmError> {
        self.bring_to_rest()?;
        let msrs = self.restorable_msrs()?;
        memory::start_tracking(&mut self.slots, &self.windows, &self.vm)?;
        let regions = self.slots.memory().iter().enumerate();
        let saved = |(slot, region)| SavedRegion::of(region, self.slots.filed_pages(slot));
        Ok(Snapshot {
            cpus: self.cpu_states(&msrs)?,
            msrs,
            machine: MachineState::of(&self.vm)?,
            devices: self.shared.bus().state(),
            console: self.console.saved(),
            memory: regions.map(saved).collect::<Result<_, _>>()?,
            at_doorbell: self.at_doorbell,
        })
    }

    /// Brings the VM back to `snapshot`, which was taken of it last. A guest that has
    /// ended lives again.
    ///
    /// # Errors
    /// [`VmError`] when KVM does not take the state back; the VM is of no use then.
    pub fn reset(&mut self, snapshot: &Snapshot) -> Result<ResetStats, VmError> {
        self.bring_to_rest()?;
        self.slots.offer_all_as_configured(&self.vm)?;
        snapshot.machine.put(&self.vm)?;
        for (vcpu, state) in self.vcpus.iter().zip(&snapshot.cpus) {
            state.put(&vcpu.fd(), self.vendor)?;
        }
        // After the vCPUs: KVM writes to guest memory when some registers are set.
        let mut stats = ResetStats::default();
        for (slot, saved) in snapshot.memory.iter().enumerate() {
            let changed = changed_pages(&mut self.slots, &self.windows, &self.vm, slot)?;
            stats.pages += changed.len() as u64;
            let Some(region) = self.slots.memory().iter().nth(slot) else {
                continue;
            };
            for page in changed {
                saved.restore(region, page)?;
            }
            // Putting contents back is no change.
            self.slots.forget_host_stores(slot);
        }
        self.shared
            .bus()
            .restore(&snapshot.devices, &self.console)?;
        self.console.restore(&snapshot.console);
        self.at_doorbell = snapshot.at_doorbell;
        self.ended = None;
        Ok(stats)
    }

    /// What differs from `snapshot` now, in words; clocks go on and do not count. Reads
    /// all of guest memory: for tests of [`Vm::reset`] and for doubts.
    ///
    /// # Errors
    /// As [`Vm::snapshot`].
    pub fn differences(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, VmError> {
        self.bring_to_rest()?;
        let mut found = Vec::new();
        for (slot, (region, saved)) in self.slots.memory().iter().zip(&snapshot.memory).enumerate()
        {
            let pages = saved.differing_pages(region)?;
            let used_for = self.slots.table().get(slot).map(|slot| slot.used_for);
            found.extend(
                pages
                    .into_iter()
                    .map(|page| format!("{used_for:?}: page {page}")),
            );
        }
        let cpus = self.cpu_states(&snapshot.msrs)?;
        for (index, (then, now)) in snapshot.cpus.iter().zip(&cpus).enumerate() {
            let parts = then.still().differences(&now.still());
            found.extend(
                parts
                    .into_iter()
                    .map(|part| format!("vCPU {index}: {part}")),
            );
        }
        found.extend(snapshot.machine.differences(&MachineState::of(&self.vm)?));
        if self.shared.bus().state() != snapshot.devices {
            found.push("a device".to_owned());
        }
        Ok(found)
    }

    /// The registers that are to be kept of each vCPU.
    pub(crate) fn restorable_msrs(&self) -> Result<Vec<u32>, VmError> {
        let first = self.vcpus.first().map(crate::vcpu::Vcpu::fd);
        let kvm = kvm_ioctls::Kvm::new().map_err(VmError::kvm("open /dev/kvm"))?;
        first.map_or(Ok(Vec::new()), |fd| cpu::restorable_msrs(&kvm, &fd))
    }

    pub(crate) fn bring_to_rest(&self) -> Result<(), VmError> {
        let mut vcpus = self.vcpus.iter();
        vcpus.try_for_each(crate::vcpu::Vcpu::bring_to_rest)
    }

    pub(crate) fn cpu_states(&self, msrs: &[u32]) -> Result<Vec<CpuState>, VmError> {
        let vcpus = self.vcpus.iter();
        vcpus.map(|vcpu| CpuState::of(&vcpu.fd(), msrs)).collect()
    }
}
