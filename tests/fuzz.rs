//! The fuzzer: finds nothing in the good driver, finds planted faults, and what it finds
//! can be seen again.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{chain, config, image, kernel_facts};
use fuzz::{About, Case, Finding, Options, Outcome, Pace, Subject};
use guest_images::handover::{self, Images};
use harness::mutants::{EVERY_FAULT, GOOD};
use provision::Progress;
use rstest::rstest;
use serde_json::Value;

/// The driver in a guest of its own.
fn subject(variant: &str) -> Subject {
    let (image, named) = match variant {
        GOOD => (GOOD, None),
        fault => (EVERY_FAULT, Some(fault)),
    };
    let guest = common::boot(&config(image));
    Subject::own(guest, kernel_facts(), named).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn options(dir: &Path, cases: u64) -> Options {
    Options {
        seed: 1,
        pace: Pace::AtTheEnd,
        dir: dir.to_owned(),
        time: None,
        cases: Some(cases),
        until_found: true,
        tells: false,
    }
}

fn fuzz(subject: &mut Subject, options: &Options) -> Outcome {
    fuzz::fuzz(subject, &About::default(), options)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == "toml"));
    paths.sort();
    paths
}

#[rstest]
fn the_good_driver_has_no_finding(#[values(Pace::AtTheEnd, Pace::EachStep)] pace: Pace) {
    let dir = folder();
    let mut subject = subject(GOOD);
    let options = Options {
        pace,
        ..options(dir.path(), 150)
    };
    let outcome = fuzz(&mut subject, &options);
    assert_eq!(outcome.findings, []);
    assert_eq!(outcome.cases, 150);
    assert!(
        outcome.pages > 0 && outcome.outcome_pairs > 100,
        "{outcome:?}"
    );
}

/// Each fault is found by the witness that is there for it, and what is left of the case
/// shows it again and again.
#[rstest]
#[case("off-by-one", "guest-walk", 4)]
#[case("beyond-wrong-errno", "answer", 4)]
#[case("maps-while-revoked", "answer", 5)]
#[case("dontdump-missing", "vm_flags", 4)]
#[case("copies-not-counted", "reference count", 6)]
fn a_planted_fault_is_found_and_seen_again(
    #[case] variant: &str,
    #[case] by: &str,
    #[case] most_operations: usize,
) {
    let dir = folder();
    let mut subject = subject(variant);
    let outcome = fuzz(&mut subject, &options(dir.path(), 1500));
    let [(path, finding)] = &outcome.findings[..] else {
        panic!("{:?}", outcome.findings);
    };
    assert_eq!(finding.cause.by, by, "{finding:?}");
    assert!(finding.operations.len() <= most_operations, "{finding:?}");
    assert_eq!(Finding::read(path).expect("a finding"), *finding);
    let case = finding.case(subject.world()).expect("a case");
    for _ in 0..10 {
        let ran = subject.run(&case, Pace::EachStep).expect("it runs");
        let found = ran.found.expect("the fault again");
        assert_eq!(found.verdict.by, by, "{found:?}");
    }
}

/// The same seed goes through the same cases.
#[test]
fn a_seed_says_what_is_done() {
    let mut subject = subject(GOOD);
    let names = [(); 2].map(|()| {
        let dir = folder();
        fuzz(&mut subject, &options(dir.path(), 60));
        let paths = files(&dir.path().join("corpus"));
        let names = paths
            .iter()
            .map(|path| path.file_name().map(ToOwned::to_owned));
        names.collect::<Vec<_>>()
    });
    assert!(names[0].len() > 10, "{names:?}");
    assert_eq!(names[0], names[1]);
}

