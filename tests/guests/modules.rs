//! Modules that tests bring along: examples, the complainer, and drivers of the gallery.

use std::path::{Path, PathBuf};

use guest_images::{Flavour, handover};
use provision::Progress;

use crate::common::image_of;

/// The folder of an example, with its source and contract.
pub fn example(name: &str) -> PathBuf {
    tests().join("examples").join(name)
}

/// The contract that both drivers in C keep, or should.
pub fn contract() -> PathBuf {
    example("c-driver").join("contract.toml")
}

/// A module for a plain kernel.
pub fn module(name: &str) -> PathBuf {
    module_of(name, Flavour::Plain)
}

/// A module for a kernel of this flavour. Those that the cargo runner has prepared are taken;
/// without the runner they are built.
pub fn module_of(name: &str, flavour: Flavour) -> PathBuf {
    let prepared = handover::import_modules().expect("a set of modules");
    let prepared_name = handover::name(name, flavour);
    if let Some(module) = prepared.and_then(|mut modules| modules.remove(&prepared_name)) {
        return module;
    }
    let own = [example(name), tests().join(name)];
    let own = own.into_iter().find(|folder| folder.is_dir());
    let folder = own.clone().unwrap_or_else(|| tests().join("gallery"));
    let image = image_of("good", flavour);
    let built = guest_images::ensure_modules(&folder, &image, &Progress::stderr());
    let mut built = built.expect("they build").into_iter();
    let is_it = |path: &PathBuf| own.is_some() || path.file_stem().is_some_and(|it| it == name);
    built.find(is_it).expect("a module of that name")
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}
