//! A driver that the project has never seen, brought along with its contract: the
//! walk-through of tests/examples/README.md, and what goes wrong on the way.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::command::{PROGRAM, brought, json, mapwitness};
use crate::modules::{contract, example, module};
use serde_json::Value;

const ALL_LINKS: &str = "contract,guest-walk,memslot,host-frame,second-level,stamp";

/// Runs `mapwitness check` on the host that this test was carried to.
fn check(module: &Path, contract: &Path, more: &[&str]) -> Output {
    let mut command = mapwitness("good");
    command.arg("check").args(more);
    brought(&mut command, module, contract);
    command.output().expect("it runs")
}

/// A contract that differs from the example's.
fn changed(folder: &Path, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(contract()).expect("the example");
    assert!(text.contains(from), "{from}");
    let path = folder.join("changed.toml");
    std::fs::write(&path, text.replace(from, to)).expect("written");
    path
}

#[track_caller]
fn assert_not_checked(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
}

#[test]
fn the_example_passes_with_all_links() {
    let module = module("c-driver");
    let output = check(&module, &contract(), &["--json", "--require", ALL_LINKS]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["verdict"], "pass");
    assert_eq!(report["driver_variant"], "example.ko");
    let files = report["files"].as_array().expect("files");
    assert_eq!(files.len(), 1, "its own file and no other");
    assert_eq!(files[0]["path"], "/dev/example");
    assert!(files[0]["pages_checked"].as_u64() > Some(13));
    assert!(files[0]["refusals"].as_u64() > Some(20));
    let whole = &report["mappings"][0];
    assert_eq!(
        (&whole["name"], &whole["pages"]),
        (&"example".into(), &13.into())
    );
}

/// The copy forgets the offset where it checks the length: a mapping can begin inside
/// the window and end beyond it.
#[test]
fn the_broken_copy_fails_and_the_page_beyond_the_window_is_named() {
    let module = module("c-driver-broken");
    let output = check(&module, &contract(), &["--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let refusals = report["refusals"].as_array().expect("refusals");
    let wrong: Vec<&Value> = refusals
        .iter()
        .filter(|it| it["verdict"] != "pass")
        .collect();
    let names: Vec<&str> = wrong.iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "example: whole length from the second page",
            "example: the last page and one more"
        ]
    );
    let mismatch = &wrong[1]["mismatch"];
    assert_eq!(mismatch["page"], 1);
    assert_eq!(mismatch["link"], "guest_walk");
    let found = mismatch["found"].as_str().expect("text");
    assert!(found.contains("no page of the device"), "{found}");

    let text = check(&module, &contract(), &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for words in [
        "FAIL example: the last page and one more: expected No such device or address",
        "page 1 at gva",
        "found     gpa",
        "walk      level 1",
    ] {
        assert!(text.contains(words), "`{words}` is missing in:\n{text}");
    }
}

#[test]
fn the_example_in_rust_passes_with_all_links() {
    let contract = example("rust-driver").join("contract.toml");
    let more = ["--json", "--require", ALL_LINKS];
    let output = check(&module("rust-driver"), &contract, &more);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["verdict"], "pass");
    assert_eq!(report["files"][0]["path"], "/dev/rust-example");
    assert!(report["files"][0]["pages_checked"].as_u64() > Some(13));
    assert!(report["files"][0]["refusals"].as_u64() > Some(20));
}

