//! `mapwitness bench`: what it all costs, beside what it costs elsewhere.

use std::fs;

use ::bench::{Figure, Part, Plan, Report};
use anyhow::{Context, anyhow};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use provision::{Cache, Progress};

use crate::args::BenchArgs;
use crate::carried::{self, Errand};
use crate::exit::Exit;
use crate::images;

/// Variant of the driver that is measured.
const VARIANT: &str = "good";

/// Carries out `mapwitness bench`. Runs twice, as `check` does.
pub fn run(options: &BenchArgs) -> anyhow::Result<Exit> {
    let Some(mut images) = handover::import()? else {
        std::process::exit(carry(options)?);
    };
    let image = images.remove(VARIANT);
    here(
        options,
        image.ok_or_else(|| anyhow!("no image was handed over"))?,
    )
}

fn carry(options: &BenchArgs) -> anyhow::Result<i32> {
    let progress = Progress::stderr();
    let image = images::ensure(VARIANT, &options.image, &progress)?;
    if let Some(folder) = &options.plot {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let errand = Errand {
        host: options.host,
        folders: options.plot.iter().cloned().collect(),
        yes: options.image.yes,
        images: Images::from([(VARIANT.to_owned(), image)]),
        environment: Vec::new(),
    };
    carried::carry(errand, &progress)
}

fn here(options: &BenchArgs, image: GuestImage) -> anyhow::Result<Exit> {
    let host = carried::host_report(options.host)?;
    let named = |part: &Part| options.parts.is_empty() || options.parts.contains(part);
    let plan = Plan {
        parts: Part::ALL.into_iter().filter(named).collect(),
        quick: options.quick,
        kernel: image.vmlinux,
        initramfs: image.initramfs,
        qemu: Cache::open().ok().as_ref().and_then(hosts::qemu),
        host: format!(
            "{}, Linux {}, second level {}",
            host.kind, host.kernel, host.second_level
        ),
    };
    let report = ::bench::run(&plan, &|part| eprintln!("mapwitness: measuring {part}"))?;
    if let Some(folder) = &options.plot {
        for path in ::bench::draw(&report, folder)? {
            eprintln!("mapwitness: drew {}", path.display());
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(Exit::Pass)
}

fn text(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "figure", "ours", "rival", "unit", "ratio", "goal", "reached",
        ]);
    for figure in &report.figures {
        table.add_row(row(figure));
    }
    for column in [1, 2, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let quick = if report.quick {
        ", a quick look and no measurement"
    } else {
        ""
    };
    let mut text = format!("{}{quick}\n{table}\n", report.host);
    for figure in &report.figures {
        if let Some(note) = figure.note.as_ref().filter(|note| !note.is_empty()) {
            text += &format!("{}: {note}\n", figure.name);
        }
    }
    for note in &report.notes {
        text += &format!("{note}\n");
    }
    text
}

fn row(figure: &Figure) -> [String; 7] {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), short);
    let spread = |value: Option<f64>, spread: Option<f64>| match spread {
        Some(spread) if figure.turns > 1 => format!("{} ±{}", number(value), short(spread)),
        _ => number(value),
    };
    [
        figure.name.to_owned(),
        spread(figure.ours, figure.spread),
        spread(figure.rival, figure.rival_spread),
        figure.unit.to_owned(),
        number(figure.ratio),
        format!("{} {}", figure.bound.sign(), figure.goal),
        match figure.met {
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => "unmeasured".to_owned(),
        },
    ]
}

/// Three digits or more.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}
