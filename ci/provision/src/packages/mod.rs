//! Which Debian packages are missing, and installing them with consent.
//!
//! Nothing is installed before it was said what; a person at a terminal is
//! asked. Packages are only ever added: an installation that would remove one
//! is refused.

mod install;
mod need;
mod unpack;

use std::io::{BufRead, IsTerminal, Write};

pub use need::Need;
pub use unpack::unpack;

use crate::cache::{self, Cache};
use crate::progress::Progress;
use install::Privilege;
use need::{Choice, Installed};

/// Whether packages may be installed without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Ask when there is a terminal, unless the environment says `CI=true`.
    Ask,
    /// The person has said yes beforehand (`--yes`).
    Yes,
}

/// Why what is needed is not installed. The texts give the command to run by hand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This is not a Debian system.
    #[error(
        "cannot install packages here: dpkg and apt-get are not found. Install these by your \
         system's own means (names are Debian's), then run again: {packages}"
    )]
    NotDebian {
        /// What is missing.
        packages: String,
    },
    /// The person said no.
    #[error("not installed, as you wished. When you want it: {command}")]
    Declined {
        /// What would install it.
        command: String,
    },
    /// Neither root nor a usable sudo.
    #[error(
        "packages are missing, and this process is neither root nor may it use sudo without a \
         terminal; have somebody run: {command}"
    )]
    NoPrivilege {
        /// What would install it.
        command: String,
    },
    /// apt knows none of the packages that would do.
    #[error(
        "no package source of this machine offers {packages}. On Debian 12 and 13 the plain \
         release, its updates and its security suite (component main) have it: enable them in \
         /etc/apt/sources.list.d, run `apt-get update`, and then: {command}"
    )]
    Unavailable {
        /// What is not to be had, with its alternatives.
        packages: String,
        /// What would install it.
        command: String,
    },
    /// apt-get failed.
    #[error(
        "installing packages failed ({status}). Is the network up? When it is, see what this \
         says, then run again: {command}\n{output}"
    )]
    Install {
        /// What was tried.
        command: String,
        /// How apt-get ended.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// A program could not be started or spoken to.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The turn to install could not be taken.
    #[error("wait for another installation by this user")]
    Turn {
        /// Why not.
        source: cache::Error,
    },
}

/// The needs that are not met on this machine, without changing anything.
///
/// # Errors
/// When dpkg is there but cannot be asked.
pub fn missing(needs: &[Need]) -> Result<Vec<&Need>, Error> {
    let unmet: Vec<&Need> = needs.iter().filter(|need| !need.met_by_files()).collect();
    if unmet.is_empty() {
        return Ok(unmet);
    }
    let installed = Installed::ask(&unmet)?;
    Ok(unmet
        .into_iter()
        .filter(|need| !installed.meet(need))
        .collect())
}

/// Makes sure that every need is met: says what is missing, asks where that is
/// due, and installs it.
///
/// # Errors
/// When something is missing and cannot or may not be installed.
pub fn require(needs: &[Need], consent: Consent, progress: &Progress) -> Result<(), Error> {
    if missing(needs)?.is_empty() {
        return Ok(());
    }
    // One installation at a time; after the wait there may be nothing left to do.
    let turn = Cache::open().and_then(|cache| cache.turn("packages", progress));
    let _turn = turn.map_err(|source| Error::Turn { source })?;
    let missing = missing(needs)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !crate::command::exists("apt-get") || !crate::command::exists("dpkg-query") {
        return Err(Error::NotDebian {
            packages: names(&missing),
        });
    }
    let known = need::choose(&missing);
    let command = install::by_hand(&known.or_first(&missing));
    progress.say(format!("Debian packages are missing: {}", names(&missing)));
    if !agreed(consent, progress)? {
        return Err(Error::Declined { command });
    }
    let privilege = Privilege::find(progress).ok_or_else(|| Error::NoPrivilege {
        command: command.clone(),
    })?;
    let chosen = match known {
        Choice::All(packages) => packages,
        Choice::Unknown(_) => {
            install::update(&privilege, progress)?;
            match need::choose(&missing) {
                Choice::All(packages) => packages,
                Choice::Unknown(packages) => {
                    return Err(Error::Unavailable { packages, command });
                }
            }
        }
    };
    install::install(&privilege, &chosen, progress)
}

fn names(needs: &[&Need]) -> String {
    let names: Vec<String> = needs.iter().map(|need| need.to_string()).collect();
    names.join(", ")
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    GoAhead,
    AskFirst,
}

fn way(consent: Consent, ci: Option<&str>, terminal: bool) -> Way {
    let agreed = consent == Consent::Yes || matches!(ci, Some("true" | "1"));
    if agreed || !terminal {
        Way::GoAhead
    } else {
        Way::AskFirst
    }
}

fn agreed(consent: Consent, progress: &Progress) -> Result<bool, Error> {
    let ci = std::env::var("CI").ok();
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if way(consent, ci.as_deref(), terminal) == Way::GoAhead {
        return Ok(true);
    }
    let answer = progress.suspend(|| {
        let mut stderr = std::io::stderr();
        write!(stderr, "Install them now with apt-get? [Y/n] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer)?;
        // The end of the input is no yes.
        Ok(if read == 0 { "n".to_owned() } else { answer })
    });
    let answer = answer.map_err(|source| Error::Io {
        action: "ask at the terminal whether to install packages",
        source,
    })?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_at_a_terminal_is_asked_and_nobody_else() {
        assert_eq!(way(Consent::Ask, None, true), Way::AskFirst);
        assert_eq!(way(Consent::Ask, Some("false"), true), Way::AskFirst);
        assert_eq!(way(Consent::Ask, None, false), Way::GoAhead);
        assert_eq!(way(Consent::Ask, Some("true"), true), Way::GoAhead);
        assert_eq!(way(Consent::Yes, None, true), Way::GoAhead);
    }

    #[test]
    fn only_yes_and_plain_return_are_yes() {
        for yes in ["\n", "y\n", "Yes\n", " Y "] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["n\n", "no\n", "what?\n", "yn"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }

    #[test]
    fn what_is_met_by_a_file_asks_nobody() {
        let needs = [Need::package("no-such-package-at-all").or_file("/proc/self/exe")];
        require(&needs, Consent::Ask, &Progress::hidden()).unwrap();
    }

    #[test]
    fn errors_give_the_command_to_run() {
        let command = install::by_hand(&["flex".to_owned(), "bison".to_owned()]);
        let error = Error::NoPrivilege { command };
        let text = error.to_string();
        assert!(
            text.contains("apt-get install --no-install-recommends flex bison"),
            "{text}"
        );
    }
}
