//! The fuzzer: finds nothing in the good driver, finds planted faults, and what it finds
//! can be seen again.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{PROGRAM, brought, handed, json, mapwitness};
use crate::common::{self, chain, config, kernel_facts};
use crate::modules::{contract, module};
use fuzz::{About, Case, Finding, FuzzError, Guidance, Options, Outcome, Pace, Peers, Subject};
use guest_images::Flavour;
use guest_kernel::KernelFacts;
use harness::model::{Anchor, Call, Handle, Offered, Operation, Process};
use harness::mutants::{EVERY_FAULT, GOOD};
use monitor::VmConfig;
use rstest::rstest;
use serde_json::Value;
use wire::{OpenMode, Prot, Sharing};

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
        guidance: Guidance::Outcomes,
        dir: dir.to_owned(),
        time: None,
        cases: Some(cases),
        until_found: true,
        ends: None,
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
        ..options(dir.path(), 100)
    };
    let outcome = fuzz(&mut subject, &options);
    assert_eq!(outcome.findings, []);
    assert_eq!(outcome.cases, 100);
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

/// What a folder of runs has.
#[derive(Debug, Default)]
struct Kept {
    cases: Vec<PathBuf>,
    findings: Vec<PathBuf>,
    runs: u64,
    counted: u64,
}

impl Kept {
    fn of(dir: &Path) -> Self {
        let number = |name| {
            let text = std::fs::read_to_string(dir.join("progress.toml")).ok()?;
            let table: toml::Table = toml::from_str(&text).expect("a whole file");
            table[name].as_integer()?.try_into().ok()
        };
        let listed = |name| Some(dir.join(name)).filter(|it| it.exists());
        Self {
            cases: listed("corpus").map_or(vec![], |dir| files(&dir)),
            findings: listed("findings").map_or(vec![], |dir| files(&dir)),
            runs: number("runs").unwrap_or(0),
            counted: number("cases").unwrap_or(0),
        }
    }

    fn assert_whole(&self) {
        for path in &self.cases {
            Case::read(path).expect("a whole case");
        }
        for path in &self.findings {
            Finding::read(path).expect("a whole finding");
        }
    }

    fn assert_has_all_of(&self, before: &Self) {
        let is_there = |path| self.cases.contains(path);
        assert!(before.cases.iter().all(is_there), "a case is lost");
        // A finding that was kept as it was found may be in another file, with fewer
        // operations.
        assert!(self.findings.len() >= before.findings.len(), "{before:?}");
        assert!(self.counted >= before.counted, "{before:?} {self:?}");
        assert!(self.runs > before.runs, "{before:?} {self:?}");
    }
}

/// Runs that are killed leave whole files, and the next one goes on with all of them.
#[test]
fn a_run_that_was_killed_at_any_moment_goes_on() {
    let dir = folder();
    let (corpus, findings) = (dir.path().join("corpus"), dir.path().join("findings"));
    let moments: [fn(&Kept, &Kept) -> bool; 4] = [
        // While it takes up what there is.
        |_, now| !now.cases.is_empty(),
        |before, now| now.cases.len() >= before.cases.len() + 3,
        // While a finding is minimised.
        |_, now| !now.findings.is_empty(),
        |before, now| now.counted >= before.counted + 10,
    ];
    let mut before = Kept::default();
    for is_it in moments {
        let mut run = Run::start("off-by-one", dir.path());
        let begun = Instant::now();
        // The state of the run before is there from the start.
        while Kept::of(dir.path()).runs == before.runs || !is_it(&before, &Kept::of(dir.path())) {
            let in_time = begun.elapsed() < Duration::from_secs(300);
            assert!(
                in_time,
                "it comes no further than {:?}",
                Kept::of(dir.path())
            );
            thread::sleep(Duration::from_millis(20));
        }
        run.0.kill().expect("killed");
        run.0.wait().expect("gone");
        let now = Kept::of(dir.path());
        now.assert_whole();
        now.assert_has_all_of(&before);
        before = now;
    }
    assert!(!before.findings.is_empty(), "{before:?}");
    let (cases, found) = (before.cases, before.findings);
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
    assert_eq!(outcome.total.runs, before.runs + 1);
    assert!(outcome.total.cases >= before.counted + outcome.cases);
    assert!(findings.exists());
}

/// A run of the command that ends with this value.
struct Run(Child);

