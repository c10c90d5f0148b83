//! Why a software host ended, told from what it left behind.

use std::fmt::Write;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rustix::process::geteuid;

use crate::rundir;

/// How much of the end of a file is looked at.
const TAIL_LEN_BYTES: u64 = 32 * 1024;
/// How many lines of it are shown.
const TAIL_LINES: usize = 20;
/// How the kernel begins to say that it gives up (kernel/panic.c).
const PANIC: &str = "Kernel panic";
/// Added for users other than root: what the file server needs for them.
const USER_HINT: &str = "\nserving files as an ordinary user needs user namespaces: \
     sysctl kernel.unprivileged_userns_clone=1 (Debian), \
     kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); or run as root";

/// The reason with the last lines of the console and of the log.
pub fn explain(run_dir: &Path, reason: &str, qemu_status: Option<&str>) -> String {
    let mut text = format!("the software host soft-npt {reason}");
    if let Some(status) = qemu_status {
        // Writing to a string does not fail.
        let _ = write!(text, " (QEMU: {status})");
    }
    for (title, name) in [
        ("its console", rundir::CONSOLE),
        ("QEMU and virtiofsd", rundir::LOG),
    ] {
        let end = tail(&run_dir.join(name)).unwrap_or_default();
        append_last_lines(&mut text, title, &end);
    }
    if !geteuid().is_root() {
        text.push_str(USER_HINT);
    }
    text
}

/// A reason with the last lines of what was said where.
pub fn explain_ending(reason: &str, sources: &[(&str, String)]) -> String {
    let mut text = reason.to_owned();
    for (title, said) in sources {
        append_last_lines(&mut text, title, said.as_bytes());
    }
    text
}

fn append_last_lines(text: &mut String, title: &str, bytes: &[u8]) {
    let lines = last_lines(bytes);
    if !lines.is_empty() {
        let lines = lines.iter().map(String::as_str);
        append_lines(text, &format!("last lines of {title}"), lines);
    }
}

/// Lines under a title, which leads over from what stands before.
pub fn append_lines<'l>(text: &mut String, title: &str, lines: impl Iterator<Item = &'l str>) {
    // Writing to a string does not fail.
    let _ = write!(text, "\n{title}:");
    for line in lines {
        let _ = write!(text, "\n  | {line}");
    }
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_LEN_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The guest wrote these: whatever could steer a terminal is made harmless.
fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .split('\n')
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    // A panic's own line may stand far above its last one.
    let panic = lines
        .iter()
        .take(first)
        .rev()
        .find(|line| line.contains(PANIC))
        .copied();
    panic
        .into_iter()
        .chain(lines.iter().skip(first).copied())
        .map(|line| line.replace(|c: char| c.is_control() && c != '\t', "?"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown_and_cannot_steer_a_terminal() {
        let folder = tempfile::tempdir().expect("folder");
        let mut console = "old line\n".repeat(9000);
        console.push_str("Kernel panic - not syncing: a reason\n");
        console.push_str(&"trace\n".repeat(100));
        console.push_str("\x1b[2Jlast\r\n");
        std::fs::write(folder.path().join(rundir::CONSOLE), console).expect("written");
        let text = explain(folder.path(), "ended", Some("exit status: 1"));
        assert!(text.starts_with("the software host soft-npt ended (QEMU: exit status: 1)"));
        assert!(text.contains("\n  | ?[2Jlast"), "{text}");
        assert!(text.contains("\n  | Kernel panic - not syncing: a reason\n"));
        assert_eq!(text.matches("\n  | ").count(), 1 + TAIL_LINES);
    }
}
