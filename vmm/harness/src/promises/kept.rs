//! What became of a promise.

use contract::FileContract;
use witness::Mismatch;

use crate::observe::Judged;
use crate::outcome::{Outcome, Refusal};
use crate::report::{PromiseReport, Verdict};

/// What became of a promise.
pub(super) struct Kept {
    pub(super) expected: String,
    pub(super) found: String,
    pub(super) good: bool,
    pub(super) mismatch: Option<Mismatch>,
}

impl Kept {
    /// What the kernel had to answer, and what it did.
    pub(super) fn answered(expected: Refusal, answer: Outcome<()>) -> Self {
        Self {
            expected: expected.to_string(),
            good: answer == Err(expected),
            found: match answer {
                Ok(()) => "it is granted".into(),
                Err(refusal) => refusal.to_string(),
            },
            mismatch: None,
        }
    }

    /// What must be there, and the first look that found something else.
    pub(super) fn looked(expected: &str, looks: impl IntoIterator<Item = Judged>) -> Self {
        let mismatch = looks.into_iter().find_map(|judged| judged.mismatch);
        Self {
            expected: expected.into(),
            good: mismatch.is_none(),
            found: match &mismatch {
                None => expected.into(),
                Some(mismatch) => mismatch.found.clone(),
            },
            mismatch,
        }
    }

    pub(super) fn report(self, file: &FileContract, name: &str) -> PromiseReport {
        PromiseReport {
            name: format!("{}: {name}", file.name),
            expected: self.expected,
            found: self.found,
            verdict: Verdict::of(self.good),
            mismatch: self.mismatch,
        }
    }

    /// A step that had to work and did not.
    pub(super) fn refused(expected: &str, refusal: Refusal) -> Self {
        Self {
            expected: expected.into(),
            found: refusal.to_string(),
            good: false,
            mismatch: None,
        }
    }
}
