//! Which pages of guest memory a file holds, in runs that are mapped at once.

use addr::PAGE_SIZE;
use serde::{Deserialize, Serialize};

/// A gap of so many pages of zeroes is rather kept than split a run: each run is one
/// more area of the process.
const SMALL_GAP: u32 = 16;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The first one, counted from the start of its memslot.
    pub(crate) first: u32,
    /// How many.
    pub(crate) npages: u32,
}

impl Run {
    pub(crate) fn len_bytes(self) -> u64 {
        u64::from(self.npages) * PAGE_SIZE
    }

    fn end(self) -> Option<u32> {
        self.first.checked_add(self.npages)
    }
}

/// The runs that hold all `pages`, which are in order.
pub(super) fn runs(pages: impl Iterator<Item = u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if page - run.first - run.npages <= SMALL_GAP => {
                run.npages = page - run.first + 1;
            }
            _ => runs.push(Run {
                first: page,
                npages: 1,
            }),
        }
    }
    runs
}

/// Whether `runs` are pages of a memslot of `npages`, in order and none of them twice.
pub(super) fn are_sound(runs: &[Run], npages: u64) -> bool {
    let mut free = 0;
    runs.iter().all(|run| {
        let Some(end) = run.end() else {
            return false;
        };
        let sound = run.first >= free && run.npages > 0 && u64::from(end) <= npages;
        free = end;
        sound
    })
}

/// Bytes of all `runs`; `None` for more than there can be.
pub(super) fn len_bytes(runs: &[Run]) -> Option<u64> {
    runs.iter()
        .try_fold(0_u64, |sum, run| sum.checked_add(run.len_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u32, npages: u32) -> Run {
        Run { first, npages }
    }

    #[test]
    fn small_gaps_are_bridged_and_large_ones_are_not() {
        let pages = [3, 4, 4 + SMALL_GAP + 1, 100, 100 + SMALL_GAP + 2];
        let found = runs(pages.into_iter());
        let bridged = run(3, SMALL_GAP + 3);
        assert_eq!(found, [bridged, run(100, 1), run(102 + SMALL_GAP, 1)]);
        assert!(are_sound(&found, 200));
        assert_eq!(
            len_bytes(&found),
            Some(u64::from(SMALL_GAP + 5) * PAGE_SIZE)
        );
        assert!(runs([].into_iter()).is_empty());
    }

    #[test]
    fn runs_that_no_memory_has_are_refused() {
        for wrong in [
            vec![run(0, 0)],
            vec![run(0, 11)],
            vec![run(10, 1)],
            vec![run(u32::MAX, 1)],
            vec![run(1, u32::MAX)],
            vec![run(4, 2), run(5, 1)],
            vec![run(4, 2), run(0, 1)],
        ] {
            assert!(!are_sound(&wrong, 10), "{wrong:?}");
        }
        assert!(are_sound(&[run(0, 1), run(1, 9)], 10));
    }
}
