//! `mapwitness doctor`: what this machine can do, and what would make it do more.

use hosts::Probe;
use hosts::doctor::{Doctor, Finding, examine};
use witness::second_level;

use crate::exit::Exit;

/// Carries out `mapwitness doctor`.
pub fn run(json: bool) -> anyhow::Result<Exit> {
    let found = examine();
    let tables = tables(&found);
    if json {
        let findings: Vec<_> = found
            .findings()
            .into_iter()
            .chain([tables])
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
        print!("{found}{tables}");
    }
    Ok(match found.choice {
        Ok(_) => Exit::Pass,
        Err(_) => Exit::NotChecked,
    })
}

/// Whether the second level can also be read, where there is one.
fn tables(doctor: &Doctor) -> Finding {
    let (found, help) = match (&doctor.probe, second_level::host()) {
        (Probe::Usable { .. }, Ok(_)) => ("read live through /proc/kcore", None),
        (Probe::Usable { .. }, Err(error)) => ("cannot be read", Some(second_level::chain(&error))),
        _ => (
            "none to read here; in a software host they are read",
            Some("as for KVM".to_owned()),
        ),
    };
    Finding {
        subject: "second-level tables",
        good: help.is_none(),
        found: found.to_owned(),
        help,
    }
}
