//! How far all runs in a folder have come, kept beside their cases.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::FuzzError;
use crate::files;

const FILE_NAME: &str = "progress.toml";
/// A run that is killed forgets at most the cases of this time from the count.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// What all runs in a folder came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Runs that were begun.
    pub runs: u64,
    /// Cases that were gone through.
    pub cases: u64,
    /// How long that took.
    pub seconds: f64,
}

/// The file that has it.
pub(crate) struct Progress {
    path: PathBuf,
    before: Total,
    kept: Instant,
}

impl Progress {
    /// Begins a run in `dir`.
    pub(crate) fn begin(dir: &Path) -> Result<Self, FuzzError> {
        let path = dir.join(FILE_NAME);
        let mut before = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|source| FuzzError::Progress {
                path: path.clone(),
                source: Box::new(source),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Total::default(),
            Err(source) => return Err(FuzzError::Dir { path, source }),
        };
        before.runs += 1;
        let progress = Self {
            path,
            before,
            kept: Instant::now(),
        };
        progress.keep(before)?;
        Ok(progress)
    }

    /// How many runs there were before this one.
    pub(crate) fn earlier_runs(&self) -> u64 {
        self.before.runs.saturating_sub(1)
    }

    /// All, with what this run came to.
    pub(crate) fn total(&self, cases: u64, elapsed: Duration) -> Total {
        Total {
            runs: self.before.runs,
            cases: self.before.cases.saturating_add(cases),
            seconds: self.before.seconds + elapsed.as_secs_f64(),
        }
    }

    /// Writes it, if that was not done just now.
    pub(crate) fn tell(&mut self, cases: u64, elapsed: Duration) -> Result<(), FuzzError> {
        if self.kept.elapsed() < KEEP_EVERY {
            return Ok(());
        }
        self.kept = Instant::now();
        self.keep(self.total(cases, elapsed))
    }

    /// Writes it at the end.
    pub(crate) fn end(&self, cases: u64, elapsed: Duration) -> Result<Total, FuzzError> {
        let total = self.total(cases, elapsed);
        self.keep(total)?;
        Ok(total)
    }

    fn keep(&self, total: Total) -> Result<(), FuzzError> {
        let failed = |source| FuzzError::Dir {
            path: self.path.clone(),
            source,
        };
        let text = toml::to_string(&total).map_err(|error| failed(io::Error::other(error)))?;
        files::write(&self.path, &text).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_counting_where_the_one_before_ended() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Progress::begin(dir.path()).expect("begun");
        assert_eq!(first.earlier_runs(), 0);
        first.end(7, Duration::from_secs(2)).expect("kept");
        let second = Progress::begin(dir.path()).expect("begun");
        assert_eq!(second.earlier_runs(), 1);
        let total = second.total(3, Duration::from_secs(1));
        assert_eq!((total.runs, total.cases), (2, 10));
        assert!((total.seconds - 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_progress_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(FILE_NAME), "runs = many").expect("written");
        let begun = Progress::begin(dir.path()).map(drop);
        assert!(
            matches!(begun, Err(FuzzError::Progress { .. })),
            "{begun:?}"
        );
    }
}
