//! How a cost grows with size.

use crate::figure::Figure;
use crate::goals::Goal;
use crate::samples::Samples;

/// Sizes below this part of the largest tell of what is paid once, and nothing of growth.
const SMALLEST_PART: f64 = 1.0 / 300.0;

/// The power by which a cost grows, and the worst of its steps.
pub(crate) struct Growth {
    exponent: Option<f64>,
    /// The largest factor by which the cost of a step exceeds that of its pages.
    jump: Option<f64>,
}

impl Growth {
    /// Of points (size, cost) in the order of their sizes. The slope of the line through
    /// their logarithms that is nearest by least squares.
    pub(crate) fn of(points: &[(f64, f64)]) -> Self {
        let largest = points.last().map_or(0.0, |(size, _)| *size);
        let told: Vec<_> = points
            .iter()
            .filter(|(size, cost)| *size >= largest * SMALLEST_PART && *cost > 0.0)
            .copied()
            .collect();
        let step = |pair: &[(f64, f64)]| match pair {
            [(size, cost), (larger, more)] => (more / cost) / (larger / size),
            _ => 0.0,
        };
        Self {
            exponent: slope(&told),
            jump: told.windows(2).map(step).reduce(f64::max),
        }
    }

    pub(crate) fn figure(&self, goal: &Goal) -> Figure {
        let mut samples = Samples::default();
        if let Some(exponent) = self.exponent {
            samples.push(exponent);
        }
        let note = match self.jump {
            Some(jump) => format!("a page costs at most {jump:.2} times as much at the next size"),
            None => "fewer than two sizes".to_owned(),
        };
        Figure::alone(goal, &samples).noted(note)
    }
}

fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let middle_x = logs.iter().map(|(x, _)| x).sum::<f64>() / count;
    let middle_y = logs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let along: f64 = logs.iter().map(|(x, _)| (x - middle_x).powi(2)).sum();
    let both: f64 = logs
        .iter()
        .map(|(x, y)| (x - middle_x) * (y - middle_y))
        .sum();
    (along > 0.0).then(|| both / along)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cost: impl Fn(f64) -> f64) -> Growth {
        let sizes = (0..9).map(|power| 4_f64.powi(power));
        let points: Vec<_> = sizes.map(|size| (size, cost(size))).collect();
        Growth::of(&points)
    }

    #[test]
    fn powers_are_found_again() {
        for power in [0.5, 1.0, 1.5, 2.0] {
            let exponent = of(|size| 3.0 * size.powf(power)).exponent.expect("points");
            assert!((exponent - power).abs() < 1e-9, "{exponent} for {power}");
        }
    }

    #[test]
    fn what_is_paid_once_hides_no_growth() {
        let exponent = of(|size| 1000.0 + size * size).exponent.expect("points");
        assert!(exponent > 1.5, "{exponent}");
        let linear = of(|size| 1000.0 + size).exponent.expect("points");
        assert!(linear < 1.05, "{linear}");
    }

    #[test]
    fn a_jump_is_seen() {
        let even = of(|size| 10.0 + size).jump.expect("points");
        assert!(even <= 1.0, "{even}");
        let jump = of(|size| if size > 5000.0 { 3.0 * size } else { size });
        assert!((jump.jump.expect("points") - 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_point_tells_nothing() {
        assert!(Growth::of(&[(1.0, 1.0)]).exponent.is_none());
        assert!(Growth::of(&[]).exponent.is_none());
    }
}
