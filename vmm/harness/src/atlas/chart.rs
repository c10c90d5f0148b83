//! What an atlas shows, as data.

use addr::{Gpa, Gva};
use serde::{Serialize, Serializer};

use super::below::Below;
use crate::report::{GuestReport, HostReport, Verdict};

/// One name of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The kind of address, such as `kernel logical`.
    pub kind: &'static str,
    /// What gave it, such as `dma_alloc_coherent`.
    pub by: &'static str,
    /// The address as the driver, or user space, has it.
    #[serde(serialize_with = "hex")]
    pub address: u64,
    /// The frame that it must lead to.
    pub expected: String,
    /// Where the guest's page tables lead, with what rights and memory type; or that they
    /// are not asked.
    pub found: String,
    /// Whether it is the frame, and the address in the part of the address space where
    /// its kind belongs.
    pub agrees: bool,
}

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// What is compared.
    pub what: String,
    /// What it must be, by the host.
    pub expected: String,
    /// What it is, by the guest.
    pub found: String,
    /// Whether they agree.
    pub agrees: bool,
}

impl Claim {
    /// A comparison of two values as they are printed.
    pub(crate) fn new(
        what: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self {
            what: what.into(),
            agrees: expected == found,
            expected,
            found,
        }
    }
}

/// A frame under all its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// What it is for.
    pub what: &'static str,
    /// The frame's first address in the guest.
    #[serde(serialize_with = "hex_gpa")]
    pub gpa: Gpa,
    /// Its names.
    pub names: Vec<Name>,
    /// What is under it in the host.
    pub below: Below,
}

/// A page of the vmalloc area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScatteredPage {
    /// Its address.
    #[serde(serialize_with = "hex_gva")]
    pub gva: Gva,
    /// Where the guest's tables lead.
    pub found: String,
}

/// What was seen while the driver stood at the device's doorbell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chart {
    /// The coherent page.
    pub ram: Frame,
    /// The first page of the device's first window.
    pub device: Frame,
    /// The pages of the vmalloc area, in the order of their addresses.
    pub vmalloc: Vec<ScatteredPage>,
    /// Conversions, and what the kernel notes of page and area.
    pub claims: Vec<Claim>,
}

impl Chart {
    /// Everything that is not as it must be, in words.
    pub fn disagreements(&self) -> Vec<String> {
        let frames = [&self.ram, &self.device];
        let names = frames.into_iter().flat_map(|frame| &frame.names);
        let names = names.filter(|name| !name.agrees).map(|name| {
            let Name {
                kind,
                by,
                address,
                expected,
                found,
                ..
            } = name;
            format!("{kind} ({by}) {address:#x}: expected {expected}, found {found}")
        });
        let below = frames
            .into_iter()
            .filter(|frame| frame.below.agrees == Some(false));
        let below = below.map(|frame| {
            let Below {
                hva,
                host_frame,
                second_level,
                ..
            } = &frame.below;
            let gpa = frame.gpa;
            format!("{gpa}, {hva} in the host: {host_frame} by pagemap, {second_level} by the second level")
        });
        names
            .chain(below)
            .chain(disagreements(&self.claims))
            .collect()
    }
}

/// The claims that do not hold, in words.
pub(crate) fn disagreements(claims: &[Claim]) -> impl Iterator<Item = String> + '_ {
    let wrong = claims.iter().filter(|claim| !claim.agrees);
    wrong.map(|claim| {
        let Claim {
            what,
            expected,
            found,
            ..
        } = claim;
        format!("{what}: expected {expected}, found {found}")
    })
}

/// The whole atlas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AtlasReport {
    /// Whether everything is as it must be.
    pub verdict: Verdict,
    /// The host.
    pub host: HostReport,
    /// The guest.
    pub guest: GuestReport,
    /// What was seen at once.
    #[serde(flatten)]
    pub chart: Chart,
    /// What was seen afterwards: data that the device moved, and what is left.
    pub afterwards: Vec<Claim>,
    /// Lines by which the guest kernel complained about itself.
    pub kernel_complaints: Vec<String>,
}

impl AtlasReport {
    /// Everything that is not as it must be, in words.
    pub fn disagreements(&self) -> Vec<String> {
        let mut all = self.chart.disagreements();
        all.extend(disagreements(&self.afterwards));
        let complaints = self.kernel_complaints.iter();
        all.extend(complaints.map(|line| format!("the guest kernel complains: {line}")));
        all
    }
}

fn hex<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

fn hex_gpa<S: Serializer>(value: &Gpa, serializer: S) -> Result<S::Ok, S::Error> {
    hex(&value.raw(), serializer)
}

fn hex_gva<S: Serializer>(value: &Gva, serializer: S) -> Result<S::Ok, S::Error> {
    hex(&value.raw(), serializer)
}
