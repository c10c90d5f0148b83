//! Packages that cannot be installed beside those that are: fetched and unpacked
//! instead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;
use crate::command;
use crate::progress::Progress;

/// Where packages lie, below the folder that they are unpacked in, until they are.
const DOWNLOADS: &str = ".download";

/// Unpacks `names` and what they need and this machine lacks below `into`. Neither the
/// system nor the database of its packages is changed, and no right is needed; apt
/// checks what it fetches as ever.
///
/// # Errors
/// When apt does not know the packages, or one of them cannot be fetched or unpacked.
pub fn unpack(names: &[&str], into: &Path, progress: &Progress) -> Result<(), Error> {
    let title = format!("fetch and unpack {}", names.join(" "));
    let planned = planned(names)?;
    let step = progress.step(title, Some(planned.len() as u64));
    for (done, package) in planned.iter().enumerate() {
        step.message(package.clone());
        let file = download(package, into)?;
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-x").arg(&file).arg(into);
        run(extract, package)?;
        fs::remove_file(&file).map_err(io("remove an unpacked package"))?;
        step.set_position(done as u64 + 1);
    }
    fs::remove_dir(into.join(DOWNLOADS)).map_err(io("remove the folder of downloads"))?;
    step.done(format!("{} packages", planned.len()));
    Ok(())
}

/// What apt would install, each as `NAME:ARCHITECTURE=VERSION`.
fn planned(names: &[&str]) -> Result<Vec<String>, Error> {
    let mut simulate = apt_get();
    simulate
        .args(["--simulate", "install", "--no-install-recommends"])
        .args(names);
    let mut planned = Vec::new();
    let ran = command::run(&mut simulate, |line| {
        planned.extend(parse_planned(line));
        true
    })
    .map_err(io("run apt-get"))?;
    if ran.status.success() && !planned.is_empty() {
        return Ok(planned);
    }
    Err(failed(&simulate, &ran))
}

/// `Inst NAME [INSTALLED] (VERSION SUITE [ARCHITECTURE])`; what is installed and stands
/// in brackets is missing for new packages. A package that is there already, in another
/// version, does as well as the new one.
fn parse_planned(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    if rest.starts_with('[') {
        return None;
    }
    let version = rest.strip_prefix('(')?.split(' ').next()?;
    Some(format!("{name}={version}"))
}

/// Downloads one package into a folder and gives its file.
fn download(package: &str, into: &Path) -> Result<PathBuf, Error> {
    let folder = into.join(DOWNLOADS);
    fs::create_dir_all(&folder).map_err(io("make a folder for downloads"))?;
    let mut fetch = apt_get();
    fetch.current_dir(&folder).args(["download", package]);
    run(fetch, package)?;
    let files = fs::read_dir(&folder).map_err(io("look at what was downloaded"))?;
    files
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| Error::Install {
            command: format!("apt-get download {package}"),
            status: "no file".to_owned(),
            output: String::new(),
        })
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("LC_ALL", "C.UTF-8")
        .arg("--quiet")
        // The user that apt downloads as cannot write to this one's folders.
        .args(["-o", "APT::Sandbox::User="]);
    command
}

fn run(mut command: Command, package: &str) -> Result<(), Error> {
    let ran = command::run(&mut command, |_| true).map_err(io("fetch or unpack a package"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(Error::Install {
        command: format!("apt-get download {package}"),
        status: ran.status.to_string(),
        output: ran.tail,
    })
}

fn failed(command: &Command, ran: &command::Ran) -> Error {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    Error::Install {
        command: format!("apt-get {}", words.join(" ")),
        status: ran.status.to_string(),
        output: ran.tail.clone(),
    }
}

fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_machine_lacks_is_fetched() {
        let new = "Inst libslirp0 (4.7.0-1 Debian:12.15/oldstable [amd64])";
        assert_eq!(parse_planned(new).as_deref(), Some("libslirp0=4.7.0-1"));
        let newer = "Inst liblzma5 [5.4.1-0.2] (5.4.1-1 Debian:12.15/oldstable [amd64])";
        assert_eq!(parse_planned(newer), None);
        for other in [
            "Remv qemu-utils [1:10]",
            "Conf libslirp0 (4.7.0-1)",
            "Inst",
            "",
        ] {
            assert_eq!(parse_planned(other), None, "{other}");
        }
    }

    #[test]
    fn a_package_that_apt_does_not_know_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let error = unpack(
            &["no-such-package-at-all"],
            folder.path(),
            &Progress::hidden(),
        )
        .expect_err("unknown");
        assert!(
            matches!(error, Error::Install { .. } | Error::Io { .. }),
            "{error}"
        );
    }
}
