//! What is wrong with a driver.

use std::fmt;

use harness::HarnessError;
use harness::model::{Call, Operation, Wrong};
use harness::signals::{Kind, Signal};
use monitor::VmError;
use serde::{Deserialize, Serialize};
use witness::Mismatch;

/// The rule that a guest lives on.
const GUESTS_END: &str = "the guest's end";

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The link that disagrees, or the rule that was broken.
    pub by: String,
    /// What had to be.
    pub expected: String,
    /// What was.
    pub found: String,
    /// The first wrong page, if it is a page that is wrong.
    pub page: Option<WrongPage>,
}

/// The first page at the first link that disagrees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongPage {
    /// Page within its mapping.
    pub page: u64,
    /// Its address in the guest.
    pub gva: String,
    /// Each step of the walk of the guest's tables, from the root down.
    pub guest_walk: Vec<String>,
    /// The page in the host, and each step of the walk of the second-level tables.
    pub host: Vec<String>,
}

impl Verdict {
    pub(crate) fn rule(by: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            by: by.to_owned(),
            expected: expected.into(),
            found: found.into(),
            page: None,
        }
    }

    fn link(mismatch: Mismatch) -> Self {
        Self {
            by: mismatch.link.name().to_owned(),
            expected: mismatch.expected,
            found: mismatch.found,
            page: Some(WrongPage {
                page: mismatch.page,
                gva: mismatch.gva,
                guest_walk: mismatch.guest_walk,
                host: mismatch.host,
            }),
        }
    }

    pub(crate) fn of(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Outcome(surprise) => Self::rule(
                "answer",
                surprise.wanted.to_string(),
                surprise.came.to_string(),
            ),
            Wrong::Page(mismatch) => Self::link(*mismatch),
        }
    }

    /// Whether somebody waited for too long: the guest ended, or hung, without a word of its
    /// kernel, or a task of it hung.
    pub(crate) fn is_of_time(&self) -> bool {
        self.by == GUESTS_END || self.by == complaint(Kind::HungTask)
    }

    /// What a kernel complains of: the line that says it, then its whole text.
    pub(crate) fn complaint(signal: &Signal) -> Self {
        let by = complaint(signal.kind);
        let mut text = signal.text.join("\n");
        if signal.text.first() != Some(&signal.head) {
            text = format!("{}\n{text}", signal.head);
        }
        Self::rule(&by, "no complaint of the kernel", text)
    }

    /// What the driver did to a guest that could not go on; an error that is not the
    /// driver's doing stays one.
    pub(crate) fn blame(error: HarnessError) -> Result<Self, HarnessError> {
        match error {
            HarnessError::Vm(VmError::Ended(ended)) => Ok(Self::rule(
                GUESTS_END,
                "the guest goes on",
                ended.to_string(),
            )),
            HarnessError::Refused { operation, refusal } => Ok(Self::rule(
                "answer",
                format!("{operation} succeeds"),
                refusal.to_string(),
            )),
            other => Err(other),
        }
    }
}

/// The rule that a complaint of this kind breaks.
fn complaint(kind: Kind) -> String {
    format!("kernel {}", kind.name())
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.by, self.expected, self.found
        )?;
        if let Some(page) = &self.page {
            write!(f, "\n  page {} at gva {}", page.page, page.gva)?;
            for step in &page.guest_walk {
                write!(f, "\n  walk      {step}")?;
            }
            for step in &page.host {
                write!(f, "\n  host      {step}")?;
            }
        }
        Ok(())
    }
}

/// Why a driver is wrong, as far as that can be told: two findings of one cause are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// The link that disagrees, or the rule that was broken.
    pub by: String,
    /// The kind of the operation at or after which it was.
    pub operation: String,
    /// The file that it was done to, or that was opened last.
    pub file: String,
}

impl Cause {
    /// Its name as part of a path.
    pub fn file_name(&self) -> String {
        let name = format!("{}.{}.{}", self.by, self.operation, self.file);
        let plain = |letter: char| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => letter,
            _ => '-',
        };
        format!("{}.toml", name.chars().map(plain).collect::<String>())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} of {}", self.by, self.operation, self.file)
    }
}

/// The name of a kind of operation.
pub fn kind(operation: &Operation) -> &'static str {
    match operation.call {
        Call::Open { .. } => "open",
        Call::Close { .. } => "close",
        Call::Map { fixed: None, .. } => "mmap",
        Call::Map { .. } => "mmap-fixed",
        Call::Ask { .. } => "mmap-by-bytes",
        Call::Reserve { .. } => "reserve",
        Call::Unmap(_) => "munmap",
        Call::Protect { .. } => "mprotect",
        Call::Advise { .. } => "madvise",
        Call::Remap { .. } => "mremap",
        Call::Load(_) => "load",
        Call::Store(_) => "store",
        Call::Fork { .. } => "fork",
        Call::Exit => "exit",
        Call::Peek { .. } => "peek",
        Call::Poke { .. } => "poke",
        Call::ReadMem { .. } => "read-mem",
        Call::Revoke { .. } => "revoke",
        Call::Restore { .. } => "restore",
        Call::Offer { .. } => "offer",
        Call::Unbind => "unbind",
        Call::Bind => "bind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_a_path_of_one_part() {
        let cause = Cause {
            by: "the guest's end".into(),
            operation: "mmap".into(),
            file: "../eager/odd".into(),
        };
        let name = cause.file_name();
        assert_eq!(name, "the-guest-s-end.mmap...-eager-odd.toml");
    }

    #[test]
    fn what_the_driver_did_is_a_verdict_and_what_it_did_not_is_none() {
        let refused = HarnessError::Refused {
            operation: "open /dev/x".into(),
            refusal: harness::Refusal::Errno(libc::ENODEV),
        };
        assert!(Verdict::blame(refused).is_ok_and(|verdict| verdict.by == "answer"));
        let rejected = HarnessError::Rejected {
            request: String::new(),
            reason: String::new(),
        };
        assert!(Verdict::blame(rejected).is_err());
    }
}
