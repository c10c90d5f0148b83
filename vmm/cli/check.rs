//! `mapwitness check`: brings image, host and guest together, and prints what the
//! check found.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use contract::Contract;
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use guest_kernel::KernelFacts;
use harness::{CheckOptions, Guest, Report, Verdict};
use monitor::VmConfig;
use provision::Progress;
use witness::timeline;

use crate::args::{self, CheckArgs};
use crate::carried::{self, Errand};
use crate::exit::{Exit, chain};
use crate::subject::{self, Subject};
use crate::{images, table};

/// Carries out `mapwitness check`.
pub fn run(options: &CheckArgs) -> anyhow::Result<Exit> {
    let outcome = match handover::import()? {
        Some(mut images) => match images.remove(&options.driver_variant) {
            Some(image) => return Ok(here(options, image)),
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
    // What is wrong with a contract is told before anything is built.
    if let Some(path) = &options.contract {
        Contract::read(path)?;
    }
    let mut image = images::ensure(&options.driver_variant, &options.image, &progress)?;
    let subject = Subject::of(brought(options), &mut image, &progress)?;
    let images = Images::from([(options.driver_variant.clone(), image)]);
    let environment = subject.iter().map(Subject::environment);
    let errand = Errand {
        host: options.host,
        yes: options.image.yes,
        images,
        folders: Vec::new(),
        environment: environment.collect::<Result<_, _>>()?,
    };
    carried::carry(errand, &progress)
}

fn brought(options: &CheckArgs) -> (&[PathBuf], Option<&Path>) {
    (&options.module, options.contract.as_deref())
}

/// Checks on the KVM that is here and prints the outcome.
fn here(options: &CheckArgs, image: GuestImage) -> Exit {
    match check(options, image) {
        Ok(report) => print(options, report),
        Err(error) => not_checked(options, &error),
    }
}

fn check(options: &CheckArgs, mut image: GuestImage) -> anyhow::Result<Report> {
    let subject = Subject::of(brought(options), &mut image, &Progress::hidden())?;
    let host = carried::host_report(options.host)?;
    let facts = KernelFacts::read(&image.types, &image.system_map)?;
    let mut config = VmConfig::new(image.vmlinux, image.initramfs);
    config.vcpus = options.vcpus;
    config.hpet = true;
    config.echo_console = options.verbose;
    if options.verbose {
        config.log_level = 7;
    }
    if let Some(subject) = &subject {
        subject.equip(&mut config);
    }
    let mut guest = Guest::start(&config, args::start(options.no_snapshot))?;
    let check_options = CheckOptions {
        host,
        driver_variant: match &subject {
            Some(subject) => subject.name().to_owned(),
            None => options.driver_variant.clone(),
        },
        vcpus: options.vcpus,
        only: options.files.clone(),
        timeline: options.timeline,
    };
    let driver = subject::driver(subject.as_ref(), &guest);
    Ok(harness::check(&mut guest, &driver, &facts, check_options)?)
}

fn print(options: &CheckArgs, mut report: Report) -> Exit {
    let missing = report.missing(&options.require);
    let untold = options.timeline && !tells_when(&report);
    if (untold || !missing.is_empty()) && report.verdict == Verdict::Pass {
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
        if options.timeline {
            print!("{}", table::courses(&report));
        }
        print!("{}", table::render(&report, carried::colour()));
    }
    if untold {
        eprintln!("mapwitness: the timeline is required and was not witnessed");
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

/// Whether the timeline is complete.
fn tells_when(report: &Report) -> bool {
    let timeline = report.timeline.as_ref();
    timeline.is_some_and(|timeline| timeline.verdict != timeline::Verdict::Unwitnessed)
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
