//! Of a built kernel tree, the tenth that building modules takes.

use std::fs;
use std::path::Path;

use walkdir::WalkDir;

use crate::Error;
use crate::kernel::strip;

/// What `make M=` reads, from the tree's top; what a tree does not have is left out.
const KEPT: [&str; 12] = [
    ".config",
    "Kbuild",
    "Makefile",
    "Module.symvers",
    "arch/x86/Makefile",
    "arch/x86/Makefile_32.cpu",
    "arch/x86/include",
    "include",
    "rust/kernel",
    "scripts",
    "tools/objtool/objtool",
    "tools/bpf/resolve_btfids/resolve_btfids",
];
/// Parts of those that no module's build reads.
const DROPPED: [&str; 5] = [
    "include/dt-bindings",
    "scripts/coccinelle",
    "scripts/dtc",
    "scripts/gdb",
    "scripts/kconfig",
];

/// Moves what building modules takes from the built tree `work` into `tree`.
pub fn module_tree(work: &Path, tree: &Path) -> Result<(), Error> {
    for name in KEPT {
        let (from, to) = (work.join(name), tree.join(name));
        if !from.exists() {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::at("make folder", parent))?;
        }
        fs::rename(&from, &to).map_err(Error::at("move", &from))?;
    }
    for name in DROPPED {
        let dir = tree.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(Error::at("remove", &dir))?;
        }
    }
    rust_libraries(&work.join("rust"), &tree.join("rust"))?;
    drop_leftovers(tree)
}

/// The Rust side's metadata, and its procedural macros without debug information.
fn rust_libraries(from: &Path, to: &Path) -> Result<(), Error> {
    let listing = match fs::read_dir(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        listing => listing.map_err(Error::at("list", from))?,
    };
    fs::create_dir_all(to).map_err(Error::at("make folder", to))?;
    for entry in listing {
        let path = entry.map_err(Error::at("list", from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rmeta") => fs::rename(&path, &target).map_err(Error::at("move", &path))?,
            Some("so") => strip(&path, &target, "--strip-debug")?,
            _ => {}
        }
    }
    Ok(())
}

/// Objects and dependency notes of the kernel's own build.
fn drop_leftovers(tree: &Path) -> Result<(), Error> {
    for entry in WalkDir::new(tree) {
        let entry = entry.map_err(|error| Error::at("list", tree)(error.into()))?;
        let name = entry.file_name().to_string_lossy();
        let leftover = name.ends_with(".o") || (name.starts_with('.') && name.ends_with(".cmd"));
        if leftover && entry.file_type().is_file() {
            fs::remove_file(entry.path()).map_err(Error::at("remove", entry.path()))?;
        }
    }
    Ok(())
}
