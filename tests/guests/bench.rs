//! `mapwitness bench` says all that it promises to; what it finds is the machine's affair.

use std::process::Command;

use crate::command::{PROGRAM, json};
use serde_json::Value;

/// Each figure with the part that measures it.
const FIGURES: [(&str, &str); 13] = [
    ("boot", "boot_vs_qemu_microvm"),
    ("boot", "snapshot_start_vs_boot"),
    ("reset", "reset_vs_full_copy"),
    ("reset", "reset_vs_qemu_loadvm"),
    ("walk", "guest_walk_vs_kvm_translate"),
    ("walk", "guest_walk_vs_table_read"),
    ("walk", "second_level_vs_guest_walk"),
    ("check", "check_per_page_large_vs_one"),
    ("memory", "vmm_memory_mib"),
    ("memory", "vmm_memory_vs_qemu"),
    ("walk", "growth_exponent_walk"),
    ("reset", "growth_exponent_reset"),
    ("check", "growth_exponent_check"),
];

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(PROGRAM)
        .args(["bench", "--json", "--quick"])
        .args(arguments)
        .output()
        .expect("run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    json(&output)
}

/// A figure is whole, or says why it is not.
fn is_sound(figure: &Value) {
    assert!(
        figure["unit"].is_string() && figure["goal"].is_number(),
        "{figure:#}"
    );
    if figure["met"].is_null() {
        let note = figure["note"].as_str().unwrap_or_default();
        assert!(!note.is_empty() && figure["ratio"].is_null(), "{figure:#}");
        return;
    }
    assert!(
        figure["ours"].as_f64().is_some_and(f64::is_finite),
        "{figure:#}"
    );
    let stands_alone = figure["against"] == "";
    let judged = if stands_alone {
        &figure["ours"]
    } else {
        &figure["ratio"]
    };
    let (judged, goal) = (judged.as_f64(), figure["goal"].as_f64());
    let (judged, goal) = judged.zip(goal).expect("numbers");
    let is_met = match figure["bound"].as_str() {
        Some("at_most") => judged <= goal,
        Some("at_least") => judged >= goal,
        other => panic!("{other:?}"),
    };
    assert_eq!(figure["met"], is_met, "{figure:#}");
    if !stands_alone {
        let sides = figure["ours"].as_f64().zip(figure["rival"].as_f64());
        let (ours, rival) = sides.expect("two numbers");
        assert!(ours > 0.0 && rival > 0.0, "{figure:#}");
        assert!((judged * rival / ours - 1.0).abs() < 1e-6, "{figure:#}");
    }
}

/// Measures these parts alone and looks at all that is said; gives the pictures' number.
fn look_at(parts: &[&str], more: &[&str]) -> usize {
    let report = bench(&[parts, more].concat());
    assert_eq!(report["quick"], true);
    let figures = report["figures"].as_array().expect("a list");
    let names: Vec<_> = figures
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    let own = FIGURES.iter().filter(|(part, _)| parts.contains(part));
    assert_eq!(names, own.map(|(_, name)| *name).collect::<Vec<_>>());
    figures.iter().for_each(is_sound);
    // On a host where tests run, ours are all to be had.
    for figure in figures {
        let is_rivals = figure["name"]
            .as_str()
            .is_some_and(|name| name.contains("qemu"));
        assert!(is_rivals || !figure["met"].is_null(), "{figure:#}");
    }
    report["curves"].as_array().expect("a list").len()
}

/// Each part once: what all of them print is what they print one by one.
#[test]
fn every_figure_is_printed_or_says_why_not() {
    look_at(&["boot", "memory"], &[]);
    let plots = tempfile::tempdir().expect("a folder");
    let plot = ["--plot", plots.path().to_str().expect("UTF-8")];
    let curves = look_at(&["reset", "walk", "check"], &plot);
    let drawn = std::fs::read_dir(plots.path()).expect("there").count();
    assert_eq!(drawn, curves);
    assert!(drawn > 0);
}
