//! What is needed, what is installed, and what can be had.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Error;
use crate::command;

/// Something that Debian packages bring.
///
/// Releases differ in how they cut their packages, so a need can have
/// alternatives; the first one that the release has is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    alternatives: Vec<Vec<String>>,
    files: Vec<PathBuf>,
    programs: Vec<String>,
}

impl Need {
    /// One package.
    pub fn package(name: &str) -> Self {
        Self::packages(&[name])
    }

    /// Several packages that are of use only together.
    pub fn packages(names: &[&str]) -> Self {
        Self {
            alternatives: vec![names.iter().map(|&name| name.to_owned()).collect()],
            files: Vec::new(),
            programs: Vec::new(),
        }
    }

    /// Other packages that would do as well, less wanted than those before.
    #[must_use]
    pub fn or(mut self, names: &[&str]) -> Self {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.alternatives.push(names);
        self
    }

    /// The need is met exactly when one of the files and programs given is
    /// there, whatever is installed: for packages that hold the file in one
    /// release and not in another, and for systems other than Debian.
    #[must_use]
    pub fn or_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// As [`Need::or_file`], for a program in PATH.
    #[must_use]
    pub fn or_program(mut self, name: &str) -> Self {
        self.programs.push(name.to_owned());
        self
    }

    pub(super) fn met_by_files(&self) -> bool {
        self.files.iter().any(|file| file.exists())
            || self.programs.iter().any(|name| command::exists(name))
    }

    fn judged_by_files(&self) -> bool {
        !self.files.is_empty() || !self.programs.is_empty()
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alternatives: Vec<String> = self
            .alternatives
            .iter()
            .map(|packages| packages.join(" with "))
            .collect();
        write!(f, "{}", alternatives.join(" (or ")).and_then(|()| {
            let close = ")".repeat(alternatives.len().saturating_sub(1));
            write!(f, "{close}")
        })
    }
}

/// The packages that dpkg has installed, of those that were asked for.
pub(super) struct Installed(BTreeSet<String>);

impl Installed {
    pub(super) fn ask(needs: &[&Need]) -> Result<Self, Error> {
        if !command::exists("dpkg-query") {
            return Ok(Self(BTreeSet::new()));
        }
        let names = names_in(needs);
        // Unknown names make it exit with 1; the known ones are printed all the same.
        let output = Command::new("dpkg-query")
            .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
            .args(names)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Io {
                action: "ask dpkg-query which packages are installed",
                source,
            })?;
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    fn parse(listing: &str) -> Self {
        let installed = listing.lines().filter_map(|line| {
            let (name, status) = line.split_once(' ')?;
            (status == "installed").then(|| name.to_owned())
        });
        Self(installed.collect())
    }

    pub(super) fn meet(&self, need: &Need) -> bool {
        !need.judged_by_files()
            && need
                .alternatives
                .iter()
                .any(|packages| packages.iter().all(|name| self.0.contains(name)))
    }
}

fn names_in<'a>(needs: &[&'a Need]) -> BTreeSet<&'a String> {
    let packages = needs.iter().flat_map(|need| &need.alternatives);
    packages.flatten().collect()
}

/// What to install for a set of needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// These packages, all of which apt can get.
    All(Vec<String>),
    /// For some needs apt can get nothing: these.
    Unknown(String),
}

impl Choice {
    /// The packages chosen, or else the first alternative of each need.
    pub(super) fn or_first(&self, needs: &[&Need]) -> Vec<String> {
        match self {
            Self::All(packages) => packages.clone(),
            Self::Unknown(_) => needs
                .iter()
                .filter_map(|need| need.alternatives.first())
                .flatten()
                .cloned()
                .collect(),
        }
    }
}

/// Chooses for each need the first alternative that apt can get.
pub(super) fn choose(needs: &[&Need]) -> Choice {
    let names = names_in(needs);
    let mut policy = Command::new("apt-cache");
    policy.env("LC_ALL", "C").arg("policy").args(names);
    let listing = command::output_of(&mut policy).unwrap_or_default();
    choose_from(needs, &candidates(&listing))
}

fn choose_from(needs: &[&Need], available: &BTreeSet<String>) -> Choice {
    let mut chosen = BTreeSet::new();
    let mut unknown = Vec::new();
    for need in needs {
        let first = need
            .alternatives
            .iter()
            .find(|packages| packages.iter().all(|name| available.contains(name)));
        match first {
            Some(packages) => chosen.extend(packages.iter().cloned()),
            None => unknown.push(need.to_string()),
        }
    }
    if unknown.is_empty() {
        Choice::All(chosen.into_iter().collect())
    } else {
        Choice::Unknown(unknown.join(", "))
    }
}

/// Names with a candidate in what `apt-cache policy` prints.
fn candidates(listing: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut current = None;
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            current = Some(name);
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            found.extend(current.map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_first_alternative_that_the_release_has_is_chosen() {
        let file = Need::package("virtiofsd").or(&["qemu-system-common"]);
        let rust = Need::packages(&["rustc-web", "rust-web-src"]).or(&["rustc", "rust-src"]);
        let needs = [&file, &rust];
        let old = set(&["qemu-system-common", "rustc-web", "rust-web-src", "rustc"]);
        let chosen = ["qemu-system-common", "rust-web-src", "rustc-web"];
        assert_eq!(
            choose_from(&needs, &old),
            Choice::All(chosen.map(str::to_owned).into())
        );
        let new = set(&[
            "virtiofsd",
            "qemu-system-common",
            "rustc-web",
            "rustc",
            "rust-src",
        ]);
        let chosen = ["rust-src", "rustc", "virtiofsd"];
        assert_eq!(
            choose_from(&needs, &new),
            Choice::All(chosen.map(str::to_owned).into())
        );
        assert_eq!(
            choose_from(&needs, &set(&["virtiofsd"])),
            Choice::Unknown("rustc-web with rust-web-src (or rustc with rust-src)".to_owned())
        );
    }

    #[test]
    fn removed_packages_with_configuration_left_are_not_installed() {
        let installed = Installed::parse("flex installed\nbison config-files\nmake installed\n");
        assert!(installed.meet(&Need::package("flex")));
        assert!(!installed.meet(&Need::package("bison")));
        assert!(!installed.meet(&Need::packages(&["flex", "bison"])));
        assert!(installed.meet(&Need::package("bison").or(&["make"])));
    }

    #[test]
    fn a_need_with_a_file_is_judged_by_it_alone() {
        let installed = Installed::parse("make installed\n");
        assert!(!installed.meet(&Need::package("make").or_file("/nowhere")));
        assert!(Need::package("make").or_program("sh").met_by_files());
        assert!(!Need::package("make").or_file("/nowhere").met_by_files());
    }

    #[test]
    fn packages_without_a_candidate_are_not_to_be_had() {
        let listing = "flex:\n  Installed: (none)\n  Candidate: 2.6.4-8.2\n  Version table:\n     \
                       2.6.4-8.2 500\nvirtiofsd:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidates(listing), set(&["flex"]));
    }
}
