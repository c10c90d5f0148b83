//! Drivers in C with one fault each, of classes that were published: every one is caught,
//! and mended it passes. Contracts are `tests/gallery/*.toml`. What fuzzing them found lies in
//! `tests/found`.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::common::{self, boot, chain, check_options, image};
use crate::modules::module;
use contract::Contract;
use fuzz::{About, Finding, Guidance, Options, Pace, Subject};
use guest_kernel::KernelFacts;
use harness::{Driver, Guest, Report, Verdict, equip};
use monitor::VmConfig;
use provision::Progress;
use rstest::rstest;
use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gallery");
/// Which contract each driver breaks.
const CONTRACTS: &str = include_str!("../gallery/contracts.txt");

/// Drivers and their contracts.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = CONTRACTS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ').map(|(a, b)| (a, b.trim())))
}

/// Facts of the kernel, read once: they are the same for every driver.
static FACTS: LazyLock<KernelFacts> = LazyLock::new(common::kernel_facts);

/// Checks a driver, as it is or mended.
fn check(driver: &str, sound: bool) -> Report {
    let (mut guest, subject) = start(driver, sound);
    harness::check(&mut guest, &subject, &FACTS, check_options(driver))
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// A guest for a driver, as it is or mended, and what to load in it.
fn start(driver: &str, sound: bool) -> (Guest, Driver) {
    let (_, name) = all().find(|(name, _)| *name == driver).expect("a contract");
    let path = Path::new(FOLDER).join(name).with_extension("toml");
    let mut contract = Contract::read(&path).unwrap_or_else(|error| panic!("{}", chain(&error)));
    if sound {
        contract.parameters = "sound=1".to_owned();
    }
    let modules: Vec<PathBuf> = all().map(|(name, _)| module(name)).collect();
    // All modules in one image: guests of one contract differ in nothing before one is loaded.
    let with = guest_images::with_modules(&image("good"), &modules, &Progress::hidden());
    let (image, mut paths) = with.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let of_driver = format!("/{driver}.ko");
    paths.retain(|path| path.ends_with(&of_driver));
    let mut config = VmConfig::new(image.vmlinux, image.initramfs);
    equip(&mut config, &contract.device);
    (boot(&config), Driver::of_contract(&contract, &paths))
}

/// A driver to be fuzzed, as it is or mended.
fn fuzzed(driver: &str, sound: bool) -> Subject {
    let (guest, driver) = start(driver, sound);
    Subject::load(guest, FACTS.clone(), &driver, false)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
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
    let report = check(driver, false);
    assert_eq!(report.verdict, Verdict::Fail, "{report:#?}");
    let found = serde_json::to_value(&report).expect("plain data");
    let complaint = complaint(&found).unwrap_or_else(|| panic!("{found:#}"));
    let (cve, class) = class(driver);
    let row = format!("| {cve} | [{driver}]({driver}.c) | {class} | {complaint} |");
    let readme = include_str!("../gallery/README.md");
    assert!(readme.contains(&row), "the README lacks this row:\n{row}");
    let mended = check(driver, true);
    assert_eq!(mended.verdict, Verdict::Pass, "{mended:#?}");
    assert!(mended.pages_checked > 0);
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

/// What fuzzing found in each driver shows it again, and not where it is mended; the table
/// beside the findings says of them what they are.
#[test]
fn what_fuzzing_found_is_seen_again() {
    let found = Path::new(FOLDER).with_file_name("found");
    let table = std::fs::read_to_string(found.join("README.md")).expect("readable");
    let rows = table.lines().filter(|line| line.starts_with("| CVE-"));
    assert_eq!(rows.count(), all().count());
    for (driver, _) in all() {
        let path = found.join(driver).with_extension("toml");
        let finding = Finding::read(&path).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let (cve, _) = class(driver);
        let row = format!(
            "| {cve} | [{driver}](../gallery/{driver}.c) | {} | {} | {} |",
            finding.about.cases,
            finding.sequence(),
            finding.complaint().replace('|', "/")
        );
        assert!(table.contains(&row), "the table lacks this row:\n{row}");
        for sound in [false, true] {
            let mut subject = fuzzed(driver, sound);
            let case = finding
                .case(subject.world())
                .expect("a case of this driver");
            let ran = subject.run(&case, Pace::AtTheEnd).expect("it runs");
            let by = ran.found.map(|found| found.verdict.by);
            let wanted = (!sound).then(|| finding.cause.by.clone());
            assert_eq!(by, wanted, "{driver}, mended: {sound}");
        }
    }
}

/// Some of them are found anew, and nothing in their mended forms.
#[rstest]
#[case("gvt_2019_11085")]
#[case("perf_2025_38563")]
#[case("usbmon_2022_43750")]
fn a_driver_is_found_by_fuzzing(#[case] driver: &str) {
    for (sound, cases) in [(false, 200), (true, 40)] {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options {
            seed: 2,
            pace: Pace::AtTheEnd,
            guidance: Guidance::Outcomes,
            dir: dir.path().to_owned(),
            time: None,
            cases: Some(cases),
            until_found: true,
            ends: None,
            tells: false,
        };
        let outcome = fuzz::fuzz(&mut fuzzed(driver, sound), &About::default(), &options)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        let found = outcome.findings.len();
        assert_eq!(found, usize::from(!sound), "{:?}", outcome.findings);
    }
}
