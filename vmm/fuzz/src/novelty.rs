//! What is new about a case where the kernel does not tell which of its code ran: pairs
//! of operations one after the other, each with what it came to. A stand-in, and told
//! as such.

use std::hash::{Hash, Hasher};

use harness::Refusal;
use harness::model::{Call, Came};
use xxhash_rust::xxh64::Xxh64;

use crate::case::Case;
use crate::ran::Ran;
use crate::verdict::kind;

/// Entries of the map.
pub(crate) const MAP_LEN: usize = 1 << 16;

/// Sets the entries of what the case had.
pub(crate) fn mark(map: &mut [u8], case: &Case, ran: &Ran) {
    let mut before = 0;
    let mut file = 0;
    for step in &ran.steps {
        let Some(operation) = case.operations.get(step.index) else {
            continue;
        };
        if let Call::Open { file: opened, .. } = operation.call {
            file = opened;
        }
        let came = step.came.as_ref().map(class);
        let this = number(&(kind(operation), file, came));
        set(map, this);
        set(map, number(&(before, this)));
        before = this;
    }
}

/// What it came to, without what only the guest chooses.
fn class(came: &Came) -> (u8, i32) {
    match came {
        Came::Done => (0, 0),
        Came::Fd(_) => (1, 0),
        Came::At(_) => (2, 0),
        Came::Child(_) => (3, 0),
        Came::Ended(status) => (4, *status),
        Came::Reached(pages) => (5, i32::try_from(pages.len()).unwrap_or(i32::MAX)),
        Came::Refused(Refusal::Errno(errno)) => (6, *errno),
        Came::Refused(Refusal::Signal(signal)) => (7, signal.number * 16 + signal.code),
    }
}

fn number(of: &impl Hash) -> u64 {
    let mut hasher = Xxh64::new(0);
    of.hash(&mut hasher);
    hasher.finish()
}

fn set(map: &mut [u8], number: u64) {
    let len = map.len().max(1) as u64;
    let entry = usize::try_from(number % len).ok();
    if let Some(entry) = entry.and_then(|entry| map.get_mut(entry)) {
        *entry = 1;
    }
}

#[cfg(test)]
mod tests {
    use harness::model::{Process, Wanted};

    use super::*;
    use crate::ran::Step;

    fn entries(calls: &[Call], came: &[Came]) -> usize {
        let case = Case {
            operations: calls
                .iter()
                .map(|it| Process::FIRST.does(it.clone()))
                .collect(),
        };
        let step = |(index, came): (usize, &Came)| Step {
            index,
            wanted: Wanted::Done,
            came: Some(came.clone()),
        };
        let ran = Ran {
            steps: came.iter().enumerate().map(step).collect(),
            ..Ran::default()
        };
        let mut map = vec![0; MAP_LEN];
        mark(&mut map, &case, &ran);
        map.iter().filter(|it| **it != 0).count()
    }

    #[test]
    fn an_outcome_is_new_and_so_is_an_order() {
        let revoke = Call::Revoke { window: 0 };
        let refused = Came::Refused(Refusal::Errno(libc::EINVAL));
        assert_eq!(entries(&[], &[]), 0);
        let once = entries(std::slice::from_ref(&revoke), &[Came::Done]);
        let calls = [revoke.clone(), revoke.clone()];
        let twice = entries(&calls, &[Came::Done, Came::Done]);
        let both = entries(&calls, &[Came::Done, refused]);
        assert!(once < twice && twice < both, "{once} {twice} {both}");
    }
}
