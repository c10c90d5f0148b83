//! Flavours of the guest's kernel: one source, built with more or fewer of its own checks.

use std::fmt;
use std::path::Path;
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
    /// The same, and every use of kernel memory that is out of bounds or after its end is
    /// told where it happens (KASAN), which costs time and memory.
    Kasan,
}

/// The C compiler of a kernel and its modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// GNU's.
    Gcc,
    /// LLVM's, with its linker and tools.
    Clang,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Kcov, Self::Kasan];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Kcov => "kcov",
            Self::Kasan => "kasan",
        }
    }

    /// Whether its kernel tells which of its code ran.
    pub const fn has_coverage(self) -> bool {
        matches!(self, Self::Kcov | Self::Kasan)
    }

    /// What compiles it.
    pub(crate) const fn compiler(self) -> Compiler {
        match self {
            Self::Plain | Self::Kcov => Compiler::Gcc,
            Self::Kasan => Compiler::Clang,
        }
    }

    /// Its configuration: the fragments in `kconfig`, then those in the folders that
    /// follow.
    pub(crate) fn fragments(self, kconfig: &Path) -> Result<Fragments, Error> {
        let mut fragments = Fragments::read(kconfig)?;
        for folder in self.folders() {
            fragments.append(Fragments::read(&kconfig.join(folder))?);
        }
        Ok(fragments)
    }

    const fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Kcov => &["kcov"],
            Self::Kasan => &["kcov", "kasan"],
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
#[error("no kernel flavour {0:?}; there are plain, kcov and kasan")]
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
        let kasan = Flavour::Kasan.fragments(&kconfig).unwrap().merged();
        assert!(kasan.starts_with(&kcov));
        assert!(kasan.contains("\nCONFIG_KASAN=y\n"));
    }
}
