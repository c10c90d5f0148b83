//! The software host `soft-ept`, from outside: EPT, filled by a stock kvm_intel in
//! Bochs. This program runs where it was called; what it starts is carried.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mapwitness");

/// The standard check in a machine with this CPU.
fn check(cpu: &str) -> Output {
    Command::new(PROGRAM)
        .args(["check", "--json", "--host", "soft-ept"])
        .args(["--require", "second-level"])
        .args(["--file", "eager,lazy"])
        .env("MAPWITNESS_EPT_CPU", cpu)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

#[track_caller]
fn assert_six_links_on_ept(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no single document: {error}\n{said}"));
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{said}");
    assert_eq!(report["verdict"], "pass");
    assert_eq!(report["host"]["kind"], "soft-ept");
    assert_eq!(report["host"]["second_level"], "ept");
    let pages = report["pages_checked"].as_u64().expect("a number");
    // At least 1, 13, 1024 and 5 pages, by both strategies.
    assert!(pages >= 2 * (1 + 13 + 1024 + 5), "{pages}");
    let links = report["links"].as_object().expect("links");
    assert_eq!(links.len(), 6);
    for (link, witnessed) in links {
        assert_eq!(*witnessed, pages, "{link}");
    }
    assert_eq!(report["unwitnessed"], Value::Array(Vec::new()));
}

#[test]
fn all_six_links_of_every_page_are_witnessed_on_ept() {
    assert_six_links_on_ept(&check("haswell"));
}

#[test]
fn all_six_links_are_witnessed_where_ept_records_no_accesses() {
    assert_six_links_on_ept(&check("sandy-bridge"));
}

#[test]
fn a_cpu_that_cannot_be_emulated_is_told_with_those_that_can() {
    let output = check("386");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("haswell or sandy-bridge"), "{said}");
}

/// Runs tests there: those whose names contain one of `named`. They must have run, and there;
/// `wanted` are some of them.
#[track_caller]
fn pass_on_ept(named: &[&str], wanted: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["test", "--locked", "--test", "guests"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("MAPWITNESS_HOST", "soft-ept")
        .stdin(Stdio::null());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.arg("--").args(named).output().expect("cargo runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    for test in wanted {
        let passed = format!("{test} ... ok");
        assert!(out.contains(&passed), "{test} is missing:\n{out}\n{err}");
    }
    assert!(err.contains("soft-ept ended at tick "), "{err}");
}

/// Live tables with leaves of 4 KiB and 2 MiB, absent pages, faults of the host that
/// are blamed on the host, and the driver's own fault that is blamed on the driver.
#[test]
fn the_tests_of_the_second_level_pass_on_ept() {
    let wanted = [
        "second_level::leaves_of_2_mib_are_followed_to_their_frames",
        "second_level::a_driver_that_is_off_by_one_is_blamed_by_the_guests_own_tables",
        "second_level::a_slot_that_kvm_has_lost_is_blamed_on_the_second_level",
        "second_level::a_remapped_host_page_is_blamed_on_the_host_frame",
    ];
    pass_on_ept(&["second_level::"], &wanted);
}

/// What is put back of a processor, by a reset or from a file, and how KVM notes stores,
/// differs by vendor.
#[test]
fn resets_and_snapshots_are_exact_on_ept() {
    let telling = [
        "reset::after_a_reset_nothing_differs",
        "reset::a_case_cannot_see_what_an_earlier_one_did",
        "reset::evidence_after_a_reset_is_as_good_as_before",
        "saved::a_guest_that_is_taken_up_is_the_one_that_was_saved",
        "saved::a_guest_that_was_taken_up_can_be_reset",
    ];
    pass_on_ept(&telling, &telling);
}
