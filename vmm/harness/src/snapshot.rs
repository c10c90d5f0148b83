//! A guest's state between two requests, and the way back to it.

use monitor::{ResetStats, Snapshot};
use wire::Fd;

use crate::driver::Preparation;
use crate::error::HarnessError;
use crate::guest::Guest;

/// A guest as it stood at its agent's doorbell: its VM, and what the harness knows of
/// it besides.
pub struct GuestSnapshot {
    vm: Snapshot,
    mappings: u64,
    current_pid: i32,
    held: Vec<(Fd, Preparation)>,
}

impl Guest {
    /// Takes the state of a guest, best after its driver was loaded and prepared.
    ///
    /// # Errors
    /// [`HarnessError::Vm`] when KVM does not tell all of the state.
    pub fn snapshot(&mut self) -> Result<GuestSnapshot, HarnessError> {
        Ok(GuestSnapshot {
            vm: self.vm_mut().snapshot()?,
            mappings: self.mappings_made(),
            current_pid: self.current_pid(),
            held: self.held_mut().clone(),
        })
    }

    /// Brings the guest back to `snapshot`, which was taken of it last. One that has
    /// ended lives again. The words that are stored next are those that were stored
    /// next then: the same operations come to the same.
    ///
    /// # Errors
    /// [`HarnessError::Vm`] when KVM does not take the state back; the guest is of no use
    /// then.
    pub fn reset(&mut self, snapshot: &GuestSnapshot) -> Result<ResetStats, HarnessError> {
        let stats = self.vm_mut().reset(&snapshot.vm)?;
        self.set_mappings_made(snapshot.mappings);
        self.set_current_pid(snapshot.current_pid);
        self.forget_news();
        self.held_mut().clone_from(&snapshot.held);
        // Their pages hold what they held then.
        self.set_buffers(self.vm().buffers());
        Ok(stats)
    }
}
