//! The programs that these tests drive.

use std::env;

/// This package's example is a whole program: keeper, init and runner.
pub fn host_program() -> String {
    example("host")
}

/// An example of this workspace.
pub fn example(name: &str) -> String {
    let test = env::current_exe().expect("path of this test");
    let profile = test.ancestors().nth(2).expect("PROFILE/deps/TEST");
    let program = profile.join("examples").join(name);
    // A plain `cargo test` builds it; one that names this test does not.
    assert!(
        program.exists(),
        "{} is missing: cargo build --examples",
        program.display()
    );
    program.into_os_string().into_string().expect("text")
}
