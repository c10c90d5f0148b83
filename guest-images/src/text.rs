//! Where the code of one of the kernel's folders lies, told by the symbols of what was
//! linked: no description of the whole kernel is needed for it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use object::{Object, ObjectSymbol, SymbolKind};
use walkdir::WalkDir;

use crate::Error;

/// Addresses of code, the second one excluded.
type Extent = (u64, u64);

/// Writes into `out` where `vmlinux` has the functions that the object files below `dir`
/// define: a line for each stretch without others' between, its first address and the one
/// behind its last, in hexadecimal.
///
/// A function is known by name and size. One elsewhere that has both in common with one
/// of the folder is taken for it, which a map of coverage can bear.
///
/// # Errors
/// When a file cannot be read or holds no symbols of functions.
pub fn write(vmlinux: &Path, dir: &Path, out: &Path) -> Result<(), Error> {
    let mut wanted = BTreeSet::new();
    for entry in WalkDir::new(dir) {
        let entry = entry.map_err(|error| Error::at("list", dir)(error.into()))?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "o") {
            let of_file = functions(path)?;
            wanted.extend(of_file.into_iter().map(|f| (f.name, f.len_bytes)));
        }
    }
    let mut all = functions(vmlinux)?;
    all.sort_by_key(|function| function.address);
    let extents = extents(&all, |f| wanted.contains(&(f.name.clone(), f.len_bytes)));
    if extents.is_empty() {
        return Err(Error::NoFunctions {
            dir: dir.to_owned(),
            vmlinux: vmlinux.to_owned(),
        });
    }
    let mut text = String::new();
    for (start, end) in extents {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{start:#x} {end:#x}");
    }
    fs::write(out, text).map_err(Error::at("write", out))
}

#[derive(Clone, Debug)]
struct Function {
    name: String,
    address: u64,
    len_bytes: u64,
}

fn functions(path: &Path) -> Result<Vec<Function>, Error> {
    let bytes = fs::read(path).map_err(Error::at("read", path))?;
    let unreadable = |error: object::Error| {
        Error::at("read", path)(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    };
    let file = object::File::parse(&*bytes).map_err(unreadable)?;
    let defined = file.symbols().filter(|symbol| {
        symbol.kind() == SymbolKind::Text && symbol.is_definition() && symbol.size() > 0
    });
    let named = defined.filter_map(|symbol| {
        Some(Function {
            name: symbol.name().ok()?.to_owned(),
            address: symbol.address(),
            len_bytes: symbol.size(),
        })
    });
    Ok(named.collect())
}

/// The stretches of `sorted` in which every function is wanted.
fn extents(sorted: &[Function], wanted: impl Fn(&Function) -> bool) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut goes_on = false;
    for function in sorted {
        let end = function.address.saturating_add(function.len_bytes);
        match extents.last_mut() {
            Some(last) if goes_on && wanted(function) => last.1 = last.1.max(end),
            _ if wanted(function) => extents.push((function.address, end)),
            _ => {}
        }
        goes_on = wanted(function);
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_the_folder_make_one_stretch() {
        let function = |name: &str, address, len_bytes| Function {
            name: name.to_owned(),
            address,
            len_bytes,
        };
        let all = [
            function("kernel", 0x1000, 0x10),
            function("mm_a", 0x1010, 0x10),
            function("mm_b", 0x1030, 0x8),
            function("fs", 0x1040, 0x10),
            function("mm_c", 0x1050, 0x10),
        ];
        let found = extents(&all, |one| one.name.starts_with("mm"));
        assert_eq!(found, [(0x1010, 0x1038), (0x1050, 0x1060)]);
        assert_eq!(extents(&all, |_| false), []);
    }

    #[test]
    fn a_folder_without_functions_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("text");
        let program = std::env::current_exe().unwrap();
        let error = write(&program, dir.path(), &out).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(!out.exists());
    }
}
