//! The fewest operations that still fail.

use crate::case::Case;

/// More tries would only take longer.
const MOST_TRIES: usize = 256;

/// Leaves operations out as long as the case still `fails`, first many at once and then
/// one by one. Gives up after some hundreds of tries.
pub(crate) fn minimise<E>(
    case: &Case,
    mut fails: impl FnMut(&Case) -> Result<bool, E>,
) -> Result<Case, E> {
    let mut least = case.clone();
    let mut len = least.operations.len().div_ceil(2).max(1);
    let mut tries = 0;
    loop {
        let mut is_smaller = false;
        let mut end = least.operations.len();
        // What comes last depends on what came first, so that it goes first.
        while end > 0 && tries < MOST_TRIES {
            let start = end.saturating_sub(len);
            let mut less = least.clone();
            less.operations.drain(start..end);
            tries += 1;
            if fails(&less)? {
                least = less;
                is_smaller = true;
            }
            end = start;
        }
        if tries >= MOST_TRIES || (len == 1 && !is_smaller) {
            return Ok(least);
        }
        if !is_smaller {
            len = len.div_ceil(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use harness::model::{Anchor, Call, Process};

    use super::*;

    fn case(pages: &[u64]) -> Case {
        let load = |page: &u64| Process::FIRST.does(Call::Load(Anchor(0).page(*page)));
        Case {
            operations: pages.iter().map(load).collect(),
        }
    }

    fn least(pages: &[u64], needed: &[u64]) -> (Case, usize) {
        let mut tries = 0;
        let needed = case(needed);
        let least = minimise(&case(pages), |case| {
            tries += 1;
            let has = |one| case.operations.contains(one);
            Ok::<_, Infallible>(needed.operations.iter().all(has))
        });
        (least.unwrap_or_default(), tries)
    }

    #[test]
    fn only_what_is_needed_is_left() {
        let pages: Vec<u64> = (0..24).collect();
        for needed in [&[][..], &[0], &[23], &[3, 4], &[0, 11, 23], &pages] {
            assert_eq!(least(&pages, needed).0, case(needed), "{needed:?}");
        }
    }

    #[test]
    fn it_ends() {
        let pages: Vec<u64> = (0..1024).collect();
        assert!(least(&pages, &pages).1 <= MOST_TRIES);
        assert_eq!(least(&[], &[]).0, case(&[]));
    }
}
