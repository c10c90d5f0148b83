//! `mapwitness check`: brings image, host and guest together, and prints what the
//! check found.

use anyhow::anyhow;
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use harness::{CheckOptions, Driver, Guest, Report, Verdict};
use monitor::VmConfig;
use provision::Progress;

use crate::args::CheckArgs;
use crate::carried::{self, Errand};
use crate::exit::{Exit, chain};
use crate::{images, table};

/// Carries out `mapwitness check`.
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
    let errand = Errand {
        host: options.host,
        yes: options.image.yes,
        images,
        environment: Vec::new(),
    };
    carried::carry(errand, &progress)
}

/// Checks on the KVM that is here and prints the outcome.
fn here(options: &CheckArgs, image: &GuestImage) -> Exit {
    match check(options, image) {
        Ok(report) => print(options, report),
        Err(error) => not_checked(options, &error),
    }
}

fn check(options: &CheckArgs, image: &GuestImage) -> anyhow::Result<Report> {
    let host = carried::host_report(options.host)?;
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
        print!("{}", table::render(&report, carried::colour()));
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
