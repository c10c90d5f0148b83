//! Modules against the kernel that guests boot: the driver's variants, drivers of
//! other people in C and in Rust, and what is said when one does not compile.

use std::fs;
use std::path::Path;

use guest_images::{Error, GuestImage, Request, build_module, ensure};
use provision::{Consent, Progress};

fn image(variant: &str) -> Result<GuestImage, Error> {
    let request = Request {
        driver_variant: variant.to_owned(),
        ..Request::default()
    };
    ensure(&request, Consent::Ask, &Progress::stderr())
}

fn module_folder(source: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Kbuild"), "obj-m := probe.o\n").unwrap();
    fs::write(dir.path().join(source), text).unwrap();
    dir
}

const IN_C: &str = r#"
#include <linux/module.h>
static int __init probe_init(void) { pr_info("here\n"); return 0; }
module_init(probe_init);
MODULE_LICENSE("GPL");
"#;

const IN_RUST: &str = r#"
//! A module that does nothing.
use kernel::prelude::*;
module! {
    type: Probe,
    name: "probe",
    authors: ["nobody"],
    description: "nothing",
    license: "GPL",
}
struct Probe;
impl kernel::Module for Probe {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("here\n");
        Ok(Probe)
    }
}
"#;

fn assert_is_for(module: &Path, release: &str) {
    let bytes = fs::read(module).unwrap();
    let magic = format!("vermagic={release} ");
    let found = bytes
        .windows(magic.len())
        .any(|window| window == magic.as_bytes());
    assert!(found, "{} is not for {release}", module.display());
}

#[test]
fn other_peoples_modules_build_against_the_guests_kernel() {
    let image = image("good").unwrap();
    for (source, text) in [("probe.c", IN_C), ("probe.rs", IN_RUST)] {
        let dir = module_folder(source, text);
        let built = build_module(dir.path(), &image.kernel_tree, &[], &Progress::hidden()).unwrap();
        assert_eq!(built.len(), 1, "{source}");
        assert_is_for(&built[0], &image.release);
    }
}

#[test]
fn a_module_that_does_not_compile_shows_the_compilers_words() {
    let image = image("good").unwrap();
    let broken = [
        ("probe.c", IN_C.replace("return 0", "return no_such_name")),
        ("probe.rs", IN_RUST.replace("Ok(Probe)", "Ok(no_such_name)")),
    ];
    for (source, text) in broken {
        let dir = module_folder(source, &text);
        let error = build_module(dir.path(), &image.kernel_tree, &[], &Progress::hidden())
            .expect_err(source)
            .to_string();
        assert!(error.contains("no_such_name"), "{error}");
        assert!(error.contains(&format!("{source}:")), "{error}");
    }
}

#[test]
fn variants_of_the_driver_differ_and_belong_to_the_kernel() {
    let good = image("good").unwrap();
    let off = image("off-by-one").unwrap();
    assert_eq!(good.vmlinux, off.vmlinux, "one kernel for all variants");
    assert_ne!(good.module, off.module);
    assert_ne!(good.initramfs, off.initramfs);
    assert_ne!(
        fs::read(&good.module).unwrap(),
        fs::read(&off.module).unwrap()
    );
    for image in [good, off] {
        assert_is_for(&image.module, &image.release);
        guest_images::initramfs::check(&image.initramfs).unwrap();
    }
}

#[test]
fn an_unknown_variant_is_answered_with_the_known_ones() {
    let error = image("no-such-variant").unwrap_err().to_string();
    for word in ["no-such-variant", "good", "off-by-one"] {
        assert!(error.contains(word), "{error}");
    }
}
