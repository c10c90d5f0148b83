//! Choices, all of them by the seed.

use libafl_bolts::rands::Rand;

/// Makes choices by a source of numbers.
pub(crate) struct Dice<'r, R>(pub(crate) &'r mut R);

impl<R: Rand> Dice<'_, R> {
    /// A number below `end`; 0 when that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        self.0.below_or_zero(end) as u64
    }

    /// An index of a list that has `len` entries; 0 when it has none.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.0.below_or_zero(len)
    }

    /// Whether something comes that does so in one of `times` times.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them; `None` when there is none.
    pub(crate) fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.index(all.len())).cloned()
    }

    /// One of them, each as often as its weight says; `None` when all weigh nothing.
    pub(crate) fn weighted<T: Copy>(&mut self, all: &[(u64, T)]) -> Option<T> {
        let sum = all.iter().map(|(weight, _)| weight).sum();
        let mut rest = self.below(sum);
        all.iter().find_map(|(weight, one)| {
            if rest < *weight {
                return Some(*one);
            }
            rest -= weight;
            None
        })
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0.next()
    }
}
