//! A kernel that is locked down shows its memory not even to root. That cannot be
//! undone, so it is done to a software host of its own; this program itself runs where
//! it was built.

use std::process::{Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mapwitness");

/// Locks the kernel down, then leaves the doctor's and the check's documents.
const SCRIPT: &str = "mount -t securityfs none /sys/kernel/security \
                      && echo confidentiality > /sys/kernel/security/lockdown \
                      && \"$0\" doctor --json > doctor.json \
                      && \"$0\" check --json --require stamp --file eager/odd > check.json";

#[test]
fn a_locked_down_kernel_leaves_five_links_and_the_doctor_knows_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(PROGRAM)
        .args(["host-run", "--", "sh", "-c", SCRIPT, PROGRAM])
        .current_dir(folder.path())
        .env("MAPWITNESS_HOST", "soft-npt")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let document = |name: &str| -> Value {
        let bytes = std::fs::read(folder.path().join(name)).expect("written");
        serde_json::from_slice(&bytes).expect("a document")
    };
    let doctor = document("doctor.json");
    let tables = doctor["findings"]
        .as_array()
        .and_then(|all| {
            all.iter()
                .find(|one| one["subject"] == "second-level tables")
        })
        .expect("a finding");
    let help = tables["help"].as_str().expect("help");
    assert!(help.contains("locked down (confidentiality)"), "{help}");

    let check = document("check.json");
    assert_eq!(check["verdict"], "pass", "{check:#}");
    assert_eq!(check["links"]["second_level"], 0);
    assert_eq!(check["unwitnessed"][0]["link"], "second_level");
    let reason = check["unwitnessed"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("locked down"), "{reason}");
}
