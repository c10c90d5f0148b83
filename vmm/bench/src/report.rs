//! All that was measured.

use serde::Serialize;

use crate::Plan;
use crate::figure::Figure;
use crate::goals::{GOALS, Part};

/// Cost against size.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// What is measured.
    pub name: &'static str,
    /// What the size counts.
    pub size: &'static str,
    /// Unit of the cost.
    pub unit: &'static str,
    /// Size and median cost, by size.
    pub points: Vec<(f64, f64)>,
}

/// What was measured in one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The host, in words.
    pub host: String,
    /// Whether it was only a quick look.
    pub quick: bool,
    /// The figures of the parts that were asked for.
    pub figures: Vec<Figure>,
    /// Cost against size.
    pub curves: Vec<Curve>,
    /// What else was found, a line each.
    pub notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            host: plan.host.clone(),
            quick: plan.quick,
            figures: Vec::new(),
            curves: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a figure at its place in the order of [`GOALS`].
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
        let place = |figure: &Figure| GOALS.iter().position(|goal| goal.name == figure.name);
        self.figures.sort_by_key(place);
    }

    /// Leaves what is missing of a part unmeasured.
    pub(crate) fn give_up(&mut self, part: Part, why: &str) {
        for goal in GOALS.iter().filter(|goal| goal.part == part) {
            if !self.figures.iter().any(|figure| figure.name == goal.name) {
                self.add(Figure::unmeasured(goal, why));
            }
        }
    }

    pub(crate) fn note(&mut self, line: String) {
        self.notes.push(line);
    }
}
