//! The command as a person or a CI machine uses it: what it prints and how it ends.

use std::process::{Command, Output};

use crate::command::{self, PROGRAM, handed, json};
use guest_images::Flavour;
use serde_json::Value;

fn mapwitness(variant: &str, arguments: &[&str]) -> Output {
    let mut command = command::mapwitness(variant);
    command.args(arguments).output().expect("it runs")
}

/// Runs the command without a capability.
fn without(capability: &str, arguments: &[&str]) -> Output {
    let mut command = handed(Command::new("setpriv"), "good", Flavour::Plain);
    command.args(["--bounding-set", capability, "--", PROGRAM]);
    command.args(arguments).output().expect("it runs")
}

/// Every strategy of the driver for windows, by the `mmap` hook.
const WINDOW_STRATEGIES: [&str; 8] = [
    "remap", "eager", "iomap", "lazy", "prot", "huge", "around", "whole",
];
/// Every one for buffers.
const BUFFER_STRATEGIES: [&str; 3] = ["pages", "mappages", "pagefault"];

/// Each through both hooks.
fn both_hooks(strategies: &[&str]) -> Vec<String> {
    let of_hook = |hook: &'static str| strategies.iter().map(move |name| format!("{hook}{name}"));
    of_hook("").chain(of_hook("prepare-")).collect()
}

#[test]
fn the_good_driver_passes_with_every_page_of_every_window() {
    let output = mapwitness("good", &["check", "--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{output:?}");
    assert_eq!(report["verdict"], "pass");
    let files = report["files"].as_array().expect("files");
    let pages = files
        .iter()
        .filter_map(|file| file["pages_checked"].as_u64());
    let pages: u64 = pages.sum();
    assert_eq!(report["pages_checked"], pages);
    let links = report["links"].as_object().expect("links");
    assert_eq!(links.len(), 6);
    for (link, witnessed) in links {
        assert_eq!(*witnessed, pages, "{link}");
    }
    assert_eq!(report["unwitnessed"], Value::Array(Vec::new()));
    let mappings = report["mappings"].as_array().expect("mappings");
    for strategy in both_hooks(&WINDOW_STRATEGIES) {
        for (window, npages) in [("page", 1), ("odd", 13), ("large", 1024), ("readonly", 5)] {
            let name = format!("{strategy}/{window}");
            let file = files.iter().find(|file| file["name"] == name.as_str());
            let file = file.unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(file["verdict"], "pass");
            for count in ["mappings", "pages_checked", "refusals", "promises"] {
                assert!(file[count].as_u64() > Some(1), "{count}: {file:#}");
            }
            let one = mappings
                .iter()
                .find(|one| one["name"] == name.as_str())
                .unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(one["strategy"], strategy.as_str());
            assert_eq!(one["pages"], npages);
            assert_eq!(one["verdict"], "pass");
            assert_eq!(one["mismatch"], Value::Null);
            let leaves = one["leaves"].as_array().expect("leaves");
            let pages: u64 = leaves
                .iter()
                .filter_map(|kind| kind["pages"].as_u64())
                .sum();
            assert_eq!(pages, one["pages"]);
            for kind in leaves {
                assert_eq!(kind["asked"], "UC-");
                assert_eq!(kind["second_level"], "WB");
                // EPT may let KVM override the guest; NPT cannot.
                let overrides = kind["ignore_pat"] == true;
                let in_effect = if overrides { "WB" } else { "UC" };
                assert_eq!(kind["in_effect"], in_effect, "{kind}");
                assert!(
                    kind["second_level_page_bytes"].as_u64() >= Some(4096),
                    "{kind}"
                );
            }
        }
    }
    for strategy in both_hooks(&BUFFER_STRATEGIES) {
        let name = format!("{strategy}/ring");
        let file = files.iter().find(|file| file["name"] == name.as_str());
        let file = file.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(file["verdict"], "pass");
        let pages = file["pages_checked"].as_u64();
        assert!(pages > Some(5), "{file:#}");
        for (link, witnessed) in file["links"].as_object().expect("links") {
            assert_eq!(witnessed.as_u64(), pages, "{name}: {link}");
        }
        let one = mappings.iter().find(|one| one["name"] == name.as_str());
        let one = one.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(
            (&one["pages"], &one["leaves"][0]["asked"]),
            (&5.into(), &"WB".into())
        );
        let promises = report["promises"].as_array().expect("promises");
        for promise in ["vm_flags", "page references"] {
            let name = format!("{name}: {promise}");
            let kept = promises.iter().find(|it| it["name"] == name.as_str());
            let kept = kept.unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(kept["verdict"], "pass");
        }
    }
    let documented = include_str!("../../vmm/harness/REPORT.md");
    for parts in [&report, &mappings[0], &files[0], &report["refusals"][0]] {
        for field in parts.as_object().expect("fields").keys() {
            let named = documented.contains(&format!("`{field}`"));
            assert!(named, "REPORT.md does not speak of {field}");
        }
    }
    for name in ["kernel/hpet", "persona/hpet", "persona/bsr1", "persona/agp"] {
        let file = files.iter().find(|file| file["name"] == name);
        let file = file.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(file["verdict"], "pass", "{file:#}");
        assert!(file["refusals"].as_u64() > Some(10), "{file:#}");
    }
    assert!(
        report["guest"]["kernel"]
            .as_str()
            .is_some_and(|it| it.starts_with("7."))
    );
    let deep = &report["host"]["second_level_levels"];
    assert!(*deep == 4 || *deep == 5, "{}", report["host"]);
    assert!(
        ["kvm", "soft-npt", "soft-ept"].contains(&report["host"]["kind"].as_str().expect("a kind"))
    );
}

#[test]
fn a_driver_that_is_off_by_one_fails_and_the_page_is_named() {
    let output = mapwitness(
        "off-by-one",
        &[
            "check",
            "--json",
            "--file",
            "eager,lazy",
            "--driver-variant",
            "off-by-one",
        ],
    );
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["verdict"], "fail");
    for mapping in report["mappings"].as_array().expect("mappings") {
        if mapping["pages"] == 1 {
            assert_eq!(mapping["verdict"], "pass", "{mapping:#}");
        }
        // Of each file, the mapping of all of it.
        if mapping["pages"] == 1 || mapping["name"] != mapping["file"] {
            continue;
        }
        let mismatch = &mapping["mismatch"];
        assert_eq!(mapping["verdict"], "fail", "{mapping:#}");
        assert_eq!(mismatch["link"], "guest_walk");
        assert_eq!(mismatch["page"], 1);
        let found = mismatch["found"].as_str().expect("text");
        assert!(found.contains("[0]"), "{found}");
    }
}

