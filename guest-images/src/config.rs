//! The kernel's configuration: small fragments, each option with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The fragments of a folder, in the order of their names.
#[derive(Clone, Debug)]
pub struct Fragments {
    files: Vec<(String, String)>,
}

/// What a fragment asks of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    /// The value as `.config` writes it; none for "is not set".
    value: Option<String>,
    fragment: String,
}

impl Fragments {
    /// Reads every `*.config` in `dir`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let listing = fs::read_dir(dir).map_err(Error::at("list", dir))?;
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in listing {
            let path = entry.map_err(Error::at("list", dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "config")
            {
                paths.push(path);
            }
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.push((name.into_owned(), text));
        }
        Ok(Self { files })
    }

    /// Has `others` follow these.
    pub fn append(&mut self, others: Self) {
        self.files.extend(others.files);
    }

    /// All fragments as one, for `KCONFIG_ALLCONFIG`.
    pub fn merged(&self) -> String {
        let texts: Vec<&str> = self.files.iter().map(|(_, text)| text.as_str()).collect();
        texts.join("\n")
    }

    /// Checks that `.config` is what was asked for: a dependency that is not met
    /// drops an option without a word.
    ///
    /// # Errors
    /// Names every option that came out differently, with its fragment.
    pub fn check(&self, dot_config: &str) -> Result<(), Error> {
        let is: BTreeMap<&str, &str> = dot_config
            .lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .filter_map(|line| line.split_once('='))
            .collect();
        let differing: Vec<String> = self
            .wishes()
            .into_iter()
            .filter_map(|(option, wish)| {
                let found = is.get(option.as_str()).copied();
                (found != wish.value.as_deref()).then(|| {
                    let asked = wish.value.as_deref().unwrap_or("not set");
                    let found = found.unwrap_or("not set");
                    format!("{option} is {found}, {} asks for {asked}", wish.fragment)
                })
            })
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(Error::DroppedOption {
            details: differing.join("; "),
        })
    }

    /// As for kconfig itself, the last word on an option counts.
    fn wishes(&self) -> BTreeMap<String, Wish> {
        let mut wishes = BTreeMap::new();
        for (fragment, text) in &self.files {
            for (option, value) in text.lines().filter_map(parse_line) {
                let fragment = fragment.clone();
                wishes.insert(option.to_owned(), Wish { value, fragment });
            }
        }
        wishes
    }
}

fn parse_line(line: &str) -> Option<(&str, Option<String>)> {
    if let Some(rest) = line.strip_prefix("# CONFIG_") {
        let name = rest.strip_suffix(" is not set")?;
        return Some((line.get(2..2 + "CONFIG_".len() + name.len())?, None));
    }
    let (option, value) = line.split_once('=')?;
    let value = (value != "n").then(|| value.to_owned());
    option.starts_with("CONFIG_").then_some((option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(texts: &[&str]) -> Fragments {
        let files = texts.iter().enumerate();
        Fragments {
            files: files
                .map(|(n, text)| (format!("{n}.config"), (*text).to_owned()))
                .collect(),
        }
    }

    const ASKED: &str = "# why\nCONFIG_RUST=y\nCONFIG_NR_CPUS=8\n# CONFIG_SLUB_TINY is not set\n";

    #[test]
    fn what_was_asked_for_passes() {
        let config = "CONFIG_RUST=y\nCONFIG_NR_CPUS=8\n# CONFIG_SLUB_TINY is not set\nCONFIG_X=y\n";
        fragments(&[ASKED]).check(config).unwrap();
        fragments(&[ASKED])
            .check("CONFIG_NR_CPUS=8\nCONFIG_RUST=y\n")
            .unwrap();
    }

    #[test]
    fn every_other_outcome_is_named_with_its_fragment() {
        let text = |config: &str| {
            fragments(&["", ASKED])
                .check(config)
                .unwrap_err()
                .to_string()
        };
        let dropped = text("# CONFIG_RUST is not set\nCONFIG_NR_CPUS=8\n");
        assert!(
            dropped.contains("CONFIG_RUST is not set, 1.config asks for y"),
            "{dropped}"
        );
        assert!(!dropped.contains("NR_CPUS"), "{dropped}");
        let changed = text("CONFIG_RUST=m\nCONFIG_NR_CPUS=64\n");
        assert!(changed.contains("CONFIG_RUST is m"), "{changed}");
        assert!(
            changed.contains("CONFIG_NR_CPUS is 64, 1.config asks for 8"),
            "{changed}"
        );
        let turned_on = text("CONFIG_RUST=y\nCONFIG_NR_CPUS=8\nCONFIG_SLUB_TINY=y\n");
        assert!(turned_on.contains("CONFIG_SLUB_TINY is y, 1.config asks for not set"));
    }

    #[test]
    fn the_last_fragment_has_the_last_word() {
        let both = fragments(&["CONFIG_A=y\nCONFIG_B=n\n", "# CONFIG_A is not set\n"]);
        both.check("").unwrap();
        assert!(both.check("CONFIG_A=y\n").is_err());
        assert!(both.check("CONFIG_B=y\n").is_err());
    }
}
