//! What was found, as a file for people and for [`Finding::case`].

mod error;

use std::fs;
use std::path::Path;

use harness::model::{Call, Operation};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::files;
use crate::ran::Found;
use crate::verdict::{Cause, Verdict, WrongPage};
use crate::world::World;

pub use error::FindingError;

/// Larger files are no findings.
const MOST_LEN_BYTES: u64 = 1 << 20;

/// Something that is wrong with a driver, and how to see it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Why, as far as that can be told.
    #[serde(flatten)]
    pub cause: Cause,
    /// What had to be.
    pub expected: String,
    /// What was.
    pub found: String,
    /// Place of the operation at or after which it was.
    pub step: usize,
    /// Names of the files that operations open, by their numbers there.
    pub files: Vec<String>,
    /// Names of the windows that operations revoke and restore, by their numbers there.
    pub windows: Vec<String>,
    /// What is to be done.
    pub operations: Vec<Operation>,
    /// The first wrong page, if it is a page that is wrong.
    pub page: Option<WrongPage>,
    /// Where it was found.
    pub about: About,
}

/// Where something was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The driver, or its variant.
    pub driver: String,
    /// Seed of the run.
    pub seed: u64,
    /// Cases of the run until then.
    pub cases: u64,
    /// Version of mapwitness.
    pub mapwitness: String,
    /// Kernel of the guest.
    pub guest_kernel: String,
    /// Kernel of the host.
    pub host_kernel: String,
}

impl Finding {
    /// What was found by doing `case`.
    pub fn of(world: &World, case: &Case, found: Found, about: About) -> Self {
        let (mut files, mut windows) = (Vec::new(), Vec::new());
        let mut operations = case.operations.clone();
        for operation in &mut operations {
            match &mut operation.call {
                Call::Open { file, .. } => {
                    let name = world.files.get(*file).map(|it| it.name.clone());
                    *file = listed(&mut files, name.unwrap_or_default());
                }
                Call::Revoke { window } | Call::Restore { window } | Call::Offer { window, .. } => {
                    let name = world.plan.windows.get(*window).map(|it| it.name.clone());
                    *window = listed(&mut windows, name.unwrap_or_default());
                }
                _ => {}
            }
        }
        let Verdict {
            by: _,
            expected,
            found: was,
            page,
        } = found.verdict;
        Self {
            cause: found.cause,
            expected,
            found: was,
            step: found.step,
            files,
            windows,
            operations,
            page,
            about,
        }
    }

    /// The case, by the numbers that files and windows have in `world`.
    ///
    /// # Errors
    /// [`FindingError::Unknown`], [`FindingError::Unlisted`], [`FindingError::Case`].
    pub fn case(&self, world: &World) -> Result<Case, FindingError> {
        let here = |list: &[String], known: Vec<String>, index: usize, number: usize| {
            let name = list.get(number);
            let name = name.ok_or(FindingError::Unlisted { index, number })?;
            let place = known.iter().position(|one| one == name);
            place.ok_or_else(|| FindingError::Unknown {
                name: name.clone(),
                known,
            })
        };
        let mut operations = self.operations.clone();
        for (index, operation) in operations.iter_mut().enumerate() {
            match &mut operation.call {
                Call::Open { file, .. } => {
                    let known = world.files.iter().map(|it| it.name.clone()).collect();
                    *file = here(&self.files, known, index, *file)?;
                }
                Call::Offer { window, .. } => {
                    let known = world.plan.windows.iter().map(|it| it.name.clone());
                    *window = here(&self.windows, known.collect(), index, *window)?;
                }
                Call::Revoke { window } | Call::Restore { window } => {
                    let windows = world.revocable.iter();
                    let windows = windows.filter_map(|at| world.plan.windows.get(*at));
                    // All are listed, so that places are numbers.
                    let all = world.plan.windows.iter().map(|it| it.name.clone());
                    let number = here(&self.windows, all.collect(), index, *window)?;
                    if !world.revocable.contains(&number) {
                        return Err(FindingError::Unknown {
                            name: format!("a way to revoke window {number}"),
                            known: windows.map(|it| it.name.clone()).collect(),
                        });
                    }
                    *window = number;
                }
                _ => {}
            }
        }
        Ok(Case { operations }.checked()?)
    }

    /// As text, an operation on each line.
    ///
    /// # Errors
    /// [`FindingError::Text`] when a number has no place in the format.
    pub fn text(&self) -> Result<String, FindingError> {
        // Simple values, then the operations, then tables: the format wants it so.
        let mut rest = self.clone();
        let operations = Case {
            operations: std::mem::take(&mut rest.operations),
        };
        let text = toml::to_string_pretty(&rest)?;
        let empty = "operations = []\n";
        Ok(text.replacen(empty, &operations.text()?, 1))
    }

    /// The finding in a file.
    ///
    /// # Errors
    /// [`FindingError`].
    pub fn read(path: &Path) -> Result<Self, FindingError> {
        let io = |source| FindingError::Io {
            path: path.to_owned(),
            source,
        };
        let len_bytes = fs::metadata(path).map_err(io)?.len();
        if len_bytes > MOST_LEN_BYTES {
            return Err(FindingError::Large {
                path: path.to_owned(),
                len_bytes,
            });
        }
        let text = fs::read_to_string(path).map_err(io)?;
        toml::from_str(&text).map_err(|source| FindingError::Form {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Writes it to a file, whole or not at all.
    ///
    /// # Errors
    /// [`FindingError`].
    pub fn write(&self, path: &Path) -> Result<(), FindingError> {
        files::write(path, &self.text()?).map_err(|source| FindingError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

/// Place of `name` in a list, which has it then.
fn listed(list: &mut Vec<String>, name: String) -> usize {
    list.iter().position(|one| *one == name).unwrap_or_else(|| {
        list.push(name);
        list.len() - 1
    })
}

#[cfg(test)]
mod tests;
