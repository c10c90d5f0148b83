//! Every target for a few seconds; `MAPWITNESS_SELF_FUZZ_SECONDS` says for how many.

use std::path::Path;
use std::sync::LazyLock;

use provision::Progress;
use rstest::rstest;
use self_fuzz::{Outcome, Targets};
use tempfile::TempDir;

/// The target that fails on purpose.
const PLANTED: &str = "planted";
const SECONDS: u32 = 4;
/// The planted fault takes less than one; machines differ.
const PLANTED_SECONDS: u32 = 120;

static TARGETS: LazyLock<Targets> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("target/self-fuzz");
    Targets::build(&root.join("fuzz"), &target, &Progress::stderr()).expect("built")
});

fn run(name: &str, seconds: u32) -> (Outcome, TempDir) {
    let scratch = tempfile::tempdir().expect("a folder");
    let outcome = TARGETS.run(name, seconds, scratch.path()).expect("started");
    (outcome, scratch)
}

#[rstest]
fn no_bytes_make_it_fail(
    #[values(
        "contract",
        "devices",
        "guest_walk",
        "kernel_files",
        "kernel_memory",
        "saved_guest",
        "second_level_walk",
        "timeline",
        "trace_formats",
        "wire"
    )]
    name: &str,
) {
    let wished = std::env::var("MAPWITNESS_SELF_FUZZ_SECONDS").ok();
    let seconds = wished.and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let (outcome, scratch) = run(name, seconds);
    if !outcome.passed {
        // The input is what the next one needs.
        let kept = scratch.keep();
        let input = outcome.input.unwrap_or(kept);
        panic!("{}\ninput: {}", outcome.output, input.display());
    }
    assert!(outcome.output.contains("stat::number_of_executed_units"));
}

#[test]
fn a_fault_that_only_coverage_leads_to_is_found() {
    let (outcome, _scratch) = run(PLANTED, PLANTED_SECONDS);
    assert!(!outcome.passed, "{}", outcome.output);
    let input = std::fs::read(outcome.input.expect("an input")).expect("readable");
    assert!(input.starts_with(b"MAPWIT"), "{input:?}");
}

/// A target that is not in the list above would not be run.
#[test]
fn all_targets_are_run() {
    let source = include_str!("bounded.rs");
    for name in TARGETS.names().expect("a folder") {
        assert!(source.contains(&format!("\"{name}\"")), "{name}");
    }
}
