use super::*;

#[test]
fn an_outer_build_leaves_no_trace() {
    for name in [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_PROFILE_RELEASE_LTO",
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
        "RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
    ] {
        assert!(shapes_a_build(OsStr::new(name)), "{name} is let through");
    }
    for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "RUSTUP_TOOLCHAIN", "PATH"] {
        assert!(!shapes_a_build(OsStr::new(name)), "{name} is taken away");
    }
}

#[test]
fn only_a_static_program_is_taken() {
    let folder = tempfile::tempdir().expect("folder");
    let text = folder.path().join("text");
    fs::write(&text, "#!/bin/sh\n").expect("written");
    let this_test = env::current_exe().expect("known");
    for (path, why) in [
        (text, "no 64-bit ELF program"),
        (this_test, "dynamic loader"),
    ] {
        let error = check_static(&path).expect_err("refused").to_string();
        assert!(error.contains(why), "{error}");
    }
    let absent = folder.path().join("absent");
    assert!(matches!(check_static(&absent), Err(Error::File { .. })));
}

#[test]
fn a_failed_build_shows_what_cargo_said() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("agent");
    let error = build(folder.path(), &out, &Progress::hidden()).expect_err("no workspace");
    assert!(error.to_string().contains("Cargo.toml"), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_key_follows_sources_and_messages() {
    let root = tempfile::tempdir().expect("folder");
    for tree in TREES {
        fs::create_dir_all(root.path().join(tree)).expect("made");
    }
    for file in FILES {
        fs::write(root.path().join(file), "").expect("written");
    }
    let key = || add_to_key(Key::new(), root.path()).expect("readable").hex();
    let mut seen = vec![key()];
    for changed in [
        "Cargo.lock",
        "guest-images/agent/main.rs",
        "vmm/wire/lib.rs",
    ] {
        fs::write(root.path().join(changed), "changed").expect("written");
        seen.push(key());
    }
    assert_eq!(seen[3], key());
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
}
