//! Keys: a hash over named inputs that can also be read by a person.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::Error;

/// Hex digits of the hash that name an entry: 128 bits.
const HEX_DIGITS: usize = 32;

/// The inputs of an artefact, in the order they were named. Two artefacts share
/// an entry exactly when all names and contents are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    manifest: String,
}

impl Key {
    /// A key without inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value as it is.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        // Debug escapes newlines and quotes: no value can pass for two inputs.
        // Writing to a String does not fail.
        let _ = writeln!(self.manifest, "{name} = {value:?}");
        self
    }

    /// Adds a file by its content.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(mut self, name: &str, path: &Path) -> Result<Self, Error> {
        let hash = hash_file(path).map_err(|source| Error::Input {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        })?;
        let _ = writeln!(self.manifest, "{name} = sha256:{hash}");
        Ok(self)
    }

    /// Adds every file below `dir` by its path, its content and whether it is
    /// executable. Links are followed: what they lead to is what gets built.
    ///
    /// # Errors
    /// When something below `dir` cannot be read.
    pub fn tree(mut self, name: &str, dir: &Path) -> Result<Self, Error> {
        let failed = |path: &Path, source: io::Error| Error::Input {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        };
        let walk = WalkDir::new(dir).follow_links(true).sort_by_file_name();
        for entry in walk {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(dir).to_owned();
                failed(&path, error.into())
            })?;
            if !entry.file_type().is_file() {
                continue;
            }
            let path = entry.path();
            let hash = hash_file(path).map_err(|source| failed(path, source))?;
            let mode = fs::metadata(path)
                .map_err(|source| failed(path, source))?
                .permissions()
                .mode();
            let mark = if mode & 0o111 == 0 { "" } else { " executable" };
            let relative = path.strip_prefix(dir).unwrap_or(path);
            let _ = writeln!(self.manifest, "{name}/{relative:?} = sha256:{hash}{mark}");
        }
        Ok(self)
    }

    /// The entry's name: the first half of the inputs' SHA-256, in hex.
    pub fn hex(&self) -> String {
        let mut hex = format!("{:x}", Sha256::digest(&self.manifest));
        hex.truncate(HEX_DIGITS);
        hex
    }

    /// All inputs, one a line.
    pub fn manifest(&self) -> &str {
        &self.manifest
    }
}

/// SHA-256 of a file's content, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_part_of_an_input_changes_the_key() {
        let base = Key::new().text("a", "1").text("b", "2");
        let others = [
            Key::new().text("a", "1").text("b", "3"),
            Key::new().text("a", "1").text("c", "2"),
            Key::new().text("b", "2").text("a", "1"),
            Key::new().text("a", "1"),
            Key::new().text("a", "1\"\nb = \"2"),
        ];
        for other in others {
            assert_ne!(base.hex(), other.hex(), "{}", other.manifest());
        }
        assert_eq!(base.hex(), Key::new().text("a", "1").text("b", "2").hex());
        assert_eq!(base.hex().len(), HEX_DIGITS);
    }

    #[test]
    fn a_tree_is_its_paths_contents_and_modes_but_not_its_place() {
        let hex = |prepare: &dyn Fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("tree");
            fs::create_dir_all(tree.join("sub")).unwrap();
            fs::write(tree.join("sub/x"), "one").unwrap();
            fs::write(dir.path().join("outside"), "linked").unwrap();
            symlink("../outside", tree.join("link")).unwrap();
            prepare(dir.path());
            Key::new().tree("t", &tree).unwrap().hex()
        };
        let base = hex(&|_| ());
        assert_eq!(base, hex(&|_| ()));
        assert_ne!(
            base,
            hex(&|d| fs::write(d.join("tree/sub/x"), "two").unwrap())
        );
        assert_ne!(base, hex(&|d| fs::write(d.join("outside"), "new").unwrap()));
        assert_ne!(base, hex(&|d| fs::write(d.join("tree/y"), "").unwrap()));
        assert_ne!(
            base,
            hex(&|d| fs::rename(d.join("tree/sub/x"), d.join("tree/sub/z")).unwrap())
        );
        assert_ne!(
            base,
            hex(&|d| {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(d.join("tree/sub/x"), mode).unwrap();
            })
        );
    }

    #[test]
    fn an_unreadable_input_is_named() {
        let error = Key::new()
            .file("config", Path::new("/nowhere/x"))
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/x"), "{error}");
        assert!(error.to_string().contains("config"), "{error}");
        assert!(Key::new().tree("t", Path::new("/nowhere")).is_err());
    }
}
