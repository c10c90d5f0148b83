//! A test program's tests are divided among hosts, and each of them runs once.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::program::host_program;

/// Speaks as a test program does: lists its tests, or runs those that are named. Says which
/// kernel it ran under, for a boot has a name of its own. Where `OTHERS` is set, one that ran
/// a test of `a` only ends when another has run a test of `b`, and the other way round.
const PROGRAM: &str = r#"#!/bin/sh
case $* in
    *--list*) printf 'a::one: test\na::two: test\nb::broken: test\nb::three: test\nb::speed: benchmark\n'
        exit ;;
esac
boot=$(cat /proc/sys/kernel/random/boot_id)
status=0
for word; do
    case $word in
        --*) ;;
        *) echo "ran $word on $boot" ;;
    esac
    case $word in
        a::*) touch a; other=b ;;
        b::broken) touch b; other=a; status=101 ;;
        b::*) touch b; other=a ;;
    esac
done
while [ -n "${OTHERS-}" ] && ! [ -e "$other" ]; do sleep 0.1; done
exit $status
"#;

fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    fs::write(&program, PROGRAM).expect("written");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("executable");
    Command::new(host_program())
        .args(["host-run", "--tests", "--"])
        .arg(&program)
        .args(arguments)
        .current_dir(folder.path())
        .env("MAPWITNESS_HOST", "soft-npt")
        .envs((cpus() > 1).then_some(("OTHERS", "1")))
        .stdin(Stdio::null())
        .output()
        .expect("the runner starts")
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Each test that ran, with the boot that it ran under.
fn ran(output: &Output) -> Vec<(String, String)> {
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().filter_map(|line| line.strip_prefix("ran "));
    lines
        .map(|line| {
            let (name, boot) = line.split_once(" on ").expect("name and boot");
            (name.to_owned(), boot.to_owned())
        })
        .collect()
}

#[test]
fn every_test_runs_once_and_a_failure_is_not_lost() {
    let output = run(&["--nocapture"]);
    assert_eq!(output.status.code(), Some(101), "{output:?}");
    let ran = ran(&output);
    let mut names: Vec<&str> = ran.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a::one", "a::two", "b::broken", "b::three"]);
    let boots: BTreeSet<&str> = ran.iter().map(|(_, boot)| boot.as_str()).collect();
    assert_eq!(boots.len(), 2.min(cpus()), "{ran:?}");
    for [one, other] in [["a::one", "a::two"], ["b::broken", "b::three"]] {
        let boot = |wanted| ran.iter().find(|(name, _)| name == wanted).map(|it| &it.1);
        assert_eq!(boot(one), boot(other), "{ran:?}");
    }
}
