//! Stopping the guest in the middle of a driver, where it rings its device.

use monitor::{MESSAGE_AREA, Rang};
use wire::{Reply, Request};

use crate::error::HarnessError;
use crate::guest::Guest;

impl Guest {
    /// Sends a request that makes the driver ring its device; the guest stands still in
    /// that very store when this returns. [`Guest::resume`] must follow.
    ///
    /// # Errors
    /// [`HarnessError::NotRung`] when the request is over without a ring.
    pub fn request_to_device(&mut self, request: &Request) -> Result<(), HarnessError> {
        self.vm_mut().write(MESSAGE_AREA, &wire::encode(request)?)?;
        match self.vm_mut().run_to_any_doorbell()? {
            Rang::Device => {
                self.note_buffers();
                Ok(())
            }
            Rang::Agent => Err(HarnessError::NotRung {
                reply: Box::new(self.answered()?),
            }),
        }
    }

    /// Lets the driver go on from where it rang, up to the answer of that request.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn resume(&mut self) -> Result<Reply, HarnessError> {
        self.vm_mut().run_to_doorbell()?;
        self.answered()
    }
}
