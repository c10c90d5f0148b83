//! Images that do not do: what happened, where, and what to do about it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{chain, image, impatient_config};
use addr::Gpa;
use guest_images::initramfs::{self, Entry};
use harness::Guest;
use monitor::{MESSAGE_AREA, Vm, VmConfig};
use witness::stamp::Stamps;

/// The error of a boot that cannot succeed, with its causes.
fn failure(config: &VmConfig) -> String {
    let outcome = Guest::boot(config).and_then(|mut guest| guest.load_driver());
    chain(&outcome.expect_err("nothing can come of this"))
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The good initramfs with the module replaced.
fn with_module(folder: &Path, bytes: Vec<u8>) -> PathBuf {
    let out = folder.join("initramfs.cpio");
    let entry = Entry::bytes(guest_images::MODULE_PATH, 0o644, bytes);
    initramfs::append(&image("good").initramfs, &[entry], &out).expect("written");
    out
}

#[test]
fn a_missing_kernel() {
    let config = VmConfig {
        kernel: "/nowhere/vmlinux".into(),
        ..impatient_config()
    };
    assert_says(
        &failure(&config),
        &["/nowhere/vmlinux", "images build", "No such file"],
    );
}

#[test]
fn a_foreign_kernel() {
    let folder = folder();
    let kernel = folder.path().join("bzImage");
    fs::write(&kernel, vec![0x90; 4096]).expect("written");
    let config = VmConfig {
        kernel,
        ..impatient_config()
    };
    assert_says(&failure(&config), &["bzImage", "CONFIG_PVH=y"]);
}

#[test]
fn an_elf_file_that_is_no_kernel() {
    let config = VmConfig {
        kernel: std::env::current_exe().expect("this test"),
        ..impatient_config()
    };
    assert_says(&failure(&config), &["not a kernel this VMM can start"]);
}

#[test]
fn a_truncated_kernel() {
    let folder = folder();
    let kernel = folder.path().join("vmlinux");
    let whole = fs::read(&impatient_config().kernel).expect("the kernel");
    for len in [0, 16, 63, 200, 4096, whole.len() / 2] {
        fs::write(&kernel, &whole[..len]).expect("written");
        let config = VmConfig {
            kernel: kernel.clone(),
            ..impatient_config()
        };
        assert_says(&failure(&config), &["vmlinux"]);
    }
}

#[test]
fn a_truncated_initramfs() {
    let folder = folder();
    let initramfs = folder.path().join("initramfs.cpio");
    let whole = fs::read(&impatient_config().initramfs).expect("the initramfs");
    fs::write(&initramfs, &whole[..whole.len() / 2]).expect("written");
    let config = VmConfig {
        initramfs: initramfs.clone(),
        ..impatient_config()
    };
    assert_says(
        &failure(&config),
        &["initramfs.cpio", "cut off", "images build"],
    );
}

#[test]
fn an_initramfs_larger_than_memory() {
    let folder = folder();
    let initramfs = folder.path().join("initramfs.cpio");
    fs::File::create(&initramfs)
        .and_then(|file| file.set_len(256 << 20))
        .expect("written");
    let config = VmConfig {
        initramfs,
        ..impatient_config()
    };
    assert_says(&failure(&config), &["initramfs.cpio"]);
}

#[test]
fn a_module_for_another_kernel() {
    let folder = folder();
    let mut module = fs::read(&image("good").module).expect("the module");
    let magic = b"vermagic=";
    let at = module
        .windows(magic.len())
        .position(|bytes| bytes == magic)
        .expect("a module has it");
    module[at + magic.len()] = b'9';
    let config = VmConfig {
        initramfs: with_module(folder.path(), module),
        ..impatient_config()
    };
    assert_says(
        &failure(&config),
        &["another kernel", "version magic", "images build"],
    );
}

#[test]
fn a_module_that_is_none() {
    let folder = folder();
    let config = VmConfig {
        initramfs: with_module(folder.path(), b"not a module".to_vec()),
        ..impatient_config()
    };
    assert_says(&failure(&config), &["mapwitness.ko"]);
}

#[test]
fn a_driver_that_finds_no_window_to_offer() {
    let config = VmConfig {
        windows: Vec::new(),
        ..impatient_config()
    };
    assert_says(&failure(&config), &["/dev/mapwitness-", "probe failed"]);
}

#[test]
fn an_agent_of_another_version() {
    let config = impatient_config();
    let mut vm = Vm::new(&config).expect("a VM");
    vm.run_to_doorbell().expect("its greeting");
    // The greeting as an agent of the next version would write it.
    let version = Gpa::new(MESSAGE_AREA.raw() + 4);
    vm.write(version, &(wire::VERSION + 1).to_le_bytes())
        .expect("the area");
    let error = Guest::greeted(vm, Stamps::new(0))
        .err()
        .expect("another version");
    let spoken = format!("speaks version {}", wire::VERSION + 1);
    assert_says(&chain(&error), &[&spoken, "images build"]);
}

#[test]
fn an_agent_that_rings_without_a_word() {
    let config = impatient_config();
    let mut vm = Vm::new(&config).expect("a VM");
    vm.run_to_doorbell().expect("its greeting");
    vm.write(MESSAGE_AREA, &[0; 64]).expect("the area");
    let error = Guest::greeted(vm, Stamps::new(0))
        .err()
        .expect("no message");
    assert_says(&chain(&error), &["no message in the area"]);
}

#[test]
fn a_message_that_claims_more_than_the_area_holds() {
    let config = impatient_config();
    let mut vm = Vm::new(&config).expect("a VM");
    vm.run_to_doorbell().expect("its greeting");
    let length = Gpa::new(MESSAGE_AREA.raw() + 8);
    vm.write(length, &u32::MAX.to_le_bytes()).expect("the area");
    let error = Guest::greeted(vm, Stamps::new(0)).err().expect("too long");
    assert_says(&chain(&error), &["does not fit the area"]);
}