#[test]
fn a_person_reads_the_wrong_page_with_every_step_of_the_walk() {
    let output = mapwitness(
        "off-by-one",
        &[
            "check",
            "--file",
            "eager/odd",
            "--driver-variant",
            "off-by-one",
        ],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "FAIL eager/odd",
        "page 1 at gva",
        "expected  gpa",
        "found     gpa",
        "walk      level 4",
    ] {
        assert!(text.contains(words), "`{words}` is missing in:\n{text}");
    }
}

/// A process whose capabilities do not let it read the host's memory.
fn without_kernel_memory(arguments: &[&str]) -> Output {
    without("-sys_rawio", arguments)
}

#[test]
fn a_link_that_is_required_and_not_witnessed_is_no_pass() {
    let output = without_kernel_memory(&[
        "check",
        "--json",
        "--file",
        "eager/odd",
        "--require",
        "second-level",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(json(&output)["verdict"], "error");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("link second-level is required"), "{said}");
}

#[test]
fn a_second_level_that_cannot_be_read_leaves_five_links_and_a_reason() {
    let links = "contract,guest-walk,memslot,host-frame,stamp";
    let output = without_kernel_memory(&[
        "check",
        "--json",
        "--file",
        "eager,lazy/odd",
        "--require",
        links,
    ]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["links"]["second_level"], 0, "never counted");
    let leaves = &report["mappings"][0]["leaves"][0];
    assert_eq!(leaves["asked"], "UC-");
    for unknown in ["second_level", "second_level_page_bytes", "in_effect"] {
        assert_eq!(leaves[unknown], Value::Null, "{leaves}");
    }
    assert_eq!(report["links"]["stamp"], report["pages_checked"]);
    let unwitnessed = report["unwitnessed"].as_array().expect("a list");
    assert_eq!(unwitnessed.len(), 1, "{unwitnessed:?}");
    assert_eq!(unwitnessed[0]["link"], "second_level");
    let reason = unwitnessed[0]["reason"].as_str().expect("text");
    assert!(reason.contains("CAP_SYS_RAWIO"), "{reason}");

    let doctor = json(&without_kernel_memory(&["doctor", "--json"]));
    let findings = doctor["findings"].as_array().expect("findings").clone();
    let tables = findings
        .iter()
        .find(|finding| finding["subject"] == "second-level tables")
        .expect("a finding");
    assert_eq!(tables["good"], false);
    let help = tables["help"].as_str().expect("help");
    assert!(help.contains("CAP_SYS_RAWIO"), "{help}");
}

#[test]
fn all_links_can_be_required() {
    let links = "contract,guest-walk,memslot,host-frame,second-level,stamp";
    let output = mapwitness(
        "good",
        &["check", "--file", "eager,lazy", "--require", links],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(" mappings, 0 wrong"), "{text}");
    assert!(!text.contains("not witnessed"), "{text}");
    let npt = text.contains("second level: npt");
    assert!(npt || !text.contains("host soft-npt"), "{text}");
}

/// A process whose capabilities do not let it see frames.
fn without_frames(arguments: &[&str]) -> Output {
    without("-sys_admin", arguments)
}

#[test]
fn frames_that_the_kernel_hides_are_not_witnessed_and_that_is_said() {
    let output = without_frames(&["check", "--json", "--file", "eager/odd,lazy/odd"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["links"]["host_frame"], 0);
    assert_eq!(report["links"]["memslot"], report["pages_checked"]);
    let unwitnessed = report["unwitnessed"].as_array().expect("a list");
    let reason = unwitnessed
        .iter()
        .find(|one| one["link"] == "host_frame")
        .and_then(|one| one["reason"].as_str())
        .expect("it is said");
    assert!(reason.contains("CAP_SYS_ADMIN"), "{reason}");

    let required = without_frames(&[
        "check",
        "--json",
        "--file",
        "eager/odd",
        "--require",
        "host-frame",
    ]);
    assert_eq!(required.status.code(), Some(2));
    assert_eq!(json(&required)["verdict"], "error");
}

#[test]
fn what_could_not_be_checked_ends_with_2_and_a_document() {
    let output = mapwitness("good", &["check", "--json", "--driver-variant", "no-such"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(json(&output)["verdict"], "error");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for arguments in [
        &["check", "--require", "luck"][..],
        &["frobnicate"],
        &["check", "--vcpus", "0"],
    ] {
        let output = mapwitness("good", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_doctor_names_the_host() {
    let output = mapwitness("good", &["doctor", "--json"]);
    let findings = json(&output)["findings"].clone();
    let subjects: Vec<&str> = findings
        .as_array()
        .expect("findings")
        .iter()
        .filter_map(|finding| finding["subject"].as_str())
        .collect();
    for subject in [
        "KVM",
        "second level",
        "host frames",
        "host of a check",
        "timeline",
    ] {
        assert!(subjects.contains(&subject), "{subjects:?}");
    }
}

#[test]
fn the_cache_is_listed_and_cleaned() {
    let cache = tempfile::tempdir().expect("a folder");
    let images = |word: &str| {
        let output = Command::new(PROGRAM)
            .args(["images", word])
            .env("MAPWITNESS_CACHE", cache.path())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(images("list").contains("empty"));
    let entry = cache.path().join("kernel/0123456789abcdef0123456789abcdef");
    std::fs::create_dir_all(&entry).expect("made");
    std::fs::write(entry.join("inputs.txt"), "source: none\n").expect("written");
    std::fs::write(entry.join("vmlinux"), vec![0; 3 << 20]).expect("written");
    let listed = images("list");
    assert!(
        listed.contains("kernel") && listed.contains("4 MiB in all"),
        "{listed}"
    );
    assert!(images("clean").contains("removed 1 artefacts"));
    assert!(images("list").contains("empty"));
}

#[test]
fn the_atlas_is_drawn_and_told_as_a_document() {
    let output = mapwitness("good", &["atlas"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for kind in [
        "user virtual",
        "kernel logical",
        "kernel virtual",
        "kmap_local",
        "bus",
    ] {
        assert!(text.contains(kind), "{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(text.ends_with(", 0 wrong\n"), "{text}");

    let output = mapwitness("good", &["atlas", "--json"]);
    let report = json(&output);
    assert_eq!(report["verdict"], "pass", "{report:#}");
    let names = report["ram"]["names"].as_array().expect("names");
    assert_eq!(names.len(), 6);
    assert!(
        names.iter().all(|name| name["agrees"] == true),
        "{report:#}"
    );
}
