//! How a case is gone through, and what it came to.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::Coverage;
use harness::model::{Came, Wanted};

use crate::verdict::{Cause, Verdict};

/// How often the pages are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// After the last operation.
    #[default]
    AtTheEnd,
    /// After each operation.
    EachStep,
    /// Never: only results are looked at.
    Never,
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its place in the case.
    pub index: usize,
    /// What it had to come to.
    pub wanted: Wanted,
    /// What it came to; `None` when the guest did not go on.
    pub came: Option<Came>,
}

/// What was wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Place of the operation at or after which it was.
    pub step: usize,
    /// What.
    pub verdict: Verdict,
    /// Its cause.
    pub cause: Cause,
}

/// What a case came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its operations, without those that meant nothing.
    pub steps: Vec<Step>,
    /// The first thing that was wrong.
    pub found: Option<Found>,
    /// Links that could not be heard, with the reason.
    pub unheard: BTreeMap<String, String>,
    /// Pages that were looked at.
    pub pages: u64,
    /// What ran in the guest's kernel for the operations; nothing where that is not told.
    pub coverage: Coverage,
}

impl Ran {
    /// This, unless the guest or a task in it hung: then what comes `again`. Once may be the
    /// host's doing, which had no time for it. It hides what else there is to find, and is told
    /// where the same case comes to an end the second time.
    ///
    /// # Errors
    /// Those of `again`.
    pub(crate) fn unless_it_hung<E>(
        self,
        number: u64,
        again: impl FnOnce() -> Result<Self, E>,
    ) -> Result<Self, E> {
        let hung = self.found.as_ref().map(|found| &found.verdict);
        let Some(hung) = hung.filter(|verdict| verdict.is_of_time()) else {
            return Ok(self);
        };
        let mut again = again()?;
        if again.found.is_none() {
            let why = format!("once, and not again: {}", hung.found);
            again.unheard.insert(format!("case {number}"), why);
        }
        Ok(again)
    }
}

/// Where the time goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Bringing the guest back.
    pub reset: Duration,
    /// The guest's work.
    pub guest: Duration,
    /// Looking at pages and at the kernel's notes.
    pub evidence: Duration,
    /// Taking everything away, and looking at what is left.
    pub leavings: Duration,
    /// Reading what ran.
    pub coverage: Duration,
}

impl Times {
    /// Adds what another core or another stretch of time took.
    pub fn add(&mut self, other: &Self) {
        self.reset += other.reset;
        self.guest += other.guest;
        self.evidence += other.evidence;
        self.leavings += other.leavings;
        self.coverage += other.coverage;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn found(by: &str) -> Ran {
        let cause = Cause {
            by: by.into(),
            operation: "mmap".into(),
            file: "eager/odd".into(),
        };
        let found = Found {
            step: 1,
            verdict: Verdict::rule(by, "", "as it was"),
            cause,
        };
        Ran {
            found: Some(found),
            ..Ran::default()
        }
    }

    /// What counts of a case that came to `first`, and to `again` if it is gone through again.
    fn counts(first: &Ran, again: &Ran) -> Ran {
        let counts = first
            .clone()
            .unless_it_hung(7, || Ok::<_, Infallible>(again.clone()));
        counts.unwrap_or_else(|never| match never {})
    }

    #[test]
    fn what_did_not_hang_is_not_gone_through_again() {
        let other = found("answer");
        for first in [Ran::default(), found("stamp"), found("kernel bug")] {
            assert_eq!(counts(&first, &other), first);
        }
    }

    #[test]
    fn a_hang_counts_if_it_comes_again_and_is_told_otherwise() {
        let ended = found("the guest's end");
        let waits = found("kernel hung-task");
        assert_eq!(counts(&ended, &waits), waits);
        assert_eq!(counts(&waits, &ended), ended);
        let once = counts(&ended, &Ran::default());
        assert_eq!(once.found, None);
        assert_eq!(once.unheard["case 7"], "once, and not again: as it was");
    }

    #[test]
    fn a_hang_hides_no_fault() {
        let fault = found("guest-walk");
        assert_eq!(counts(&found("the guest's end"), &fault), fault);
    }
}
