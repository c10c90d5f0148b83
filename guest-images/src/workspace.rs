//! Where the project's sources are at run time.

use std::path::{Path, PathBuf};

use crate::Error;

/// The variable that says where the sources have moved to.
pub const SOURCE_VARIABLE: &str = "MAPWITNESS_SOURCE";

/// The root of the project's sources: where they were at compile time, or
/// `$MAPWITNESS_SOURCE`.
///
/// # Errors
/// When they are not there.
pub fn root() -> Result<PathBuf, Error> {
    let compiled = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned);
    let named = std::env::var_os(SOURCE_VARIABLE).map(PathBuf::from);
    let root = named.or(compiled).unwrap_or_default();
    check(root)
}

fn check(root: PathBuf) -> Result<PathBuf, Error> {
    let needed = ["guest-images/versions.toml", "guest-module/Kbuild"];
    if needed.iter().all(|file| root.join(file).is_file()) {
        Ok(root)
    } else {
        Err(Error::NoSource { root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_have_gone_are_named_with_the_cure() {
        let error = check(PathBuf::from("/nowhere")).unwrap_err().to_string();
        assert!(
            error.contains("/nowhere") && error.contains(SOURCE_VARIABLE),
            "{error}"
        );
    }
}
