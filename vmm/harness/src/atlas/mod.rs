//! The atlas: one page of RAM and one of the device under every address that a kernel
//! has for them, each held against page tables and the kernel's own notes.
//!
//! The driver publishes addresses while it stands at the device's doorbell, a temporary
//! mapping among them. Where the frame is, is the device's truth: the bus address in its
//! DMA engine, at which data arrive.

mod below;
mod chart;
mod claims;
mod copies;
mod look;

use addr::{Gfn, Gpa, Gva, PAGE_SIZE};
use guest_kernel::KernelFacts;
use wire::atlas::{ATLAS_PATH, PUBLISH, Published, RING_VALUE};
use wire::{Fd, OpenMode, Prot, Reply, Request, Sharing, Value};

pub use below::Below;
pub use chart::{AtlasReport, Chart, Claim, Frame, Name, ScatteredPage};

use crate::check::guest_report;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::own_driver::EAGER;
use crate::report::{HostReport, Verdict};
use crate::steps::{close, needed, open};

/// The window of the device's frame, and of the copies.
const WINDOW: usize = 0;

/// What an atlas is told of its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtlasOptions {
    /// The host, for the report.
    pub host: HostReport,
    /// Number of vCPUs, for the report.
    pub vcpus: u8,
}

/// The driver's file, open and mapped in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    fd: Fd,
    /// Process of the mappings.
    pub pid: i32,
    /// Where user space has the coherent page.
    pub user: Gva,
    /// Where user space has the first page of the device's first window.
    pub device: Gva,
}

/// Draws the atlas of a guest whose driver is loaded.
///
/// # Errors
/// [`HarnessError`] when it could not be drawn. What is not as it must be is no error:
/// the report says so.
pub fn draw(
    guest: &mut Guest,
    facts: &KernelFacts,
    options: AtlasOptions,
) -> Result<AtlasReport, HarnessError> {
    let session = Session::open(guest)?;
    session.publish(guest)?;
    let published = Session::published(guest)?;
    let chart = session.chart(guest, facts, &published)?;
    let mut afterwards = session.go_on(guest, facts, &published)?;
    afterwards.extend(session.copies(guest, facts, &published)?);
    afterwards.extend(session.unmap(guest, facts, &published)?);
    let kernel_complaints = guest.kernel_complaints()?;
    let mut report = AtlasReport {
        verdict: Verdict::Pass,
        host: options.host,
        guest: guest_report(guest, options.vcpus)?,
        chart,
        afterwards,
        kernel_complaints,
    };
    report.verdict = Verdict::of(report.disagreements().is_empty());
    Ok(report)
}

impl Session {
    /// Opens and maps the driver's files.
    ///
    /// # Errors
    /// [`HarnessError::Refused`] by a driver that has none.
    pub fn open(guest: &mut Guest) -> Result<Self, HarnessError> {
        let fd = open(guest, ATLAS_PATH, OpenMode::ReadWrite)?;
        let user = map(guest, fd)?;
        let file = open(guest, &EAGER.path(WINDOW), OpenMode::ReadWrite)?;
        let device = map(guest, file)?;
        close(guest, file)?;
        Ok(Self {
            fd,
            pid: guest.current_pid(),
            user,
            device,
        })
    }

    /// Lets the driver publish its addresses; the guest stands still while all of them
    /// are valid. [`Session::go_on`] must follow.
    ///
    /// # Errors
    /// As [`Guest::request_to_device`].
    pub fn publish(&self, guest: &mut Guest) -> Result<(), HarnessError> {
        guest.vm_mut().take_device_doorbells();
        guest.request_to_device(&Request::Ioctl {
            fd: self.fd,
            command: PUBLISH,
            argument: vec![0; Published::LEN_BYTES],
        })
    }

