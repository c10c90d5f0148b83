//! Which of the guest kernel's code ran for requests: for fuzzers, not for verdicts.
//!
//! The kernel notes it in memory of its own (KCOV), which the agent has mapped; the host
//! reads and empties that memory while the guest stands still, at no cost to the guest.
//!
//! A fuzzer loads the driver, starts coverage, takes its snapshot, and then for each case
//! resets, sends requests and takes what ran, with a map for the driver and one for mm/:
//!
//! ```no_run
//! # use std::path::Path;
//! # use guest_kernel::KernelFacts;
//! # use harness::{CodeMap, Guest, HarnessError, Part};
//! # fn fuzz(guest: &mut Guest, facts: &KernelFacts, mm_text: &Path) -> Result<(), HarnessError> {
//! // The image is of flavour kcov: `facts` are of its `types` and `system_map`, and
//! // `mm_text` is there.
//! let code = CodeMap::of(guest, facts, "mapwitness", mm_text)?;
//! guest.start_coverage()?;
//! let start = guest.snapshot()?;
//! let (mut driver, mut mm) = (vec![0; 1 << 16], vec![0; 1 << 16]);
//! # let cases = 0;
//! for _ in 0..cases {
//!     guest.reset(&start)?;
//!     // ... requests ...
//!     let ran = guest.coverage()?;
//!     code.count_edges(&ran, Part::Driver, &mut driver);
//!     code.count_edges(&ran, Part::Mm, &mut mm);
//! }
//! # Ok(()) }
//! ```
//!
//! Coverage can be taken after each request as well, and [`CodeMap::place`] tells where
//! single addresses lie. There is room for some hundred thousand of them: a case for which
//! that is not enough says so ([`Coverage::is_whole`]) and misses the last ones.

mod code;

pub use code::{CodeMap, Part, Place};

use addr::{Gpa, Gva, PAGE_SIZE};
use wire::{COVERAGE_LEN_BYTES, Request};
use witness::guest_walk::FrozenTables;

use crate::error::HarnessError;
use crate::guest::Guest;

const WORD_LEN_BYTES: u64 = 8;
const PAGE_LEN_BYTES: usize = 4096;
const _: () = assert!(PAGE_LEN_BYTES as u64 == PAGE_SIZE);
/// Addresses for which there is room, behind the word that counts them.
const MOST_PCS: u64 = COVERAGE_LEN_BYTES / WORD_LEN_BYTES - 1;

/// What ran since coverage was taken last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Addresses of the kernel's code in the order in which it ran, one for each basic
    /// block, as often as it ran. The guest wrote them.
    pub pcs: Vec<u64>,
    /// Whether there was room for all; else the last ones are missing.
    pub is_whole: bool,
}

/// Memory of the guest in which its kernel notes what ran.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    /// Where every process of the agent has it mapped.
    start: Gva,
    /// Its pages: the kernel's own, which never move.
    pages: Vec<Gpa>,
}

impl Guest {
    /// Has the kernel note what runs for each request from here on, in every process of
    /// the agent. To be called before the first fork; a second call changes nothing. The
    /// guest's snapshots hold it like the rest of its state, if they are taken later.
    ///
    /// # Errors
    /// [`HarnessError::NoCoverage`] when the kernel cannot; as [`Guest::request`].
    pub fn start_coverage(&mut self) -> Result<(), HarnessError> {
        let start = self
            .address(&Request::StartCoverage)?
            .map_err(|refusal| HarnessError::NoCoverage { refusal })?;
        let recording = Recording::at(self, start)?;
        self.set_recording(recording);
        // What ran for the start itself is of no interest.
        self.coverage().map(drop)
    }

    /// Takes what ran since this was called last.
    ///
    /// # Errors
    /// [`HarnessError::CoverageNotStarted`] before [`Guest::start_coverage`],
    /// [`HarnessError::CoverageLost`] after a reset to before it, and
    /// [`HarnessError::Vm`] when the guest's memory cannot be read.
    pub fn coverage(&mut self) -> Result<Coverage, HarnessError> {
        let recording = self.recording().ok_or(HarnessError::CoverageNotStarted)?;
        let first = recording.first_page(self)?;
        let coverage = recording.read(self, first)?;
        self.vm_mut().write(first, &0_u64.to_le_bytes())?;
        Ok(coverage)
    }
}

impl Recording {
    fn at(guest: &Guest, start: Gva) -> Result<Self, HarnessError> {
        let tables = FrozenTables::of(guest.vm())?;
        let page_of = |page: u64| {
            let gva = Gva::new(start.raw().wrapping_add(page * PAGE_SIZE));
            walk(&tables, gva)
        };
        let pages = (0..COVERAGE_LEN_BYTES / PAGE_SIZE).map(page_of);
        Ok(Self {
            start,
            pages: pages.collect::<Result<_, _>>()?,
        })
    }

    /// The page that begins with the count, which the guest must still have mapped: one
    /// that was brought back to an earlier snapshot has another use for it.
    fn first_page(&self, guest: &Guest) -> Result<Gpa, HarnessError> {
        let found = walk(&FrozenTables::of(guest.vm())?, self.start)?;
        match self.pages.first() {
            Some(first) if *first == found => Ok(found),
            _ => Err(HarnessError::CoverageLost {
                gva: self.start,
                reason: format!("it leads to {found} now"),
            }),
        }
    }

    /// All that stands there.
    fn read(&self, guest: &Guest, first: Gpa) -> Result<Coverage, HarnessError> {
        let count = guest.vm().read_u64(first)?;
        // The guest may have written anything there.
        let npcs = count.min(MOST_PCS);
        let mut rest_bytes = (npcs + 1) * WORD_LEN_BYTES;
        let mut pcs = Vec::new();
        let mut page = [0; PAGE_LEN_BYTES];
        for gpa in &self.pages {
            let len = usize::try_from(rest_bytes.min(PAGE_SIZE)).unwrap_or(page.len());
            let (wanted, _) = page.split_at_mut(len);
            guest.vm().read(*gpa, wanted)?;
            let (words, _) = wanted.as_chunks::<8>();
            pcs.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
            rest_bytes -= len as u64;
            if rest_bytes == 0 {
                break;
            }
        }
        // The word that counts them.
        pcs.drain(..1.min(pcs.len()));
        Ok(Coverage {
            pcs,
            is_whole: count < MOST_PCS,
        })
    }
}

fn walk(tables: &FrozenTables<'_>, gva: Gva) -> Result<Gpa, HarnessError> {
    let lost = |reason| HarnessError::CoverageLost { gva, reason };
    let walked = tables.walk(gva).map_err(|error| lost(error.to_string()))?;
    Ok(walked.address)
}
