//! The folder of a run: cases and findings.

use std::fs;
use std::path::{Path, PathBuf};

use crate::case::Case;
use crate::error::FuzzError;
use crate::finding::Finding;

pub(crate) fn made(path: &Path) -> Result<PathBuf, FuzzError> {
    fs::create_dir_all(path).map_err(|source| FuzzError::Dir {
        path: path.to_owned(),
        source,
    })?;
    Ok(path.to_owned())
}

/// Files of a folder whose names end in `.toml`, in the order of their names.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, FuzzError> {
    let failed = |source| FuzzError::Dir {
        path: dir.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.extension().is_some_and(|it| it == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Cases of an earlier run.
pub(crate) fn cases(dir: &Path) -> Result<Vec<Case>, FuzzError> {
    let paths = listed(dir)?.into_iter();
    let read = |path: PathBuf| Case::read(&path).map_err(|source| FuzzError::Case { path, source });
    paths.map(read).collect()
}

/// Findings of an earlier run.
pub(crate) fn findings(dir: &Path) -> Result<Vec<(PathBuf, Finding)>, FuzzError> {
    let paths = listed(dir)?.into_iter();
    let read = |path: PathBuf| Ok((path.clone(), Finding::read(&path)?));
    paths.map(read).collect()
}
