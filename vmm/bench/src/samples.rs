//! Measurements that take turns.

use std::time::Instant;

use crate::error::BenchError;

/// What one subject cost, once for each turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        median(self.0.clone())
    }

    /// The median of the distances from the median, which one sample that was disturbed
    /// does not change.
    pub(crate) fn spread(&self) -> Option<f64> {
        let middle = self.median()?;
        median(self.0.iter().map(|it| (it - middle).abs()).collect())
    }
}

fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let upper = samples.get(samples.len() / 2)?;
    let lower = samples.get(samples.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// One subject of a comparison: does its work once and gives what that cost.
pub(crate) type Take<'a, S> = &'a mut dyn FnMut(&mut S) -> Result<f64, BenchError>;

/// Lets the subjects take turns, so that a machine that is slow for a while is slow for
/// all of them. The first turn is not counted, since it brings files and memory in, unless
/// there is no other.
///
/// # Errors
/// Those of the subjects.
pub(crate) fn alternate<S, const N: usize>(
    shared: &mut S,
    turns: usize,
    mut subjects: [Take<'_, S>; N],
) -> Result<[Samples; N], BenchError> {
    let mut samples = [const { Samples(Vec::new()) }; N];
    for turn in 0..=turns {
        for (take, samples) in subjects.iter_mut().zip(&mut samples) {
            let cost = take(shared)?;
            if turn > 0 || turns == 0 {
                samples.push(cost);
            }
        }
    }
    Ok(samples)
}

/// Seconds that `work` takes, and what it gives.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let made = work();
    (start.elapsed().as_secs_f64(), made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_sample_changes_neither_median_nor_spread() {
        let samples = Samples(vec![3.0, 1.0, 2.0, 900.0, 2.0]);
        assert_eq!(samples.median(), Some(2.0));
        assert_eq!(samples.spread(), Some(1.0));
        let even = Samples(vec![1.0, 4.0]);
        assert_eq!(even.median(), Some(2.5));
        assert_eq!(Samples::default().median(), None);
    }

    #[test]
    fn turns_alternate_and_the_first_does_not_count() {
        let mut order = Vec::new();
        let samples = alternate(
            &mut order,
            2,
            [
                &mut |order| {
                    order.push('a');
                    Ok(order.len() as f64)
                },
                &mut |order| {
                    order.push('b');
                    Ok(order.len() as f64)
                },
            ],
        );
        let [a, b] = samples.expect("no failure");
        assert_eq!(order, ['a', 'b', 'a', 'b', 'a', 'b']);
        assert_eq!((a.0, b.0), (vec![3.0, 5.0], vec![4.0, 6.0]));
        let [once] = alternate(&mut (), 0, [&mut |()| Ok(7.0)]).expect("no failure");
        assert_eq!(once.0, [7.0]);
    }
}
