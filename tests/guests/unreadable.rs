//! Where the second level cannot be read the doctor says why and what would help, and
//! a check goes on with five links and says so.
//!
//! What a kernel hides is hidden here in a mount namespace of the one process, so that
//! nobody else's view changes.

use std::process::{Command, Output};

use crate::command::{PROGRAM, handed, json};
use guest_images::Flavour;
use rstest::rstest;
use serde_json::Value;

/// As the kernel shows its symbols to those whom it hides them from.
const HIDDEN_SYMBOLS: &str = "printf '0000000000000000 D init_task\\n\
                              0000000000000000 d kvm_vcpu_fops\\t[kvm]\\n' > $view \
                              && mount --bind $view /proc/kallsyms";
const NO_KVM_SYMBOLS: &str = "printf 'ffffffff82000000 D init_task\\n' > $view \
                              && mount --bind $view /proc/kallsyms";
const NO_TYPES: &str = "mount -t tmpfs none /sys/kernel/btf";
const NO_MEMORY: &str = "mount --bind /dev/null /proc/kcore";

/// Runs the command where `hide` was done before.
fn run(hide: &str, arguments: &[&str]) -> Output {
    let script = format!(
        "view=$(mktemp) && {hide} && exec {PROGRAM} {}",
        arguments.join(" ")
    );
    handed(Command::new("unshare"), "good", Flavour::Plain)
        .args(["--mount", "sh", "-c", &script])
        .output()
        .expect("unshare is there")
}

#[rstest]
fn the_doctor_says_what_hides_the_tables_and_what_would_help(
    #[values(
        (HIDDEN_SYMBOLS, "kernel.kptr_restrict=0"),
        (NO_KVM_SYMBOLS, "does not list kvm_vcpu_fops"),
        (NO_TYPES, "CONFIG_DEBUG_INFO_BTF"),
        (NO_MEMORY, "CONFIG_PROC_KCORE"),
        ("true", "")
    )]
    (hide, expected): (&str, &str),
) {
    let doctor = json(&run(hide, &["doctor", "--json"]));
    let findings = doctor["findings"].as_array().expect("findings");
    let tables = findings
        .iter()
        .find(|finding| finding["subject"] == "second-level tables")
        .expect("a finding");
    assert_eq!(tables["good"], expected.is_empty(), "{tables:#}");
    let help = tables["help"].as_str().unwrap_or_default();
    assert!(help.contains(expected), "{help}");
}

#[test]
fn a_check_goes_on_with_five_links_and_says_so() {
    let output = run(HIDDEN_SYMBOLS, &["check", "--file", "eager,lazy"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(", 0 wrong"), "{text}");
    let said = text
        .lines()
        .find(|line| line.starts_with("not witnessed: second-level: "))
        .expect("it is said");
    assert!(said.contains("kernel.kptr_restrict=0"), "{said}");
    assert!(text.contains("unknown in effect"), "{text}");
}

#[test]
fn what_is_required_and_hidden_ends_with_2() {
    let output = run(
        NO_TYPES,
        &[
            "check",
            "--json",
            "--file",
            "eager/odd",
            "--require",
            "second-level",
        ],
    );
    let report = json(&output);
    assert_eq!(output.status.code(), Some(2), "{report:#}");
    assert_eq!(report["verdict"], "error");
    assert_eq!(report["links"]["second_level"], 0, "{report:#}");
    assert_eq!(report["links"]["stamp"], report["pages_checked"]);
    assert_eq!(report["host"]["second_level_levels"], Value::Null);
}
