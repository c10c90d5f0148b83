//! Carries programs into the software host `soft-ept`: each has a machine of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::program::host_program;

fn carried(argv: &[&str]) -> Command {
    let mut command = Command::new(host_program());
    command
        .args(["host-run", "--"])
        .args(argv)
        .env("MAPWITNESS_HOST", "soft-ept")
        .stdin(Stdio::null());
    command
}

fn run(argv: &[&str]) -> Output {
    carried(argv).output().expect("the runner starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the emulated clock stood in the end.
fn tick(output: &Output) -> String {
    let said = text(&output.stderr);
    let line = said.lines().find(|line| line.contains("ended at tick "));
    line.unwrap_or_else(|| panic!("no tick: {said}")).to_owned()
}

#[test]
fn streams_and_status_come_back_and_runs_repeat_to_the_tick() {
    let script = "echo to out; echo to err >&2; exit 3";
    let [one, other] = [(); 2].map(|()| run(&["sh", "-c", script]));
    for output in [&one, &other] {
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(output.stdout, b"to out\n");
        let said = text(&output.stderr);
        assert!(said.contains("to err\n"), "{said}");
    }
    assert_eq!(tick(&one), tick(&other));
}

#[test]
fn an_ordinary_guest_runs_inside_on_ept() {
    let output = run(&[&host_program(), "probe"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), "/dev/kvm works (kvm_intel, ept)\n");
}

#[test]
fn a_host_that_panics_is_an_error_with_its_console() {
    let output = run(&["sh", "-c", "echo c > /proc/sysrq-trigger; read never"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("running it again"), "{said}");
    assert!(said.contains("the software host soft-ept ended"), "{said}");
    assert!(said.contains("Kernel panic"), "{said}");
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let output = run(&["/nowhere/program"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("/nowhere/program, which is to be run"),
        "{said}"
    );
}

#[test]
fn the_machine_ends_with_its_runner_however_that_ends() {
    // Says where it is before its machine starts; the machine is its only child.
    let mut runner = carried(&["sleep", "86400"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the runner starts");
    let lines = BufReader::new(runner.stderr.take().expect("piped")).lines();
    let ready = lines
        .map_while(Result::ok)
        .any(|line| line.contains("soft-ept: ready"));
    assert!(ready, "the host starts");
    let children = format!("/proc/{0}/task/{0}/children", runner.id());
    let machine = fs::read_to_string(children).expect("a list");
    let machine = Path::new("/proc").join(machine.trim());
    assert!(machine.join("stat").exists(), "{}", machine.display());
    runner.kill().expect("killed");
    runner.wait().expect("ended");
    // The kernel ends it at once; the limit is only there to fail at last.
    for _ in 0..6000 {
        if !is_running(&machine) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} still runs", machine.display());
}

/// One that nobody has waited for yet has ended all the same.
fn is_running(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}
