//! Gives the crate a name for its own sources: what one build has saved of a guest, only
//! a build of the same sources may take up again.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// What decides how a guest is built and how its state is read and put back: this crate,
/// those that it is made of, and the versions of all others.
const SOURCES: [&str; 6] = [
    "build.rs",
    "src",
    "../addr/src",
    "../walk/src",
    "../wire/src",
    "../../Cargo.lock",
];

fn main() {
    let mut hash = Sha256::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        for entry in WalkDir::new(source).sort_by_file_name() {
            let entry = entry.unwrap_or_else(|error| panic!("list {source}: {error}"));
            if entry.file_type().is_file() {
                add(&mut hash, entry.path());
            }
        }
    }
    println!("cargo::rustc-env=MONITOR_SOURCES={:x}", hash.finalize());
}

fn add(hash: &mut Sha256, path: &Path) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