impl Run {
    fn start(variant: &str, dir: &Path) -> Self {
        let run = mapwitness(EVERY_FAULT)
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

/// Of a page that is touched while the device has nothing there KVM notes that accesses are
/// the VMM's to answer, and a reset does not take that back.
#[test]
fn what_a_case_left_in_kvms_tables_is_not_blamed_on_the_next() {
    let mut subject = subject(GOOD);
    let files = &subject.world().files;
    let file = files.iter().position(|file| file.name == "eager/odd");
    let file = file.expect("a file of the good driver");
    let windows = config(GOOD).windows;
    let window = windows.iter().position(|window| window.name == "odd");
    let window = window.expect("a standard window");
    let (handle, anchor) = (Handle(0), Anchor(0));
    let mapped = [
        Call::Open {
            file,
            mode: OpenMode::ReadWrite,
            handle,
        },
        Call::Map {
            handle,
            first_page: 0,
            npages: 13,
            prot: Prot::READ_WRITE,
            sharing: Sharing::Shared,
            fixed: None,
            anchor,
        },
    ];
    let touched = [
        Call::Offer {
            window,
            offer: Offered::Nothing,
        },
        Call::Load(anchor.page(0)),
    ];
    let case = |calls: Vec<Call>| Case {
        operations: (calls.into_iter())
            .map(|call| Process::FIRST.does(call))
            .collect(),
    };
    let earlier = case([&mapped[..], &touched].concat());
    let ran = subject.run(&earlier, Pace::Never).expect("it runs");
    assert_eq!((ran.found, ran.steps.len()), (None, 4));
    let later = case(mapped.to_vec());
    let ran = subject.run(&later, Pace::EachStep).expect("it runs");
    assert_eq!(ran.found, None);
    assert!(ran.pages >= 13, "{ran:?}");
}

fn two() -> NonZeroUsize {
    NonZeroUsize::new(2).expect("not zero")
}

fn loaded(variant: &str) -> Result<(Subject, About), fuzz::LoadError> {
    Ok((subject(variant), About::default()))
}

/// A file opened, so many of its pages mapped, and one of them loaded from.
fn mapped(file: usize, npages: u64) -> Case {
    let (handle, anchor) = (Handle(0), Anchor(0));
    let open = Call::Open {
        file,
        mode: OpenMode::ReadWrite,
        handle,
    };
    let map = Call::Map {
        handle,
        first_page: 0,
        npages,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Shared,
        fixed: None,
        anchor,
    };
    let calls = [open, map, Call::Load(anchor.page(1))];
    Case {
        operations: calls.map(|call| Process::FIRST.does(call)).to_vec(),
    }
}

/// Cores have one corpus, one count and one list of findings.
#[test]
fn two_cores_share_what_they_find() {
    let dir = folder();
    let good = subject(GOOD);
    let mut names = good.world().files.iter().map(|file| &file.name);
    let file = names.position(|name| name == "eager/odd").expect("a file");
    drop(good);
    // One for each core, and both fail by the same cause.
    corpus_with(dir.path(), &mapped(file, 4));
    corpus_with(dir.path(), &mapped(file, 5));
    let options = Options {
        until_found: false,
        ..options(dir.path(), 60)
    };
    let both_are_there = Barrier::new(2);
    let load = || {
        let loaded = loaded("off-by-one");
        both_are_there.wait();
        loaded
    };
    let (outcome, _) = fuzz::fuzz_on(two(), Peers::default(), &load, &options)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(outcome.cores, 2);
    assert!((60..=62).contains(&outcome.cases), "{outcome:?}");
    assert!(outcome.imported > 0, "{outcome:?}");
    let findings = outcome.findings.iter().map(|(_, finding)| finding);
    let of_file = findings.clone().filter(|it| it.cause.file == "eager/odd");
    assert!(of_file.count() > 0, "{outcome:?}");
    let causes: BTreeSet<_> = findings.map(|finding| &finding.cause).collect();
    assert_eq!(causes.len(), outcome.findings.len(), "{outcome:?}");
    let kept = Kept::of(dir.path());
    kept.assert_whole();
    assert_eq!(kept.findings.len(), outcome.findings.len());
    assert_eq!((kept.runs, kept.counted), (1, outcome.cases));
    assert!(kept.cases.len() >= outcome.corpus, "{kept:?}");
}

#[test]
fn a_core_that_cannot_go_on_ends_all() {
    let count = AtomicUsize::new(0);
    let load = || match count.fetch_add(1, Ordering::Relaxed) {
        0 => Err("no guest today".into()),
        _ => loaded(GOOD),
    };
    let dir = folder();
    let options = Options {
        cases: None,
        ..options(dir.path(), 0)
    };
    let failed = fuzz::fuzz_on(two(), Peers::default(), &load, &options).map(drop);
    let told = chain(&failed.expect_err("a core without a guest"));
    assert!(told.contains("no guest today"), "{told}");
}

/// More than a case ever reserves that is made up or changed.
const RARE_NPAGES: u64 = 777;

/// A case that nobody makes up.
fn rare() -> Case {
    let (one, two) = (Process(1), Process(2));
    let arena = Call::Reserve {
        npages: RARE_NPAGES,
        anchor: Anchor(7),
    };
    let operations = vec![
        Process::FIRST.does(Call::Fork { child: one }),
        one.does(Call::Fork { child: two }),
        two.does(Call::Exit),
        one.does(arena.clone()),
        one.does(Call::Exit),
        Process::FIRST.does(arena),
    ];
    Case { operations }
}

fn corpus_with(dir: &Path, case: &Case) {
    let corpus = dir.join("corpus");
    std::fs::create_dir_all(&corpus).expect("a folder");
    let path = corpus.join(case.file_name());
    std::fs::write(&path, case.text().expect("plain data")).expect("written");
}

/// Two runs with a broker each, as on two machines: what one has, the other gets.
#[test]
fn brokers_exchange_cases() {
    let (here, there) = (folder(), folder());
    corpus_with(here.path(), &rare());
    corpus_with(there.path(), &Case::default());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = free.local_addr().expect("its address");
    drop(free);
    let (here_ends, there_ends) = (Arc::default(), Arc::default());
    let run = |dir: &Path, ends: &Arc<AtomicBool>, peers| {
        let options = Options {
            cases: None,
            time: Some(Duration::from_secs(400)),
            ends: Some(Arc::clone(ends)),
            ..options(dir, 0)
        };
        let ran = fuzz::fuzz_on(NonZeroUsize::MIN, peers, &|| loaded(GOOD), &options);
        ran.unwrap_or_else(|error| panic!("{}", chain(&error))).0
    };
    let (sender, joiner) = (
        Peers {
            broker: Some(addr),
            ..Peers::default()
        },
        Peers {
            join: Some(addr),
            ..Peers::default()
        },
    );
    let is_rare = |path: &PathBuf| {
        let case = Case::read(path).expect("a whole case");
        let reserves = |operation: &Operation| matches!(operation.call, Call::Reserve { npages, .. } if npages == RARE_NPAGES);
        case.operations.iter().any(reserves)
    };
    let has_arrived = || files(&there.path().join("corpus")).iter().any(is_rare);
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| run(here.path(), &here_ends, sender));
        let second = scope.spawn(|| run(there.path(), &there_ends, joiner));
        while !has_arrived() && !second.is_finished() {
            thread::sleep(Duration::from_millis(50));
        }
        there_ends.store(true, Ordering::Relaxed);
        let second = second.join();
        here_ends.store(true, Ordering::Relaxed);
        (first.join(), second)
    });
    let (first, second) = (first.expect("it ran"), second.expect("it ran"));
    assert_eq!((first.findings, second.findings), (vec![], vec![]));
    assert!(has_arrived(), "{} cases came", second.imported);

    let nobody = Peers {
        broker: Some("192.0.2.1:9".parse().expect("an address")),
        ..Peers::default()
    };
    let load = || loaded(GOOD);
    let failed = fuzz::fuzz_on(NonZeroUsize::MIN, nobody, &load, &options(here.path(), 1));
    assert!(matches!(failed, Err(FuzzError::Broker(_))));
}