/// The copy checks the offset and forgets it then: what is mapped is the device's, and the
/// wrong part of it.
#[test]
fn the_broken_copy_in_rust_fails_and_the_wrong_page_is_named() {
    let contract = example("rust-driver").join("contract.toml");
    let output = check(&module("rust-driver-broken"), &contract, &["--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let mappings = report["mappings"].as_array().expect("mappings");
    let wrong = mappings.iter().find(|one| one["verdict"] != "pass");
    let wrong = wrong.expect("one that begins inside the window");
    let mismatch = &wrong["mismatch"];
    assert_eq!(mismatch["link"], "guest_walk");
    let found = mismatch["found"].as_str().expect("text");
    assert!(found.contains("(frame[0])"), "{found}");
}

/// One line, so that who reads the walk-through sees what was broken.
/// What the kernel has noted of a mapping is read in its memory, for this driver, too.
#[test]
fn a_flag_that_is_not_so_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = changed(
        folder.path(),
        "clear = [\"MAYEXEC\"]",
        "clear = [\"MAYWRITE\"]",
    );
    let output = check(&module("c-driver"), &wrong, &["--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let promises = report["promises"].as_array().expect("promises");
    let failed = promises.iter().filter(|it| it["verdict"] != "pass");
    let names: Vec<&str> = failed.filter_map(|it| it["name"].as_str()).collect();
    let wanted = ["example: vm_flags", "example: vm_flags, for loads alone"];
    assert_eq!(names, wanted);
}

#[test]
fn the_broken_copies_differ_in_one_line() {
    for (good, broken, file) in [
        ("c-driver", "c-driver-broken", "example.c"),
        ("rust-driver", "rust-driver-broken", "rust_example.rs"),
    ] {
        let read = |name| std::fs::read_to_string(example(name).join(file)).expect("there");
        let (good, broken) = (read(good), read(broken));
        assert_eq!(good.lines().count(), broken.lines().count());
        let differing = good.lines().zip(broken.lines()).filter(|(a, b)| a != b);
        assert_eq!(differing.count(), 1, "{file}");
    }
}

/// Its mappings are right, and yet a kernel that complains does not pass.
#[test]
fn a_kernel_that_warns_fails_the_check() {
    let mut command = mapwitness("good");
    command.args(["check", "--json", "--module"]);
    command.arg(module("complainer"));
    brought(&mut command, &module("c-driver"), &contract());
    let output = command.output().expect("it runs");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["files"][0]["verdict"], "pass");
    let complaints = report["kernel_complaints"].as_array().expect("complaints");
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert_eq!(complaints[0]["kind"], "warning");
    let text = complaints[0]["text"].to_string();
    assert!(text.contains("complainer: as it was asked to"), "{text}");
}

#[test]
fn a_wrong_contract_is_told_with_file_line_and_what_to_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = changed(folder.path(), "window = \"frame\"", "window = \"fram\"");
    let text = std::fs::read_to_string(&path).expect("the contract");
    let wrong = text.lines().position(|line| line == "window = \"fram\"");
    let place = format!("changed.toml:{}:10:", wrong.expect("a line") + 1);
    let output = check(&module("c-driver"), &path, &["--json"]);
    assert_not_checked(&output, &[&place, "no window \"fram\"", "\"frame\""]);
    assert_eq!(json(&output)["verdict"], "error");
}

#[test]
fn a_driver_for_another_device_is_told_from_one_that_maps_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = changed(folder.path(), "EXMP0001", "EXMP0002");
    let output = check(&module("c-driver"), &path, &[]);
    assert_not_checked(&output, &["/dev/example does not exist", "ACPI id"]);
}

#[test]
fn what_is_no_module_is_told() {
    let output = check(&contract(), &contract(), &[]);
    assert_not_checked(
        &output,
        &["contract.toml is no kernel module", "images module"],
    );
    let output = check(Path::new("/nowhere/x.ko"), &contract(), &[]);
    assert_not_checked(&output, &["/nowhere/x.ko", "No such file"]);
    let folder = tempfile::tempdir().expect("a folder");
    let half = folder.path().join("half.ko");
    let whole = std::fs::read(module("c-driver")).expect("the module");
    std::fs::write(&half, &whole[..whole.len() / 2]).expect("written");
    assert_not_checked(&check(&half, &contract(), &[]), &["half.ko", "refuses"]);
}

#[test]
fn a_contract_and_a_module_belong_together() {
    let alone = |arguments: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    };
    alone(&["check", "--module", "a.ko"]);
    alone(&["check", "--contract", "a.toml"]);
}
