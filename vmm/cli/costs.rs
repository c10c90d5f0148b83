//! `mapwitness fuzz --compare-evidence`: what evidence costs.

use std::time::Duration;

use ::fuzz::{Costs, Options, Pace};
use anyhow::{Context, bail};
use guest_images::handover::Images;
use serde::Serialize;

use crate::args::FuzzArgs;
use crate::exit::Exit;
use crate::fuzz::{engine_options, load};

/// The document of `--json`. Times are those of one case.
#[derive(Debug, Serialize)]
struct Document {
    driver: String,
    seed: u64,
    cases: usize,
    operations: usize,
    with_evidence: Way,
    without_evidence: Way,
    /// The same operations without a stop for each, and without a reset.
    bare: Way,
    /// Cases per second with evidence, of those without it.
    ratio: f64,
    reset_ms: f64,
    guest_ms: f64,
    evidence_ms: f64,
    leavings_ms: f64,
}

/// How quick a way of going through cases is.
#[derive(Debug, Serialize)]
struct Way {
    cases_per_s: f64,
    ms: f64,
}

/// Goes through the cases of a run by turns with evidence and without.
pub fn compare(options: &FuzzArgs, images: Images) -> anyhow::Result<Exit> {
    let (mut subject, about) = load(&options.fuzzed, &options.driver_variant, images)?;
    let fresh = tempfile::tempdir().context("make a folder for cases")?;
    // What is new of a case follows from results alone, so that these are the cases of a
    // run with evidence, too.
    let engine = Options {
        pace: Pace::Never,
        tells: false,
        ..engine_options(options, fresh.path())
    };
    subject.note_cases();
    ::fuzz::fuzz(&mut subject, &about, &engine)?;
    let cases = subject.take_noted();
    let costs = ::fuzz::costs(&mut subject, &cases)?;
    if costs.cases == 0 {
        bail!("each case has a finding, so that none can be timed to its end");
    }
    let document = document(options, about.driver, &costs);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print(&document);
    }
    Ok(Exit::Pass)
}

// Nobody counts so many cases that this would be off.
#[allow(clippy::cast_precision_loss)]
fn document(options: &FuzzArgs, driver: String, costs: &Costs) -> Document {
    let ms = |whole: Duration| whole.as_secs_f64() * 1000.0 / costs.cases as f64;
    let way = |whole: Duration| Way {
        cases_per_s: 1000.0 / ms(whole).max(f64::MIN_POSITIVE),
        ms: ms(whole),
    };
    Document {
        driver,
        seed: options.seed,
        cases: costs.cases,
        operations: costs.operations,
        with_evidence: way(costs.with),
        without_evidence: way(costs.without),
        bare: way(costs.bare),
        ratio: costs.ratio(),
        reset_ms: ms(costs.parts.reset),
        guest_ms: ms(costs.parts.guest),
        evidence_ms: ms(costs.parts.evidence),
        leavings_ms: ms(costs.parts.leavings),
    }
}

fn print(document: &Document) {
    println!(
        "{} cases of {} operations, seed {}, driver {}",
        document.cases, document.operations, document.seed, document.driver
    );
    let all = [
        ("with evidence", &document.with_evidence),
        ("without", &document.without_evidence),
        ("operations alone", &document.bare),
    ];
    for (name, way) in all {
        println!(
            "{name:<17} {:>8.1} cases/s {:>8.2} ms a case",
            way.cases_per_s, way.ms
        );
    }
    println!(
        "ratio {:.2}; reset {:.2} ms, guest {:.2} ms, evidence {:.2} ms, leavings {:.2} ms",
        document.ratio,
        document.reset_ms,
        document.guest_ms,
        document.evidence_ms,
        document.leavings_ms
    );
}
