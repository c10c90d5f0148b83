//! Data that the device moves: proof that a bus address is where the driver says.

use addr::Gva;
use guest_kernel::KernelFacts;
use wire::atlas::{COPY, DmaCopy, Published};
use wire::regs;

use super::chart::Claim;
use super::{Session, WINDOW, words};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::steps::needed;

impl Session {
    /// Lets the device copy both ways, held against the frame to which the guest's
    /// tables lead; then sends it astray.
    pub(super) fn copies(
        &self,
        guest: &mut Guest,
        facts: &KernelFacts,
        published: &Published,
    ) -> Result<Vec<Claim>, HarnessError> {
        let mut claims = Vec::new();
        let to_ram = DmaCopy {
            command: regs::DMA_COMMAND_TO_RAM,
            window: 0,
            page: 0,
            len_bytes: 4096,
            bus_offset: 0,
            status: 0,
        };
        claims.push(status(
            "copy to RAM",
            regs::DMA_STATUS_DONE,
            self.copy(guest, to_ram)?,
        ));
        claims.push(same_bytes(
            "bus == physical: the device's page arrives at the coherent address",
            &device_page(guest)?,
            &at(guest, facts, Gva::new(published.coherent))?,
        ));

        let stored: Vec<u64> = (1..=8).map(|n| 0x5eed_0000_0000_0000 | n).collect();
        needed(
            || "store to the atlas".into(),
            guest.store(self.user, 8, stored.clone())?,
        )?;
        let from_ram = DmaCopy {
            command: regs::DMA_COMMAND_FROM_RAM,
            len_bytes: 64,
            ..to_ram
        };
        claims.push(status(
            "copy from RAM",
            regs::DMA_STATUS_DONE,
            self.copy(guest, from_ram)?,
        ));
        let bytes: Vec<u8> = stored.into_iter().flat_map(u64::to_le_bytes).collect();
        claims.push(same_bytes(
            "what user space stored arrives in the device's page",
            &bytes,
            device_page(guest)?.get(..bytes.len()).unwrap_or_default(),
        ));
        restore(guest);

        // Past all RAM, and a wrapping one.
        for bus_offset in [monitor::MESSAGE_AREA.raw(), u64::MAX - published.bus] {
            let astray = DmaCopy {
                bus_offset,
                ..to_ram
            };
            let refused = self.copy(guest, astray)?;
            let what = format!(
                "copy to bus address {:#x}",
                published.bus.wrapping_add(bus_offset)
            );
            claims.push(status(&what, regs::DMA_STATUS_NOT_RAM, refused));
        }
        Ok(claims)
    }

    /// Lets the device copy; gives its status.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn copy(&self, guest: &mut Guest, copy: DmaCopy) -> Result<u32, HarnessError> {
        let argument = copy.to_words().into_iter().flat_map(u64::to_le_bytes);
        let answer = guest.ioctl(self.fd, COPY, argument.collect())?;
        let answer = needed(|| "the atlas's copy".into(), answer)?;
        Ok(DmaCopy::from_words(words(&answer)).status)
    }
}

/// The first page of the window, through the host's own mapping.
fn device_page(guest: &Guest) -> Result<Vec<u8>, HarnessError> {
    let window = guest.vm().windows().get(WINDOW);
    let page = window.and_then(|window| window.read(0, 0, 4096));
    let none = || monitor::VmError::Config("the device has no window".into());
    Ok(page.ok_or_else(none)?)
}

/// The device's pages are stamped again as they were.
fn restore(guest: &Guest) {
    if let Some(window) = guest.vm().windows().get(WINDOW) {
        guest.stamps().fill(WINDOW, window);
    }
}

/// The page of RAM to which the guest's tables lead from there.
fn at(guest: &Guest, facts: &KernelFacts, gva: Gva) -> Result<Vec<u8>, HarnessError> {
    let mut bytes = vec![0; 4096];
    guest.kernel(facts)?.read(gva, &mut bytes)?;
    Ok(bytes)
}

/// Bytes that must have arrived.
fn same_bytes(what: &str, expected: &[u8], found: &[u8]) -> Claim {
    let same = format!("the same {} bytes", expected.len());
    let differs = expected.iter().zip(found).position(|(a, b)| a != b);
    let text = match differs {
        _ if expected.len() != found.len() => format!("{} bytes", found.len()),
        None => same.clone(),
        Some(at) => format!("others from byte {at:#x} on"),
    };
    Claim::new(what, same, text)
}

fn status(what: &str, expected: u32, found: u32) -> Claim {
    let name = |status| match status {
        regs::DMA_STATUS_DONE => "done".to_owned(),
        regs::DMA_STATUS_NOT_RAM => "refused: not RAM".to_owned(),
        other => format!("status {other}"),
    };
    Claim::new(what, name(expected), name(found))
}
