//! Commands that boot guests run twice: first where they were called, to bring together
//! what is needed, then on the chosen host with the images handed over.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use guest_images::handover::Images;
use harness::report::HostReport;
use hosts::{Owner, Probe, Wish};
use provision::Progress;

use crate::images;

/// Tells the carried process whether its output reaches a terminal in the end.
const COLOUR_VARIABLE: &str = "MAPWITNESS_COLOUR";

/// What a carried process is given.
pub struct Errand {
    /// The host to run on.
    pub host: Option<Wish>,
    /// Whether packages may be installed without asking.
    pub yes: bool,
    /// The images that it boots.
    pub images: Images,
    /// Folders that it writes to, or reads from although a software host has others in
    /// their place.
    pub folders: Vec<PathBuf>,
    /// Variables besides those of the images.
    pub environment: Vec<(OsString, OsString)>,
}

/// Runs this very command on the chosen host. Gives its exit status.
pub fn carry(errand: Errand, progress: &Progress) -> anyhow::Result<i32> {
    let files = images::files(&errand.images);
    let mut environment = images::environment(&errand.images)?;
    environment.extend(errand.environment);
    if std::io::stdout().is_terminal() {
        environment.push((COLOUR_VARIABLE.into(), "1".into()));
    }
    let program = std::env::current_exe().context("find this program's own file")?;
    let argv: Vec<OsString> = [program.into_os_string()]
        .into_iter()
        .chain(std::env::args_os().skip(1))
        .collect();
    let options = hosts::Options {
        wish: errand.host,
        owner: Owner::Current,
        consent: images::consent(errand.yes),
        writable: errand.folders,
        files,
        debugger: None,
        environment,
        is_test_program: false,
        reruns: 1,
    };
    Ok(hosts::run(&argv, &options, progress)?)
}

/// Whether the output of this process reaches a terminal.
pub fn colour() -> bool {
    std::env::var_os(COLOUR_VARIABLE).is_some()
}

/// The host on which this process runs, for a report.
pub fn host_report(wish: Option<Wish>) -> anyhow::Result<HostReport> {
    let choice = hosts::choose(wish)?;
    let second_level = match hosts::probe() {
        Probe::Usable { second_level, .. } => second_level.to_string(),
        other => return Err(anyhow!("KVM cannot run a guest here: {other}")),
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(HostReport {
        kind: choice.inside.unwrap_or(choice.kind).to_string(),
        kernel: kernel.trim_end().to_owned(),
        second_level,
        // The check finds it out.
        second_level_levels: None,
    })
}
