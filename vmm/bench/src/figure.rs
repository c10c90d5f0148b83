//! A figure: ours, its rival's, and whether that is good enough.

use serde::Serialize;

use crate::goals::{Bound, Goal};
use crate::samples::Samples;

/// One figure of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Median of ours; `None` when it was not measured.
    pub ours: Option<f64>,
    /// Median of the rival's, if there is one.
    pub rival: Option<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// Ours divided by the rival's.
    pub ratio: Option<f64>,
    /// What is wanted of the ratio, or of ours where nothing stands against it.
    pub goal: f64,
    /// Whether that is the most or the least.
    pub bound: Bound,
    /// Whether it is reached; `None` when it was not measured.
    pub met: Option<bool>,
    /// What the rival is.
    pub against: &'static str,
    /// Median distance of ours from its median.
    pub spread: Option<f64>,
    /// The same of the rival's.
    pub rival_spread: Option<f64>,
    /// How often each took its turn.
    pub turns: usize,
    /// Why it was not measured, or what else is to be known.
    pub note: Option<String>,
}

impl Figure {
    /// Ours against a rival's.
    pub(crate) fn against(goal: &Goal, ours: &Samples, rival: &Samples) -> Self {
        let ratio = ours.median().zip(rival.median()).map(|(a, b)| a / b);
        Self {
            rival: rival.median(),
            ratio,
            met: ratio.map(|ratio| goal.is_met(ratio)),
            rival_spread: rival.spread(),
            ..Self::of(goal, ours)
        }
    }

    /// One that stands alone.
    pub(crate) fn alone(goal: &Goal, ours: &Samples) -> Self {
        Self {
            met: ours.median().map(|ours| goal.is_met(ours)),
            ..Self::of(goal, ours)
        }
    }

    /// One that could not be had, and why.
    pub(crate) fn unmeasured(goal: &Goal, why: impl Into<String>) -> Self {
        Self::of(goal, &Samples::default()).noted(why)
    }

    /// With something else to be known of it.
    pub(crate) fn noted(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }

    fn of(goal: &Goal, ours: &Samples) -> Self {
        Self {
            name: goal.name,
            ours: ours.median(),
            rival: None,
            unit: goal.unit,
            ratio: None,
            goal: goal.goal,
            bound: goal.bound,
            met: None,
            against: goal.rival,
            spread: ours.spread(),
            rival_spread: None,
            turns: ours.len(),
            note: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::{MEMORY_MIB, RESET_VS_COPY};

    fn samples(value: f64) -> Samples {
        let mut samples = Samples::default();
        samples.push(value);
        samples
    }

    #[test]
    fn a_goal_is_met_on_its_good_side_only() {
        let good = Figure::against(&RESET_VS_COPY, &samples(5.0), &samples(100.0));
        assert_eq!((good.ratio, good.met), (Some(0.05), Some(true)));
        let bad = Figure::against(&RESET_VS_COPY, &samples(5.1), &samples(100.0));
        assert_eq!(bad.met, Some(false));
        let alone = Figure::alone(&MEMORY_MIB, &samples(5.1));
        assert_eq!((alone.ours, alone.met), (Some(5.1), Some(false)));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let figure = Figure::unmeasured(&RESET_VS_COPY, "no rival");
        assert_eq!((figure.ours, figure.ratio, figure.met), (None, None, None));
        assert_eq!(figure.note.as_deref(), Some("no rival"));
    }
}
