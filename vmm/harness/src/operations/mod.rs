//! Sequences of operations that every driver's mappings must survive: what the
//! standard check does to a file's mapping after mmap.

mod check;
mod scenarios;

pub(crate) use check::check_operations;

use std::sync::Arc;

use contract::{Answer, FileContract, Offset, When};
use wire::{Prot, Sharing};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::MappingSpec;
use crate::model::{Finding, Model, Operation};
use crate::observe::Judged;

/// A sequence of operations that begins and ends with nothing mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Name for people.
    pub name: &'static str,
    /// What makes the mapping, and touches some of it.
    pub setup: Vec<Operation>,
    /// What is done to it, in order.
    pub operations: Vec<Operation>,
    /// What touches the rest, and takes everything away.
    pub teardown: Vec<Operation>,
}

impl Guest {
    /// Goes through a scenario, up to the first thing that is wrong.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn run_scenario(
        &mut self,
        model: &mut Model,
        scenario: &Scenario,
        tally: &mut Judged,
    ) -> Result<Option<Finding>, HarnessError> {
        if let found @ Some(_) = self.run_at_once(model, &scenario.setup, tally)? {
            return Ok(found);
        }
        if let found @ Some(_) = self.run(model, &scenario.operations, tally)? {
            return Ok(found);
        }
        self.run_at_once(model, &scenario.teardown, tally)
    }
}

/// The pages of a file that a scenario maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Number of the file in the model.
    pub file: usize,
    /// First page of the file.
    pub first_page: u64,
    /// Number of pages, at least [`Subject::LEAST_NPAGES`].
    pub npages: u64,
    /// The most rights that the file grants.
    pub prot: Prot,
    /// Whether it grants private mappings.
    pub copy_on_write: bool,
    /// Whether its mappings cannot be split.
    pub stays_whole: bool,
}

impl Subject {
    /// Below this a mapping has no front, middle and back.
    pub const LEAST_NPAGES: u64 = 5;
    /// More would only take longer.
    const MOST_NPAGES: u64 = 6;

    /// The last pages of a file's first range, if that is long enough and the file
    /// grants them at once, and fewer.
    pub fn of(files: &[Arc<FileContract>], file: usize) -> Option<Self> {
        let contract = files.get(file)?;
        let range = contract.ranges.first()?;
        // What a touch brings in where offsets are ignored is up to the driver, once a piece
        // is all that is left.
        if range.offset == Offset::Any && range.present != When::AtMmap {
            return None;
        }
        let npages = range.npages.min(Self::MOST_NPAGES);
        let subject = Self {
            file,
            first_page: range.first_page().checked_add(range.npages - npages)?,
            npages,
            prot: Prot {
                read: true,
                write: range.access.write,
                exec: false,
            },
            copy_on_write: contract.copy_on_write,
            stays_whole: contract.refuses_split.is_some(),
        };
        let grants = |npages| {
            let spec = MappingSpec {
                file: Arc::clone(contract),
                first_page: subject.first_page,
                npages,
                prot: subject.prot,
                sharing: Sharing::Shared,
            };
            contract.predict(&spec.request(subject.mode())) == Answer::Maps
        };
        let is_long = npages >= Self::LEAST_NPAGES;
        (is_long && [1, 2, npages].into_iter().all(grants)).then_some(subject)
    }
}