    /// What the driver has put where the device finds it.
    ///
    /// # Errors
    /// [`HarnessError::Vm`] when the bus address is none of the guest's memory.
    pub fn published(guest: &Guest) -> Result<Published, HarnessError> {
        let mut bytes = [0; Published::LEN_BYTES];
        let bus = guest.vm().dma_registers().bus_address;
        guest.vm().read(Gpa::new(bus), &mut bytes)?;
        Ok(Published::from_words(words(&bytes)))
    }

    /// Holds `published` against what the host sees, while the driver stands at the
    /// device's doorbell.
    ///
    /// # Errors
    /// [`HarnessError`] when the guest's kernel cannot be read.
    pub fn chart(
        &self,
        guest: &Guest,
        facts: &KernelFacts,
        published: &Published,
    ) -> Result<Chart, HarnessError> {
        let bus = Gpa::new(guest.vm().dma_registers().bus_address);
        let view = guest.kernel(facts)?;
        look::chart(self, guest, &view, window(guest)?, bus, published)
    }

    /// Lets the driver go on to the end of its ioctl.
    ///
    /// # Errors
    /// As [`Guest::resume`].
    pub fn go_on(
        &self,
        guest: &mut Guest,
        facts: &KernelFacts,
        published: &Published,
    ) -> Result<Vec<Claim>, HarnessError> {
        let rung = guest.vm_mut().take_device_doorbells();
        let answer = match guest.resume()? {
            Reply::Done(Value::Bytes(bytes)) => bytes,
            reply => return Err(unexpected("the atlas's ioctl", reply)),
        };
        let same = answer.len() == Published::LEN_BYTES
            && Published::from_words(words(&answer)) == *published;
        let kmap_local = Gva::new(published.kmap_local);
        let left = guest.kernel(facts)?.walk(kmap_local);
        Ok(vec![
            Claim::new(
                "what the driver rang",
                format!("{:x?}", [RING_VALUE]),
                format!("{rung:x?}"),
            ),
            Claim::new(
                "what the ioctl gave back",
                "the same words",
                if same { "the same words" } else { "others" },
            ),
            Claim::new(
                "kmap_local afterwards",
                "nothing",
                left.map_or_else(
                    |error| {
                        if error.is_not_present() {
                            "nothing".into()
                        } else {
                            error.to_string()
                        }
                    },
                    |found| found.address.to_string(),
                ),
            ),
        ])
    }

    /// Takes the mappings away; the page stays the driver's.
    fn unmap(
        &self,
        guest: &mut Guest,
        facts: &KernelFacts,
        published: &Published,
    ) -> Result<Vec<Claim>, HarnessError> {
        for gva in [self.user, self.device] {
            needed(|| "munmap".into(), guest.munmap(gva, PAGE_SIZE)?)?;
        }
        let view = guest.kernel(facts)?;
        let page = view.page_of(Gfn::containing(Gpa::new(published.bus)))?;
        let mut claims = claims::page(page.as_ref(), 0);
        let area = view.vma_at(self.user)?;
        claims.push(Claim::new(
            "vm_area_struct afterwards",
            "none",
            area.map_or_else(|| "none".into(), |area| format!("{area:?}")),
        ));
        close(guest, self.fd)?;
        Ok(claims)
    }
}

fn map(guest: &mut Guest, fd: Fd) -> Result<Gva, HarnessError> {
    let mapped = guest.mmap(fd, 0, PAGE_SIZE, Prot::READ_WRITE, Sharing::Shared)?;
    needed(|| "mmap of the atlas".into(), mapped)
}

fn window(guest: &Guest) -> Result<Gpa, HarnessError> {
    let window = guest.vm().windows().get(WINDOW);
    let none = || monitor::VmError::Config("the device has no window".into());
    Ok(window.ok_or_else(none)?.base())
}

fn unexpected(request: &str, reply: Reply) -> HarnessError {
    HarnessError::Mismatched {
        request: request.to_owned(),
        reply: Box::new(reply),
    }
}

/// Little endian words; missing bytes count as 0.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}
