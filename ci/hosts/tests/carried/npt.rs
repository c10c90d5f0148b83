//! Carries processes into a real software host, whatever this machine's KVM can do.
//!
//! The host is started once, for this test program, by the first test that comes.
//! What it needs is installed and fetched by the crate itself.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::program::host_program;

const WORKS: &str = "/dev/kvm works (kvm_amd, npt)\n";

fn carried(argv: &[&str]) -> Command {
    let mut command = Command::new(host_program());
    command
        .args(["host-run", "--for-parent", "--"])
        .args(argv)
        .env("MAPWITNESS_HOST", "soft-npt")
        .stdin(Stdio::null());
    command
}

fn run(argv: &[&str]) -> Output {
    carried(argv).output().expect("the runner starts")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn streams_and_status_come_back_apart() {
    let output = run(&["sh", "-c", "echo to out; echo to err >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(output.stdout, b"to out\n");
    assert!(output.stderr.ends_with(b"to err\n"), "{output:?}");
}

#[test]
fn a_signal_becomes_its_shell_status() {
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
}

#[test]
fn an_ordinary_guest_runs_inside_on_npt() {
    assert_eq!(stdout(&run(&[&host_program(), "probe"])), WORKS);
}

/// On a software host of its own: the kernel and the CPU are chosen when it starts.
fn run_on(variables: &[(&str, &str)], script: &str) -> Output {
    Command::new(host_program())
        .args(["host-run", "--", "sh", "-c", script])
        .env("MAPWITNESS_HOST", "soft-npt")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the runner starts")
}

#[test]
fn kernels_years_apart_run_a_guest_at_either_depth() {
    for (series, levels, address_bits) in [("6.1", "4", 48), ("7.3", "5", 57)] {
        let variables = [
            ("MAPWITNESS_HOST_KERNEL", series),
            ("MAPWITNESS_HOST_LEVELS", levels),
        ];
        let probe = format!("{} probe", host_program());
        let script = format!("uname -r; grep -m1 -o '[0-9]* bits virtual' /proc/cpuinfo; {probe}");
        let said = stdout(&run_on(&variables, &script));
        // The suite of the newest moves on to a later series.
        assert!(said.starts_with(&series[..2]), "{said}");
        let rest = said.split_once('\n').expect("lines").1;
        assert_eq!(rest, format!("{address_bits} bits virtual\n{WORKS}"));
    }
}

#[test]
fn a_kernel_that_is_not_known_is_told_with_those_that_are() {
    let output = run_on(&[("MAPWITNESS_HOST_KERNEL", "2.6")], "true");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("6.12, 6.1, 7.3"), "{said}");
}

#[test]
fn two_guests_run_inside_at_once() {
    let spawn = || {
        let mut command = carried(&[&host_program(), "probe"]);
        command.stdout(Stdio::piped());
        command.spawn().expect("the runner starts")
    };
    for child in [spawn(), spawn()] {
        let output = child.wait_with_output().expect("ends");
        assert_eq!(stdout(&output), WORKS);
    }
}

#[test]
fn host_frames_are_seen_inside_and_the_place_is_known() {
    let report = stdout(&run(&[&host_program(), "doctor"]));
    assert!(report.contains("ok host frames: "), "{report}");
    assert!(report.contains("ok second level: npt\n"), "{report}");
    assert!(
        report.contains("ok host of a check: kvm: inside soft-npt, "),
        "{report}"
    );
}

#[test]
fn files_come_back_from_writable_folders_only() {
    // In /tmp, which is another one inside: the folder is handed through.
    let folder = tempfile::tempdir().expect("folder");
    let refused = PathBuf::from(format!(
        "/var/tmp/mapwitness-refused-{}",
        std::process::id()
    ));
    fs::write(folder.path().join("given"), "seen\n").expect("written");
    let script = format!("echo new > here; cat given; ! touch {}", refused.display());
    let output = carried(&["sh", "-c", &script])
        .current_dir(folder.path())
        .output()
        .expect("the runner starts");
    assert_eq!(stdout(&output), "seen\n");
    assert_eq!(
        fs::read_to_string(folder.path().join("here")).expect("back"),
        "new\n"
    );
    assert!(!refused.exists());
}

#[test]
fn a_file_replaced_outside_is_seen_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    for text in ["first", "second", "third and longer"] {
        let new = folder.path().join("new");
        fs::write(&new, text).expect("written");
        fs::rename(&new, folder.path().join("file")).expect("replaced");
        let output = carried(&["cat", "file"])
            .current_dir(folder.path())
            .output()
            .expect("the runner starts");
        assert_eq!(stdout(&output), text);
    }
}

#[test]
fn much_output_of_both_streams_arrives_whole() {
    let output = run(&["sh", "-c", "seq 1 40000 >&2 & seq 1 40000; wait"]);
    let expected: String = (1..=40000).map(|n| format!("{n}\n")).collect();
    assert_eq!(stdout(&output), expected);
    // The runner may have said something before.
    assert!(output.stderr.ends_with(expected.as_bytes()));
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let output = run(&["no-such-program"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot start no-such-program"), "{said}");
}

/// Starts a carried process that tells its number and stays.
fn staying() -> (Child, String) {
    let mut child = carried(&["sh", "-c", "echo $$; exec sleep 86400"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the runner starts");
    let mut pid = String::new();
    let output = child.stdout.as_mut().expect("piped");
    BufReader::new(output).read_line(&mut pid).expect("read");
    (child, pid.trim().to_owned())
}

#[test]
fn nothing_stays_inside_when_the_runner_is_killed() {
    let (mut child, pid) = staying();
    assert!(
        run(&["sh", "-c", &format!("kill -0 {pid}")])
            .status
            .success()
    );
    child.kill().expect("killed");
    child.wait().expect("ended");
    // Ends as soon as the process has; the limit is only there to fail at last.
    let gone = run(&[
        "timeout",
        "120",
        "tail",
        &format!("--pid={pid}"),
        "-f",
        "/dev/null",
    ]);
    assert!(gone.status.success(), "{gone:?}");
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let mut child = carried(&["sh", "-c", "sleep 86400 & echo started"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the runner starts");
    let mut text = String::new();
    let mut output = child.stdout.take().expect("piped");
    // The sleep holds the pipe open inside; the end arrives all the same.
    output.read_to_string(&mut text).expect("read");
    assert_eq!(text, "started\n");
    assert!(child.wait().expect("ended").success());
}

#[test]
fn a_host_that_panics_is_a_prompt_error_with_its_console() {
    // For the runner alone, so that the other tests keep theirs.
    let output = Command::new(host_program())
        .args(["host-run", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"])
        .env("MAPWITNESS_HOST", "soft-npt")
        .output()
        .expect("the runner starts");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the software host soft-npt ended"), "{said}");
    assert!(said.contains("Kernel panic"), "{said}");
}

/// Runs a script on a software host of its own.
fn run_alone(script: &str) -> Output {
    let folder = tempfile::tempdir().expect("folder");
    Command::new(host_program())
        .args(["host-run", "--", "sh", "-c", script])
        .current_dir(folder.path())
        .env("MAPWITNESS_HOST", "soft-npt")
        .stdin(Stdio::null())
        .output()
        .expect("the runner starts")
}

const BREAK: &str = "sync; echo c > /proc/sysrq-trigger; sleep 86400";

#[test]
fn a_program_whose_host_broke_is_run_again_and_that_is_said() {
    let script = format!("test -e ran && echo again && exit 4; touch ran; {BREAK}");
    let output = run_alone(&script);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(output.stdout, b"again\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("running it again"), "{said}");
}

#[test]
fn a_host_that_breaks_twice_is_an_error() {
    let output = run_alone(BREAK);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("soft-npt ended"), "{said}");
}