/// A run that is killed leaves whole files, and the next one goes on with all of them.
#[test]
fn a_run_that_was_killed_goes_on() {
    let dir = folder();
    let corpus = dir.path().join("corpus");
    let mut run = Run::start("off-by-one", dir.path());
    let begun = Instant::now();
    let findings = dir.path().join("findings");
    while !findings.exists() || files(&findings).is_empty() || files(&corpus).len() < 5 {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "it finds nothing"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    run.0.kill().expect("killed");
    run.0.wait().expect("gone");
    let (cases, found) = (files(&corpus), files(&findings));
    for path in &cases {
        Case::read(path).expect("a whole case");
    }
    for path in &found {
        Finding::read(path).expect("a whole finding");
    }
    let mut subject = subject("off-by-one");
    let few = Options {
        until_found: false,
        ..options(dir.path(), cases.len() as u64 + 5)
    };
    let outcome = fuzz(&mut subject, &few);
    assert!(outcome.corpus >= cases.len(), "{outcome:?}");
    let after = files(&corpus);
    assert!(
        cases.iter().all(|path| after.contains(path)),
        "a case is lost"
    );
    for path in &found {
        let known = outcome.findings.iter().any(|(known, _)| known == path);
        assert!(known, "{} is lost", path.display());
    }
}

/// A run of the command that ends with this value.
struct Run(Child);

impl Run {
    fn start(variant: &str, dir: &Path) -> Self {
        let images = Images::from([(EVERY_FAULT.to_owned(), image(EVERY_FAULT))]);
        let run = Command::new(env!("CARGO_BIN_EXE_mapwitness"))
            .args([
                "fuzz",
                "--json",
                "--driver-variant",
                variant,
                "--seconds",
                "600",
            ])
            .arg("--corpus")
            .arg(dir)
            .env(
                handover::VARIABLE,
                handover::export(&images).expect("plain paths"),
            )
            .stdout(Stdio::null())
            .spawn();
        Self(run.expect("it runs"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Findings that were mended: each names the driver that has the fault, in which it must
/// be seen again, and the good driver must not show it.
#[test]
fn regressions_are_what_they_were() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let paths = files(&dir);
    assert!(!paths.is_empty(), "no finding in {}", dir.display());
    let mut good = subject(GOOD);
    for path in paths {
        let finding = Finding::read(&path).expect("a finding");
        let case = finding.case(good.world()).expect("a case of this driver");
        let ran = good.run(&case, Pace::EachStep).expect("it runs");
        assert_eq!(ran.found, None, "{}", path.display());
        if finding.about.driver == GOOD {
            continue;
        }
        let mut faulty = subject(&finding.about.driver);
        let case = finding.case(faulty.world()).expect("a case of this driver");
        let ran = faulty.run(&case, Pace::EachStep).expect("it runs");
        let found = ran.found.map(|found| found.verdict.by);
        assert_eq!(found, Some(finding.cause.by), "{}", path.display());
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/examples")
        .join(name)
}

/// The module of an example. Those that the cargo runner has prepared are taken;
/// without the runner they are built.
fn module(name: &str) -> PathBuf {
    let prepared = handover::import_modules().expect("a set of modules");
    if let Some(module) = prepared.and_then(|mut modules| modules.remove(name)) {
        return module;
    }
    let built = guest_images::ensure_modules(&example(name), &image(GOOD), &Progress::stderr());
    built.expect("it builds").remove(0)
}

/// Runs a command of `mapwitness` on an example's module. Gives its status and document.
fn with_module(name: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let images = Images::from([(GOOD.to_owned(), image(GOOD))]);
    let output = Command::new(env!("CARGO_BIN_EXE_mapwitness"))
        .args(arguments)
        .arg("--json")
        .arg("--module")
        .arg(module(name))
        .arg("--contract")
        .arg(example("c-driver").join("contract.toml"))
        .env(
            handover::VARIABLE,
            handover::export(&images).expect("plain paths"),
        )
        .output()
        .expect("it runs");
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), document)
}

#[test]
fn a_driver_of_somebody_else_is_fuzzed_by_its_contract() {
    let dir = folder();
    let corpus = dir.path().to_str().expect("a plain path");
    let fuzz = [
        "fuzz",
        "--cases",
        "120",
        "--seconds",
        "600",
        "--corpus",
        corpus,
    ];
    let (status, good) = with_module("c-driver", &fuzz);
    assert_eq!(status, Some(0), "{good:#}");
    assert_eq!(good["cases"], 120);
    assert!(good["cases_per_s"].as_f64() > Some(0.0), "{good:#}");
    assert_eq!(good["findings"], Value::Array(Vec::new()));
    assert_eq!(good["driver"], "example.ko");

    // The broken one goes on with the same cases.
    let fuzz = [
        "fuzz",
        "--until-found",
        "--seconds",
        "600",
        "--corpus",
        corpus,
    ];
    let (status, broken) = with_module("c-driver-broken", &fuzz);
    assert_eq!(status, Some(1), "{broken:#}");
    let finding = &broken["findings"][0];
    let file = finding["path"].as_str().expect("a file");
    for _ in 0..2 {
        let (status, again) = with_module("c-driver-broken", &["replay", file]);
        assert_eq!(
            (status, &again["reproduces"]),
            (Some(1), &Value::Bool(true))
        );
        assert!(again["steps"].as_array().is_some_and(|it| it.len() > 1));
        let (status, least) = with_module("c-driver-broken", &["minimize", file]);
        assert_eq!(status, Some(1), "{least:#}");
    }
    let (status, mended) = with_module("c-driver", &["replay", file]);
    assert_eq!(status, Some(0), "{mended:#}");
    assert_eq!(mended["reproduces"], Value::Bool(false));
}
