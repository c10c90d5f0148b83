//! The agent as the guest gets it: built static, and packed as /init.

use std::path::Path;
use std::process::Command;

use guest_images::{agent, initramfs};
use provision::Progress;

#[test]
fn the_agent_is_built_and_packed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // A later run goes on from this one's build.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir().expect("folder");
    let program = folder.path().join("agent");
    agent::build_in(&root, target, &program, &Progress::hidden()).expect("built");

    // Outside a guest it does nothing, and says what it is.
    let output = Command::new(&program).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("/init of a guest"), "{said}");

    let packed = folder.path().join("initramfs.cpio");
    initramfs::write(&initramfs::Entry::of_agent(&program), &packed).expect("packed");
    let found = initramfs::check(&packed).expect("whole");
    let paths: Vec<_> = found.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["/dev", "/dev/console", "/init", "/proc", "/sys"]);
}
