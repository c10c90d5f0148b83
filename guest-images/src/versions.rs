//! The file of pinned versions.

use std::fs;
use std::path::{Path, PathBuf};

use provision::Need;
use serde::Deserialize;

use crate::Error;

/// `guest-images/versions.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The kernel's source.
    pub kernel: Kernel,
    /// The bindings generator.
    pub bindgen: Bindgen,
    /// The compiler of the kernel's Rust side.
    pub rust: Rust,
    /// The C parser behind bindgen.
    pub libclang: Libclang,
    /// The C compiler of some flavours.
    pub clang: Clang,
    /// What else the kernel's build runs.
    pub tools: Vec<Tool>,
}

/// The pinned source package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Name of the Debian package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Hash of its file, in hex.
    pub sha256: String,
    /// Suite that has it.
    pub suite: String,
    /// Pattern of the packages that may take its place.
    pub successors: String,
}

/// The pinned bindings generator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bindgen {
    /// Version of the crate bindgen-cli.
    pub version: String,
}

/// What is asked of the compiler.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rust {
    /// Oldest version that the kernel takes.
    pub minimum: String,
    /// Alternatives, each a set of packages.
    pub packages: Vec<Vec<String>>,
}

/// What is asked of libclang.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Libclang {
    /// LLVM releases that will do, the most wanted first.
    pub releases: Vec<u32>,
    /// Alternatives, each a set of packages.
    pub packages: Vec<Vec<String>>,
}

/// What is asked of clang and its linker and tools.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clang {
    /// LLVM releases that will do, the most wanted first.
    pub releases: Vec<u32>,
    /// Alternatives, each a set of packages.
    pub packages: Vec<Vec<String>>,
    /// What translates its descriptions of types into BTF.
    pub types: Tool,
}

/// A tool, and how to see that it is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// The Debian package that brings it.
    pub package: String,
    /// A program that shows that it is there.
    pub program: Option<String>,
    /// A file that shows that it is there.
    pub file: Option<PathBuf>,
}

impl Versions {
    /// Reads the file below the project's `root`.
    ///
    /// # Errors
    /// When it cannot be read or does not say what it should.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let path = root.join("guest-images/versions.toml");
        let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        toml::from_str(&text).map_err(|source| Error::Versions {
            path,
            source: Box::new(source),
        })
    }
}

impl Tool {
    /// The need for it.
    pub fn need(&self) -> Need {
        let mut need = Need::package(&self.package);
        if let Some(program) = &self.program {
            need = need.or_program(program);
        }
        if let Some(file) = &self.file {
            need = need.or_file(file);
        }
        need
    }
}

/// The need for one of several sets of packages.
pub fn need_one_of(alternatives: &[Vec<String>]) -> Option<Need> {
    let mut sets = alternatives
        .iter()
        .map(|set| set.iter().map(String::as_str).collect::<Vec<_>>());
    let first = Need::packages(&sets.next()?);
    Some(sets.fold(first, |need, set| need.or(&set)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_file_is_well_formed() {
        let root = crate::workspace::root().unwrap();
        let versions = Versions::read(&root).unwrap();
        assert_eq!(versions.kernel.sha256.len(), 64);
        assert!(!versions.libclang.releases.is_empty());
        assert!(need_one_of(&versions.rust.packages).is_some());
        for tool in &versions.tools {
            assert!(tool.program.is_some() || tool.file.is_some(), "{tool:?}");
        }
    }
}
