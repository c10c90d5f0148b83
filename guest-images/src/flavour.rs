//! Flavours of the guest's kernel: one source, built with more or fewer of its own checks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::Fragments;

/// What a guest's kernel is built to tell, besides being right.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// What a driver needs and no more, which boots fastest.
    #[default]
    Plain,
    /// Tells which of its code ran (KCOV), and complains of misuse: DEBUG_VM,
    /// PAGE_TABLE_CHECK, lockdep, KFENCE.
    Kcov,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Kcov];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Kcov => "kcov",
        }
    }

    /// Whether its kernel tells which of its code ran.
    pub const fn has_coverage(self) -> bool {
        matches!(self, Self::Kcov)
    }

    /// Its configuration: the fragments in `kconfig`, then those in the folder of its
    /// name there.
    pub(crate) fn fragments(self, kconfig: &Path) -> Result<Fragments, Error> {
        let mut fragments = Fragments::read(kconfig)?;
        if let Some(own) = self.folder(kconfig) {
            fragments.append(Fragments::read(&own)?);
        }
        Ok(fragments)
    }

    fn folder(self, kconfig: &Path) -> Option<PathBuf> {
        match self {
            Self::Plain => None,
            Self::Kcov => Some(kconfig.join(self.name())),
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No flavour has this name.
#[derive(Debug, thiserror::Error)]
#[error("no kernel flavour {0:?}; there are plain and kcov")]
pub struct UnknownFlavour(String);

impl FromStr for Flavour {
    type Err = UnknownFlavour;

    fn from_str(name: &str) -> Result<Self, UnknownFlavour> {
        let known = Self::ALL.into_iter().find(|one| one.name() == name);
        known.ok_or_else(|| UnknownFlavour(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavours_are_named_as_they_are_parsed() {
        for flavour in Flavour::ALL {
            let parsed: Flavour = flavour.to_string().parse().unwrap();
            assert_eq!(parsed, flavour);
            let told = "bitter".parse::<Flavour>().unwrap_err().to_string();
            assert!(told.contains(flavour.name()), "{told}");
        }
    }

    /// A plain kernel's key is made of its fragments, and must not know of others.
    #[test]
    fn a_flavour_adds_to_the_plain_configuration() {
        let kconfig = crate::workspace::root()
            .unwrap()
            .join("guest-images/kconfig");
        let plain = Flavour::Plain.fragments(&kconfig).unwrap().merged();
        assert_eq!(plain, Fragments::read(&kconfig).unwrap().merged());
        assert!(!plain.contains("CONFIG_KCOV"));
        let kcov = Flavour::Kcov.fragments(&kconfig).unwrap().merged();
        assert!(kcov.starts_with(&plain));
        assert!(kcov.contains("\nCONFIG_KCOV=y\n"));
    }
}
