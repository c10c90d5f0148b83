//! Drivers with a fault planted on purpose, and what it takes to catch them.
//!
//! A battery of trials holds a driver against everything that its contracts promise, up
//! to the first thing that is wrong. It can be gone through with all witnesses, or with
//! the eyes of an ordinary test in user space, which sees results, errnos, signals and
//! the content of pages, and neither page tables nor anything else of the kernel.

mod areas;
mod buffers;
mod files;
mod lifetime;
mod trials;

use guest_images::MODULE_PATH;
use guest_kernel::KernelFacts;
use serde::Serialize;
use witness::Mismatch;

use crate::driver::{Driver, Module};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::promises::{FLAGS, REFERENCES};
use crate::report::{PromiseReport, RefusalReport};

/// The build of the driver that has every fault in it.
pub const EVERY_FAULT: &str = "any";
/// The driver without a fault.
pub const GOOD: &str = "good";

/// A driver with a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutant {
    /// Name of the variant.
    pub name: String,
    /// What is wrong with it.
    pub fault: String,
}

/// The mutants of a list of variants: a name, then the fault, on each line.
pub fn listed(variants: &str) -> Vec<Mutant> {
    variants
        .lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let (name, fault) = line.split_once(char::is_whitespace)?;
            let is_mutant = ![EVERY_FAULT, GOOD].contains(&name);
            is_mutant.then(|| Mutant {
                name: name.to_owned(),
                fault: fault.trim().to_owned(),
            })
        })
        .collect()
}

/// With whose eyes a driver is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// All witnesses.
    All,
    /// Those of an ordinary test in user space.
    DataAlone,
}

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caught {
    /// The link that disagrees, or the rule that was broken.
    pub by: String,
    /// Where.
    pub place: String,
    /// What had to be.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl Caught {
    /// By a rule that is no link.
    fn rule(
        by: &str,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            by: by.to_owned(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// By a link.
    fn link(place: impl Into<String>, mismatch: &Mismatch) -> Self {
        Self::rule(
            mismatch.link.name(),
            format!("{}, page {}", place.into(), mismatch.page),
            &mismatch.expected,
            &mismatch.found,
        )
    }

    fn refusal(report: &RefusalReport) -> Self {
        Self::rule("answer", &report.name, &report.expected, &report.found)
    }

    fn promise(report: &PromiseReport) -> Self {
        match &report.mismatch {
            Some(mismatch) => Self::link(&report.name, mismatch),
            None => {
                let read = [FLAGS, REFERENCES].into_iter();
                let rule = read.rev().find(|rule| report.name.contains(rule));
                let by = rule.unwrap_or("promise");
                Self::rule(by, &report.name, &report.expected, &report.found)
            }
        }
    }
}

/// What a trial comes to: the first thing that is wrong.
type Trial = Result<Option<Caught>, HarnessError>;

/// Loads the variant `name` of the driver in a guest that has just booted, and goes
/// through the battery. `None`: nothing is wrong.
///
/// # Errors
/// [`HarnessError`] for what is not the driver's doing.
pub fn first_finding(
    guest: &mut Guest,
    facts: &KernelFacts,
    name: &str,
    eyes: Eyes,
) -> Result<Option<Caught>, HarnessError> {
    guest.put_on_trial(eyes);
    match trials::all(guest, facts, &driver(guest, name)) {
        Err(error) => blamed(error).map(Some),
        found => found,
    }
}

fn driver(guest: &Guest, name: &str) -> Driver {
    Driver {
        modules: vec![Module {
            path: MODULE_PATH.to_owned(),
            parameters: format!("variant={name}"),
        }],
        files: files::all(guest.plan())
            .into_iter()
            .chain(buffers::files(guest))
            .collect(),
        regions: Vec::new(),
        preparations: Vec::new(),
    }
}

/// A trial that could not go on because of what the driver did.
fn blamed(error: HarnessError) -> Result<Caught, HarnessError> {
    match error {
        HarnessError::Refused { operation, refusal } => Ok(Caught::rule(
            "answer",
            operation,
            "it succeeds",
            refusal.to_string(),
        )),
        HarnessError::Module { .. } | HarnessError::NotProbed { .. } => Ok(Caught::rule(
            "load",
            "loading the module",
            "its files are there",
            error.to_string(),
        )),
        HarnessError::Vm(monitor::VmError::Ended(ended)) => Ok(Caught::rule(
            "the guest's end",
            "",
            "the guest goes on",
            ended.to_string(),
        )),
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_the_mutants_alone() {
        let list = "# names\n\ngood  as it should be\nany   all\na-b   one, two [CVE-1]\n";
        let mutants = listed(list);
        assert_eq!(mutants.len(), 1);
        assert_eq!(mutants[0].name, "a-b");
        assert_eq!(mutants[0].fault, "one, two [CVE-1]");
    }
}
