//! apt-get, as root or through sudo.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

use super::Error;
use crate::command::{self, Ran};
use crate::progress::{Progress, Step};

/// How this process comes to install packages.
pub(super) enum Privilege {
    Root,
    Sudo,
}

impl Privilege {
    /// Root, or sudo; a password is asked for only where there is a terminal.
    pub(super) fn find(progress: &Progress) -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::Root);
        }
        if !command::exists("sudo") {
            return None;
        }
        let silent = command::output_of(Command::new("sudo").args(["-n", "true"])).is_some();
        if silent {
            return Some(Self::Sudo);
        }
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return None;
        }
        progress.suspend(|| {
            let status = Command::new("sudo")
                .arg("--validate")
                .stdout(Stdio::null())
                .status();
            status
                .is_ok_and(|status| status.success())
                .then_some(Self::Sudo)
        })
    }

    fn apt_get(&self) -> Command {
        // sudo drops most of the environment: env comes after it.
        let mut command = match self {
            Self::Root => Command::new("env"),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "env"]);
                sudo
            }
        };
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"])
            // apt-get closes the descriptor of its status to dpkg. Were that standard
            // output, every script of a package that prints a word would fail.
            .args(["sh", "-c", r#"exec "$@" 3>&1 >&2"#, "sh"])
            .args(["apt-get", "--quiet", "--assume-yes"])
            // Another apt may be at work, such as unattended-upgrades at boot.
            .args(["-o", "DPkg::Lock::Timeout=600"])
            .args(["-o", "Dpkg::Use-Pty=0"])
            .args(["-o", "APT::Status-Fd=3"]);
        command
    }
}

/// The command that a person would type.
pub(super) fn by_hand(packages: &[String]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Brings the system's package lists up to date. Sources that fail are no
/// error here: the packages may come from the others.
pub(super) fn update(privilege: &Privilege, progress: &Progress) -> Result<(), Error> {
    let step = progress.step("package lists (apt-get update)", Some(100));
    let ran = run(privilege.apt_get().arg("update"), &step)?;
    if ran.status.success() {
        step.done("up to date");
    } else {
        step.done("not all could be fetched");
    }
    Ok(())
}

/// Installs the packages; when that fails, once more with fresh lists.
pub(super) fn install(
    privilege: &Privilege,
    packages: &[String],
    progress: &Progress,
) -> Result<(), Error> {
    if attempt(privilege, packages, progress)?.status.success() {
        return Ok(());
    }
    // Old lists name files that the mirror has replaced since.
    update(privilege, progress)?;
    let ran = attempt(privilege, packages, progress)?;
    if ran.status.success() {
        return Ok(());
    }
    Err(Error::Install {
        command: by_hand(packages),
        status: ran.status.to_string(),
        output: ran.tail,
    })
}

fn attempt(privilege: &Privilege, packages: &[String], progress: &Progress) -> Result<Ran, Error> {
    let title = format!("packages: {}", packages.join(" "));
    let step = progress.step(title, Some(100));
    let mut command = privilege.apt_get();
    command
        .args(["install", "--no-install-recommends", "--no-remove"])
        .args(packages);
    let ran = run(&mut command, &step)?;
    if ran.status.success() {
        step.done("installed");
    } else {
        step.done("apt-get failed");
    }
    Ok(ran)
}

fn run(command: &mut Command, step: &Step) -> Result<Ran, Error> {
    command::run(command, |line| match Status::parse(line) {
        Some(status) => {
            step.message(status.what);
            step.set_position(status.percent);
            false
        }
        None => true,
    })
    .map_err(|source| Error::Io {
        action: "run apt-get",
        source,
    })
}

/// A line of APT::Status-Fd: `pmstatus:PACKAGE:PERCENT:TEXT` while installing,
/// `dlstatus:NUMBER:PERCENT:TEXT` while downloading.
struct Status<'a> {
    percent: u64,
    what: &'a str,
}

impl<'a> Status<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let rest = line
            .strip_prefix("pmstatus:")
            .or_else(|| line.strip_prefix("dlstatus:"))?;
        // A package name may carry an architecture: `libc6:amd64`.
        let (position, percent) = rest
            .split(':')
            .enumerate()
            .skip(1)
            .find_map(|(at, field)| {
                let whole = field.split('.').next()?;
                field.contains('.').then_some((at, whole.parse().ok()?))
            })?;
        let what = rest.splitn(position + 2, ':').nth(position + 1)?;
        Some(Self { percent, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for apt-get, with all that is put around it.
    #[test]
    fn a_package_script_may_print_and_the_status_still_arrives() {
        let mut command = Privilege::Root.apt_get();
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = words
            .iter()
            .position(|word| word == "apt-get")
            .expect("it is run");
        let script = "echo pmstatus:flex:50.0:here >&3; exec 3>&-; echo printed && echo too >&2";
        command = Command::new("env");
        command.args(&words[..at]).args(["sh", "-c", script]);
        let mut status = Vec::new();
        let ran = command::run(&mut command, |line| {
            status.push(line.to_owned());
            false
        })
        .expect("it runs");
        assert!(ran.status.success());
        assert_eq!(status, ["pmstatus:flex:50.0:here"]);
        assert_eq!(ran.tail, "printed\ntoo");
    }

    #[test]
    fn apt_status_lines_become_progress() {
        let status = Status::parse("pmstatus:flex:28.5714:Unpacking flex (amd64)").unwrap();
        assert_eq!(
            (status.percent, status.what),
            (28, "Unpacking flex (amd64)")
        );
        let status = Status::parse("pmstatus:libc6:amd64:3.0:Setting up: x").unwrap();
        assert_eq!((status.percent, status.what), (3, "Setting up: x"));
        let status = Status::parse("dlstatus:1:9.47:Retrieving file 2 of 9").unwrap();
        assert_eq!((status.percent, status.what), (9, "Retrieving file 2 of 9"));
        for other in [
            "Reading package lists...",
            "pmstatus:",
            "pmstatus:a:b:c",
            "dlstatus:1.5",
        ] {
            assert!(Status::parse(other).is_none(), "{other}");
        }
    }
}
