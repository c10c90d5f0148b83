//! Cost against size, as pictures.

use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::error::BenchError;
use crate::report::{Curve, Report};

/// Pixels.
const SIZE: (u32, u32) = (720, 480);
const MARGIN: u32 = 12;
const LABELS_LEFT: u32 = 72;
const LABELS_BELOW: u32 = 42;
const DOT: u32 = 4;
/// Sizes that span less than this factor are drawn evenly.
const FEW: f64 = 16.0;

/// Draws each curve into a file of its own in `folder`. Gives the files.
///
/// # Errors
/// [`BenchError::Picture`] when a file cannot be written.
pub fn draw(report: &Report, folder: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let curves = report.curves.iter().filter(|it| it.points.len() > 1);
    let pictures = curves.map(|curve| {
        let path = folder.join(format!("{}.svg", curve.name.replace(' ', "-")));
        match picture(curve, &report.host, &path) {
            Ok(()) => Ok(path),
            Err(what) => Err(BenchError::Picture { path, what }),
        }
    });
    pictures.collect()
}

fn picture(curve: &Curve, host: &str, path: &Path) -> Result<(), String> {
    let (sizes, costs) = (
        span(curve.points.iter().map(|it| it.0)),
        span(curve.points.iter().map(|it| it.1)),
    );
    if sizes.end / sizes.start < FEW {
        let costs = 0.0..costs.end * 1.1;
        return chart(curve, host, path, 0.0..sizes.end + 1.0, costs);
    }
    let costs = costs.start / 2.0..costs.end * 2.0;
    chart(curve, host, path, sizes.log_scale(), costs.log_scale())
}

/// From the least to the most; both above zero, for logarithms.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let none = f64::INFINITY..f64::MIN_POSITIVE;
    values.fold(none, |span, value| {
        let value = value.max(f64::MIN_POSITIVE);
        span.start.min(value)..span.end.max(value)
    })
}

fn chart<X, Y>(curve: &Curve, host: &str, path: &Path, sizes: X, costs: Y) -> Result<(), String>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(MARGIN)
        .caption(format!("{}, on {host}", curve.name), ("sans-serif", 15))
        .x_label_area_size(LABELS_BELOW)
        .y_label_area_size(LABELS_LEFT)
        .build_cartesian_2d(sizes, costs)
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .x_desc(curve.size)
        .y_desc(curve.unit)
        .draw()
        .map_err(|error| failed(&error))?;
    let points = || curve.points.iter().copied();
    chart
        .draw_series(LineSeries::new(points(), &BLUE))
        .map_err(|error| failed(&error))?;
    let dots = points().map(|point| Circle::new(point, DOT, BLUE.filled()));
    chart.draw_series(dots).map_err(|error| failed(&error))?;
    root.present().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &'static str, points: Vec<(f64, f64)>) -> Curve {
        Curve {
            name,
            size: "pages",
            unit: "us",
            points,
        }
    }

    #[test]
    fn each_curve_with_points_becomes_a_picture() {
        let folder = tempfile::tempdir().expect("a folder");
        let report = Report {
            host: "a & b".to_owned(),
            quick: true,
            figures: Vec::new(),
            curves: vec![
                curve("guest walk", vec![(1.0, 3.0), (65536.0, 900.0)]),
                curve("VMs", vec![(1.0, 8.0), (8.0, 40.0)]),
                curve("nothing", Vec::new()),
            ],
            notes: Vec::new(),
        };
        let drawn = draw(&report, folder.path()).expect("drawn");
        let names: Vec<_> = drawn.iter().filter_map(|it| it.file_name()).collect();
        assert_eq!(names, ["guest-walk.svg", "VMs.svg"]);
        for path in drawn {
            let text = std::fs::read_to_string(path).expect("written");
            assert_eq!(text.matches("<circle").count(), 2, "{text}");
            assert!(text.contains("a &amp; b") && text.contains("pages"));
        }
        let gone = folder.path().join("gone");
        assert!(draw(&report, &gone).is_err());
    }
}
