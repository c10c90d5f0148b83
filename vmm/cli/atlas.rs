//! `mapwitness atlas`: draws one frame under every address that a kernel has for it.

use anyhow::anyhow;
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use guest_kernel::KernelFacts;
use harness::atlas::{AtlasOptions, AtlasReport, draw};
use harness::{Guest, Verdict};
use monitor::VmConfig;
use provision::Progress;

use crate::args::{self, AtlasArgs};
use crate::carried::{self, Errand};
use crate::exit::{Exit, chain};
use crate::{images, picture};

/// The driver that publishes the addresses.
const VARIANT: &str = "good";

/// Carries out `mapwitness atlas`.
pub fn run(options: &AtlasArgs) -> anyhow::Result<Exit> {
    let outcome = match handover::import()? {
        Some(mut images) => match images.remove(VARIANT) {
            Some(image) => return Ok(here(options, &image)),
            None => Err(anyhow!(
                "{} holds no image of driver variant {VARIANT}",
                handover::VARIABLE
            )),
        },
        None => carry(options),
    };
    match outcome {
        Ok(status) => std::process::exit(status),
        Err(error) => Ok(not_drawn(options, &error)),
    }
}

fn carry(options: &AtlasArgs) -> anyhow::Result<i32> {
    let progress = Progress::stderr();
    let image = images::ensure(VARIANT, &options.image, &progress)?;
    let errand = Errand {
        host: options.host,
        yes: options.image.yes,
        images: Images::from([(VARIANT.to_owned(), image)]),
        folders: Vec::new(),
        environment: Vec::new(),
    };
    carried::carry(errand, &progress)
}

/// Draws on the KVM that is here, and prints.
fn here(options: &AtlasArgs, image: &GuestImage) -> Exit {
    match report(options, image) {
        Ok(report) => print(options, &report),
        Err(error) => not_drawn(options, &error),
    }
}

fn report(options: &AtlasArgs, image: &GuestImage) -> anyhow::Result<AtlasReport> {
    let facts = KernelFacts::read(&image.types, &image.system_map)?;
    let mut config = VmConfig::new(image.vmlinux.clone(), image.initramfs.clone());
    config.echo_console = options.verbose;
    let atlas_options = AtlasOptions {
        host: carried::host_report(options.host)?,
        vcpus: config.vcpus,
    };
    let mut guest = Guest::start(&config, args::start(options.no_snapshot))?;
    guest.load_driver()?;
    Ok(draw(&mut guest, &facts, atlas_options)?)
}

fn print(options: &AtlasArgs, report: &AtlasReport) -> Exit {
    if options.json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("mapwitness: the atlas cannot be printed: {error}");
                return Exit::NotChecked;
            }
        }
    } else {
        print!("{}", picture::render(report));
    }
    match report.verdict {
        Verdict::Pass => Exit::Pass,
        Verdict::Fail => Exit::Fail,
        Verdict::Error => Exit::NotChecked,
    }
}

/// Says why nothing was drawn; with `--json` as a document, too.
fn not_drawn(options: &AtlasArgs, error: &anyhow::Error) -> Exit {
    if options.json {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        println!(
            "{:#}",
            serde_json::json!({ "verdict": Verdict::Error, "error": causes })
        );
    }
    eprintln!("mapwitness: not drawn: {}", chain(error));
    Exit::NotChecked
}