/// A driver in a kernel that tells which of its code ran.
fn covered() -> Subject {
    let image = common::image_of(GOOD, Flavour::Kcov);
    let guest = common::boot(&VmConfig::new(image.vmlinux, image.initramfs));
    let facts = KernelFacts::read(&image.types, &image.system_map).expect("facts");
    let subject = Subject::own(guest, facts, None);
    let mut subject = subject.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let mm_text = image.mm_text.expect("a kernel that tells its coverage");
    let covered = subject.cover(&mm_text);
    covered.unwrap_or_else(|error| panic!("{}", chain(&error)));
    subject
}

#[test]
fn edges_of_the_driver_and_of_mm_are_gone_along_one_after_the_other() {
    let mut subject = covered();
    let mut run = |cases, guidance| {
        let dir = folder();
        // Instead of the cases that every run begins with.
        corpus_with(dir.path(), &mapped(0, 1));
        let options = Options {
            guidance,
            ..options(dir.path(), cases)
        };
        let outcome = fuzz(&mut subject, &options);
        assert_eq!(outcome.findings, []);
        let edges = outcome.edges.expect("edges are told");
        (edges, outcome.corpus)
    };
    let (few, _) = run(2, Guidance::Edges);
    let (more, corpus) = run(60, Guidance::Edges);
    assert!(0 < few.mm && few.mm < more.mm, "{few:?} {more:?}");
    assert!(few.driver < more.driver, "{few:?} {more:?}");
    // Without guidance only the cases to begin with are kept. Edges are counted all the same.
    let (counted, unguided) = run(60, Guidance::Off);
    assert!(counted.driver > 0, "{counted:?}");
    assert!(unguided < corpus, "{unguided} {corpus}");
    // The driver does the same for the same; mm/ has caches and counters of its own.
    assert_eq!(run(2, Guidance::Edges).0.driver, few.driver);
}

