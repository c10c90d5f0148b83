//! The fewest operations that still fail.

use std::collections::BTreeSet;

use harness::model::Process;

use crate::case::Case;

/// More tries would only take longer.
const MOST_TRIES: usize = 256;

/// Leaves operations out as long as the case still `fails`, first many at once and then
/// one by one. What another process does is done by the first one where that fails as well, so
/// that its fork can go. Gives up after some hundreds of tries.
pub(crate) fn minimise<E>(
    case: &Case,
    fails: impl FnMut(&Case) -> Result<bool, E>,
) -> Result<Case, E> {
    let mut search = Search {
        least: case.clone(),
        tries: 0,
        fails,
    };
    search.leave_out()?;
    if search.do_with_fewer_processes()? {
        search.leave_out()?;
    }
    Ok(search.least)
}

struct Search<F> {
    /// The least case yet that fails.
    least: Case,
    tries: usize,
    fails: F,
}

impl<E, F: FnMut(&Case) -> Result<bool, E>> Search<F> {
    /// Goes on with `less` if that fails too.
    fn attempt(&mut self, less: Case) -> Result<bool, E> {
        if self.is_over() {
            return Ok(false);
        }
        self.tries += 1;
        let fails = (self.fails)(&less)?;
        if fails {
            self.least = less;
        }
        Ok(fails)
    }

    fn is_over(&self) -> bool {
        self.tries >= MOST_TRIES
    }

    fn leave_out(&mut self) -> Result<(), E> {
        let mut len = self.least.operations.len().div_ceil(2).max(1);
        loop {
            let mut is_smaller = false;
            let mut end = self.least.operations.len();
            // What comes last depends on what came first, so that it goes first.
            while end > 0 {
                let start = end.saturating_sub(len);
                let mut less = self.least.clone();
                less.operations.drain(start..end);
                is_smaller |= self.attempt(less)?;
                end = start;
            }
            if self.is_over() || (len == 1 && !is_smaller) {
                return Ok(());
            }
            if !is_smaller {
                len = len.div_ceil(2);
            }
        }
    }

    /// Whether another process's operations fail in the first one as well.
    fn do_with_fewer_processes(&mut self) -> Result<bool, E> {
        let all: BTreeSet<Process> = self.least.operations.iter().map(|it| it.by).collect();
        let mut is_less = false;
        for process in all.into_iter().filter(|it| *it != Process::FIRST) {
            let mut less = self.least.clone();
            for operation in &mut less.operations {
                if operation.by == process {
                    operation.by = Process::FIRST;
                }
            }
            is_less |= self.attempt(less)?;
        }
        Ok(is_less)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use harness::model::{Anchor, Call, Operation, Process};

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
    fn a_process_that_is_not_needed_goes() {
        let load = |by: u32| Process(by).does(Call::Load(Anchor(0).page(0)));
        let fork = |by: u32, child: u32| {
            let child = Process(child);
            Process(by).does(Call::Fork { child })
        };
        let case = Case {
            operations: vec![fork(0, 1), fork(1, 2), load(2)],
        };
        // Each process needs the fork that begins it.
        let is_alive = |case: &Case| {
            let mut alive = vec![Process::FIRST];
            case.operations.iter().all(|it| {
                if let Call::Fork { child } = it.call {
                    alive.push(child);
                }
                alive.contains(&it.by)
            })
        };
        let least = |needed: fn(&Call, Process) -> bool| {
            let fails = |case: &Case| {
                let needed = |it: &Operation| needed(&it.call, it.by);
                Ok::<_, Infallible>(is_alive(case) && case.operations.iter().any(needed))
            };
            minimise(&case, fails).unwrap_or_default().operations
        };
        assert_eq!(least(|call, _| matches!(call, Call::Load(_))), [load(0)]);
        let in_another = least(|call, by| matches!(call, Call::Load(_)) && by != Process::FIRST);
        assert_eq!(in_another, [fork(0, 2), load(2)]);
    }

    #[test]
    fn it_ends() {
        let pages: Vec<u64> = (0..1024).collect();
        assert!(least(&pages, &pages).1 <= MOST_TRIES);
        assert_eq!(least(&[], &[]).0, case(&[]));
    }
}
