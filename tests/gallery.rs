//! Drivers in C with one fault each, of classes that were published: every one is caught,
//! and mended it passes. Contracts are `tests/gallery/*.toml`.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::image;
use guest_images::handover::{self, Images};
use provision::Progress;
use rstest::rstest;
use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gallery");
/// Which contract each driver breaks.
const CONTRACTS: &str = include_str!("gallery/contracts.txt");

/// Drivers and their contracts.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = CONTRACTS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ').map(|(a, b)| (a, b.trim())))
}

/// Checks a driver, as it is or mended; gives its exit status and report.
fn check(driver: &str, sound: bool) -> (Option<i32>, Value) {
    let (_, contract) = all().find(|(name, _)| *name == driver).expect("a contract");
    let path = Path::new(FOLDER).join(contract).with_extension("toml");
    let mut text = std::fs::read_to_string(path).expect("readable");
    if sound {
        text.push_str("\n[module]\nparameters = \"sound=1\"\n");
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let contract = scratch.path().join("contract.toml");
    std::fs::write(&contract, text).expect("written");
    let images = Images::from([("good".to_owned(), image("good"))]);
    let output = Command::new(env!("CARGO_BIN_EXE_mapwitness"))
        .args(["check", "--json", "--module"])
        .arg(module(driver))
        .arg("--contract")
        .arg(&contract)
        .env(
            handover::VARIABLE,
            handover::export(&images).expect("plain paths"),
        )
        .output()
        .expect("it runs");
    (output.status.code(), report(&output))
}

/// A module that the cargo runner has prepared, or one that is built now.
fn module(driver: &str) -> std::path::PathBuf {
    let prepared = handover::import_modules().expect("a set of modules");
    if let Some(module) = prepared.and_then(|mut modules| modules.remove(driver)) {
        return module;
    }
    let built =
        guest_images::ensure_modules(Path::new(FOLDER), &image("good"), &Progress::stderr());
    let mut built = built.expect("they build").into_iter();
    built
        .find(|path| path.file_stem().is_some_and(|stem| stem == driver))
        .expect("a driver of that name")
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("standard output is no single document: {error}\n{said}")
    })
}

/// What is wrong first, in words that do not change from run to run.
fn complaint(report: &Value) -> Option<String> {
    let first = |part: &str| {
        let all = report[part].as_array()?;
        all.iter().find(|one| one["verdict"] != "pass").cloned()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(mapping) = first("mappings") {
        let (name, phase) = (text(&mapping["name"]), text(&mapping["failed_phase"]));
        let link = text(&mapping["mismatch"]["link"]);
        return Some(format!("{name}, {phase}: link {link} disagrees"));
    }
    if let Some(refusal) = first("refusals") {
        let (name, expected) = (text(&refusal["name"]), text(&refusal["expected"]));
        let mapped = text(&refusal["found"]).starts_with("mapped");
        let found = if mapped { "mapped" } else { "another refusal" };
        return Some(format!("{name}: expected {expected}, found {found}"));
    }
    if let Some(promise) = first("promises") {
        return Some(format!("{}: not kept", text(&promise["name"])));
    }
    let ended = report["ended"].as_str()?;
    ended
        .split(": ")
        .take(2)
        .map(str::to_owned)
        .reduce(|a, b| format!("{a}: {b}"))
}

/// The class, by the comment at the head of the driver's source.
fn class(driver: &str) -> (String, String) {
    let path = Path::new(FOLDER).join(driver).with_extension("c");
    let source = std::fs::read_to_string(path).expect("readable");
    let (_, comment) = source.split_once("/*").expect("a comment");
    let (comment, _) = comment.split_once("*/").expect("its end");
    let words = comment.split_whitespace().filter(|word| *word != "*");
    let text: Vec<&str> = words.collect();
    let text = text.join(" ");
    let (cve, class) = text.split_once(": ").expect("a number and a class");
    (cve.to_owned(), class.to_owned())
}

#[rstest]
fn a_driver_of_a_published_class_is_caught_and_passes_when_it_is_mended(
    #[values(
        "amdkfd_2024_41011",
        "aspeed_lpc_ctrl_2021_42252",
        "au1100fb_2013_4511",
        "cma_heap_2024_46852",
        "cpia2_2019_18675",
        "drm_gem_shmem_2024_39497",
        "exynos_mem_2012_6422",
        "fb_2013_2596",
        "gvt_2019_11085",
        "i915_2024_42259",
        "memtrace_2025_38088",
        "panthor_2024_53071",
        "perf_2025_38563",
        "prepare_2026_53373",
        "qaic_2026_64051",
        "ring_buffer_2024_56368",
        "tracing_2025_68329",
        "udl_2018_8781",
        "usbmon_2022_43750",
        "vas_2024_56765",
        "vb2_2026_46312",
        "vc4_2026_68445",
        "vhost_vdpa_2021_46967",
        "vhost_vdpa_2026_74312"
    )]
    driver: &str,
) {
    let (status, found) = check(driver, false);
    assert_eq!(status, Some(1), "{found:#}");
    let complaint = complaint(&found).unwrap_or_else(|| panic!("{found:#}"));
    let (cve, class) = class(driver);
    let row = format!("| {cve} | [{driver}]({driver}.c) | {class} | {complaint} |");
    let readme = include_str!("gallery/README.md");
    assert!(readme.contains(&row), "the README lacks this row:\n{row}");
    let (status, found) = check(driver, true);
    assert_eq!(status, Some(0), "{found:#}");
    assert!(found["pages_checked"].as_u64() > Some(0));
}

/// A driver that is in the list of contracts and not above would not be checked.
#[test]
fn every_driver_of_the_gallery_is_checked() {
    let source = include_str!("gallery.rs");
    for (driver, _) in all() {
        assert!(source.contains(&format!("\"{driver}\"")), "{driver}");
        assert!(Path::new(FOLDER).join(driver).with_extension("c").is_file());
    }
    let drivers = std::fs::read_dir(FOLDER).expect("a folder");
    let is_driver = |path: &std::path::PathBuf| path.extension().is_some_and(|it| it == "c");
    let paths = drivers.map(|entry| entry.expect("readable").path());
    assert_eq!(paths.filter(is_driver).count(), all().count());
}
