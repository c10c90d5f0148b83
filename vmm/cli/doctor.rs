//! `mapwitness doctor`: what this machine can do, and what would make it do more.

use harness::Watch;
use hosts::Probe;
use hosts::doctor::{Doctor, Finding, examine};
use witness::second_level;

use crate::exit::Exit;

/// Carries out `mapwitness doctor`.
pub fn run(json: bool) -> anyhow::Result<Exit> {
    let found = examine();
    let below = [tables(&found), timeline(&found)];
    if json {
        let findings: Vec<_> = found
            .findings()
            .into_iter()
            .chain(below)
            .map(|finding| {
                serde_json::json!({
                    "subject": finding.subject,
                    "good": finding.good,
                    "found": finding.found,
                    "help": finding.help,
                })
            })
            .collect();
        println!("{:#}", serde_json::json!({ "findings": findings }));
    } else {
        let [tables, timeline] = below;
        print!("{found}{tables}{timeline}");
    }
    Ok(match found.choice {
        Ok(_) => Exit::Pass,
        Err(_) => Exit::NotChecked,
    })
}

/// Whether the second level can also be read, where there is one.
fn tables(doctor: &Doctor) -> Finding {
    let read = match second_level::host() {
        Ok(_) => Ok("read live through /proc/kcore"),
        Err(error) => Err(("cannot be read", second_level::chain(&error))),
    };
    below_kvm(doctor, "second-level tables", read)
}

/// Whether KVM's records of the second level can be had.
fn timeline(doctor: &Doctor) -> Finding {
    let recorded = match Watch::is_possible() {
        Ok(()) => Ok("KVM's records can be followed"),
        Err(error) => Err(("cannot be recorded", second_level::chain(&error))),
    };
    below_kvm(doctor, "timeline", recorded)
}

/// What was found of what lies below a KVM, if there is a usable one.
fn below_kvm(
    doctor: &Doctor,
    subject: &'static str,
    found: Result<&str, (&str, String)>,
) -> Finding {
    let (found, help) = match (&doctor.probe, found) {
        (Probe::Usable { .. }, Ok(found)) => (found, None),
        (Probe::Usable { .. }, Err((found, help))) => (found, Some(help)),
        _ => (
            "none to read here; in a software host it is read",
            Some("as for KVM".to_owned()),
        ),
    };
    Finding {
        subject,
        good: help.is_none(),
        found: found.to_owned(),
        help,
    }
}
