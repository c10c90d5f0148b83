//! `mapwitness check`: brings image, host and guest together, and prints what the
//! check found.

use std::ffi::OsString;
use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use harness::report::HostReport;
use harness::{CheckOptions, Driver, Guest, Report, Verdict};
use hosts::{Owner, Probe};
use monitor::VmConfig;
use provision::Progress;

use crate::args::CheckArgs;
use crate::exit::{Exit, chain};
use crate::{images, table};

/// Tells the carried process whether its output reaches a terminal in the end.
const COLOUR_VARIABLE: &str = "MAPWITNESS_COLOUR";

/// Carries out `mapwitness check`.
///
/// The command runs twice: first where it was called, to bring together what is
/// needed, then on the chosen host with the image handed over.
pub fn run(options: &CheckArgs) -> anyhow::Result<Exit> {
    let outcome = match handover::import()? {
        Some(mut images) => match images.remove(&options.driver_variant) {
            Some(image) => return Ok(here(options, &image)),
            None => Err(anyhow!(
                "{} holds no image of driver variant {}",
                handover::VARIABLE,
                options.driver_variant
            )),
        },
        None => carry(options),
    };
    match outcome {
        Ok(status) => std::process::exit(status),
        Err(error) => Ok(not_checked(options, &error)),
    }
}

/// Builds what is missing and runs this very command on the chosen host. Gives
/// its exit status.
fn carry(options: &CheckArgs) -> anyhow::Result<i32> {
    let progress = Progress::stderr();
    let image = images::ensure(&options.driver_variant, &options.image, &progress)?;
    let images = Images::from([(options.driver_variant.clone(), image)]);
    carry_with(&images, options.host, options.image.yes, &progress)
}

/// Runs this very command with these images on the host that is wished for.
///
/// # Errors
/// When there is no such host or it breaks.
pub fn carry_with(
    images: &Images,
    wish: Option<hosts::Wish>,
    yes: bool,
    progress: &Progress,
) -> anyhow::Result<i32> {
    let files = images::files(images);
    let mut environment = images::environment(images)?;
    if std::io::stdout().is_terminal() {
        environment.push((COLOUR_VARIABLE.into(), "1".into()));
    }
    let program = std::env::current_exe().context("find this program's own file")?;
    let argv: Vec<OsString> = [program.into_os_string()]
        .into_iter()
        .chain(std::env::args_os().skip(1))
        .collect();
    let run_options = hosts::Options {
        wish,
        owner: Owner::Current,
        consent: images::consent(yes),
        writable: Vec::new(),
        files,
        environment,
        reruns: 1,
    };
    Ok(hosts::run(&argv, &run_options, progress)?)
}

/// Checks on the KVM that is here and prints the outcome.
fn here(options: &CheckArgs, image: &GuestImage) -> Exit {
    match check(options, image) {
        Ok(report) => print(options, report),
        Err(error) => not_checked(options, &error),
    }
}

fn check(options: &CheckArgs, image: &GuestImage) -> anyhow::Result<Report> {
    let host = host_report(options)?;
    let mut config = VmConfig::new(image.vmlinux.clone(), image.initramfs.clone());
    config.vcpus = options.vcpus;
    config.hpet = true;
    config.echo_console = options.verbose;
    if options.verbose {
        config.log_level = 7;
    }
    let mut guest = Guest::boot(&config)?;
    let check_options = CheckOptions {
        host,
        driver_variant: options.driver_variant.clone(),
        vcpus: options.vcpus,
    };
    let driver = Driver::own(guest.plan());
    Ok(harness::check(&mut guest, &driver, check_options)?)
}

fn host_report(options: &CheckArgs) -> anyhow::Result<HostReport> {
    let choice = hosts::choose(options.host)?;
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

fn print(options: &CheckArgs, mut report: Report) -> Exit {
    let missing = report.missing(&options.require);
    if !missing.is_empty() && report.verdict == Verdict::Pass {
        report.verdict = Verdict::Error;
    }
    if options.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("mapwitness: the report cannot be printed: {error}");
                return Exit::NotChecked;
            }
        }
    } else {
        let colour = std::env::var_os(COLOUR_VARIABLE).is_some();
        print!("{}", table::render(&report, colour));
    }
    for link in &missing {
        eprintln!(
            "mapwitness: link {link} is required and was witnessed for {} of {} pages",
            report.links.get(*link),
            report.pages_checked
        );
    }
    match report.verdict {
        Verdict::Pass => Exit::Pass,
        Verdict::Fail => Exit::Fail,
        Verdict::Error => Exit::NotChecked,
    }
}

/// Says why nothing was checked; with `--json` as a document, too.
fn not_checked(options: &CheckArgs, error: &anyhow::Error) -> Exit {
    if options.json {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        println!(
            "{:#}",
            serde_json::json!({ "verdict": Verdict::Error, "error": causes })
        );
    }
    eprintln!("mapwitness: not checked: {}", chain(error));
    Exit::NotChecked
}