/// Runs `mapwitness` on the project's own driver. Gives its status, document and errors.
fn own(flavour: Flavour, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = handed(Command::new(PROGRAM), GOOD, flavour)
        .args(["fuzz", "--json", "--flavour", &flavour.to_string()])
        .args(arguments)
        .output()
        .expect("it runs");
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), document, errors)
}

#[test]
fn edges_that_are_not_known_are_said_to_be_so() {
    let (status, plain, errors) = own(Flavour::Plain, &["--cases", "3"]);
    assert_eq!(status, Some(0), "{errors}");
    assert_eq!(plain["coverage_edges"], Value::Null);
    assert_eq!(plain["guidance"], "outcomes");
    let why = plain["no_coverage"].as_str().expect("a reason");
    assert!(why.contains("flavour plain"), "{why}");

    let (status, _, errors) = own(Flavour::Plain, &["--guidance", "edges"]);
    assert_eq!(status, Some(2));
    assert!(errors.contains("--flavour kcov"), "{errors}");

    let (status, kcov, errors) = own(Flavour::Kcov, &["--cases", "3"]);
    assert_eq!(status, Some(0), "{errors}");
    assert_eq!(kcov["guidance"], "edges");
    assert_eq!(kcov["no_coverage"], Value::Null);
    assert!(kcov["coverage_edges"].as_u64() > Some(100), "{kcov:#}");
}

/// What a kernel complains of is found as what it is, with its own words.
#[test]
fn a_kernel_that_complains_is_a_finding_with_its_text() {
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gallery/lazy.toml");
    let fuzz = ["fuzz", "--until-found", "--cases", "200"];
    let (status, found) = with("vhost_vdpa_2021_46967", &contract, &fuzz);
    assert_eq!(status, Some(1), "{found:#}");
    let finding = &found["findings"][0];
    assert_eq!(finding["by"], "kernel bug", "{finding:#}");
    let text = finding["found"].as_str().expect("text");
    assert!(text.contains("kernel BUG at mm/memory.c"), "{text}");
    assert!(text.contains("vmf_insert_pfn"), "{text}");
}

/// Runs a command of `mapwitness` on an example's module. Gives its status and document.
fn with_module(name: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    with(name, &contract(), arguments)
}

/// The same on any module.
fn with(name: &str, contract: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = mapwitness(GOOD);
    command.args(arguments).arg("--json");
    brought(&mut command, &module(name), contract);
    let output = command.output().expect("it runs");
    (output.status.code(), json(&output))
}

#[test]
fn a_driver_of_somebody_else_is_fuzzed_by_its_contract() {
    let dir = folder();
    let corpus = dir.path().to_str().expect("a plain path");
    let fuzz = [
        "fuzz",
        "--cases",
        "60",
        "--seconds",
        "600",
        "--corpus",
        corpus,
    ];
    let (status, good) = with_module("c-driver", &fuzz);
    assert_eq!(status, Some(0), "{good:#}");
    assert_eq!(good["cases"], 60);
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
