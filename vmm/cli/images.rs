//! Guest images: what `mapwitness images` shows and does, and what other commands
//! hand to the processes that they carry.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use guest_images::handover::{self, Images, Modules};
use guest_images::{Flavour, GuestImage, Request, workspace};
use hosts::Prepared;
use provision::cache::Keep;
use provision::{Consent, Progress};

use crate::args::{ImageArgs, ImagesCommand};
use crate::exit::Exit;

/// What the tests boot: variants of the driver, each with the kernel's flavour.
const TESTED: [(&str, Flavour); 6] = [
    ("good", Flavour::Plain),
    ("off-by-one", Flavour::Plain),
    ("wrong-offset", Flavour::Plain),
    ("any", Flavour::Plain),
    ("good", Flavour::Kcov),
    ("good", Flavour::Kasan),
];

/// Folders below tests/ of the modules that the tests load, each with the kernel's flavour.
const TESTED_MODULES: [(&str, Flavour); 7] = [
    ("examples/c-driver", Flavour::Plain),
    ("examples/c-driver-broken", Flavour::Plain),
    ("examples/rust-driver", Flavour::Plain),
    ("examples/rust-driver-broken", Flavour::Plain),
    ("complainer", Flavour::Plain),
    ("complainer", Flavour::Kcov),
    ("complainer", Flavour::Kasan),
];

/// Whether tests that run with these arguments need this. A kernel of flavour kasan takes so
/// long to build that those which boot it run only when asked for.
fn is_needed(flavour: Flavour, arguments: &[OsString]) -> bool {
    let are_asked_for = || {
        let asks = |it: &OsString| it == "--ignored" || it == "--include-ignored";
        arguments.iter().any(asks)
    };
    flavour != Flavour::Kasan || are_asked_for()
}

/// Carries out `mapwitness images`.
pub fn run(command: &ImagesCommand) -> anyhow::Result<Exit> {
    match command {
        ImagesCommand::List => list()?,
        ImagesCommand::Build {
            driver_variant,
            image,
        } => {
            let built = ensure(driver_variant, image, &Progress::stderr())?;
            println!("kernel {} {}", built.release, built.vmlinux.display());
            println!("config {}", built.config.display());
            println!("initramfs {}", built.initramfs.display());
        }
        ImagesCommand::Module { dir, out, image } => module(dir, out.as_deref(), image)?,
        ImagesCommand::Clean { older_than } => clean(*older_than)?,
    }
    Ok(Exit::Pass)
}

/// The image that the options ask for.
pub fn ensure(
    driver_variant: &str,
    options: &ImageArgs,
    progress: &Progress,
) -> Result<GuestImage, guest_images::Error> {
    let request = Request {
        kernel_src: options.kernel_src.clone(),
        flavour: options.flavour,
        driver_variant: driver_variant.to_owned(),
    };
    guest_images::ensure(&request, consent(options.yes), progress)
}

/// Whether packages may be installed without asking.
pub fn consent(yes: bool) -> Consent {
    if yes { Consent::Yes } else { Consent::Ask }
}

/// What a carried process is told of the images.
pub fn environment(images: &Images) -> Result<Vec<(OsString, OsString)>, handover::NotImages> {
    let value = handover::export(images)?;
    Ok(vec![(handover::VARIABLE.into(), value.into())])
}

/// The files of images that a carried process reads.
pub fn files(images: &Images) -> Vec<PathBuf> {
    let all = images.values();
    all.flat_map(|image| {
        let always = [
            image.vmlinux.clone(),
            image.initramfs.clone(),
            image.system_map.clone(),
            image.types.clone(),
        ];
        always.into_iter().chain(image.mm_text.clone())
    })
    .collect()
}

/// Images for the integration tests that run with these arguments, which boot them without
/// building anything.
pub fn for_tests(arguments: &[OsString], progress: &Progress) -> Result<Prepared, Box<dyn Error>> {
    let mut images = Images::new();
    let needed = |flavour| is_needed(flavour, arguments);
    for (variant, flavour) in TESTED.into_iter().filter(|it| needed(it.1)) {
        let options = ImageArgs {
            kernel_src: None,
            flavour,
            yes: false,
        };
        let image = ensure(variant, &options, progress)?;
        images.insert(handover::name(variant, flavour), image);
    }
    let mut prepared = Prepared {
        environment: environment(&images)?,
        files: files(&images),
    };
    let folders = TESTED_MODULES.into_iter().filter(|it| needed(it.1));
    add_modules(&mut prepared, folders, &images, progress)?;
    Ok(prepared)
}

/// Builds the modules in these folders, each by the name of its folder, and those of the
/// gallery by their own.
fn add_modules(
    prepared: &mut Prepared,
    folders: impl Iterator<Item = (&'static str, Flavour)>,
    images: &Images,
    progress: &Progress,
) -> Result<(), Box<dyn Error>> {
    let tests = workspace::root()?.join("tests");
    let mut modules = Modules::new();
    for (folder, flavour) in folders {
        let dir = tests.join(folder);
        let image = images
            .get(&handover::name("good", flavour))
            .ok_or_else(|| format!("no image of flavour {flavour} for {folder}"))?;
        let built = guest_images::ensure_modules(&dir, image, progress)?;
        let name = folder.rsplit('/').next().unwrap_or(folder);
        let name = handover::name(name, flavour);
        modules.extend(built.into_iter().map(|module| (name.clone(), module)));
        prepared.files.push(dir.join("contract.toml"));
    }
    let good = images.get("good").ok_or("no image of the good driver")?;
    let gallery = guest_images::ensure_modules(&tests.join("gallery"), good, progress)?;
    modules.extend(gallery.into_iter().filter_map(|module| {
        let name = module.file_stem()?.to_str()?.to_owned();
        Some((name, module))
    }));
    prepared.files.retain(|file| file.exists());
    prepared.files.extend(modules.values().cloned());
    let value = handover::export_modules(&modules)?;
    prepared
        .environment
        .push((handover::MODULES_VARIABLE.into(), value.into()));
    Ok(())
}

/// Builds the module in `dir` and puts it where it is wanted.
fn module(dir: &Path, out: Option<&Path>, options: &ImageArgs) -> anyhow::Result<()> {
    let progress = Progress::stderr();
    let image = ensure("good", options, &progress)?;
    let built = guest_images::ensure_modules(dir, &image, &progress)?;
    if let (Some(out), [_, _, ..]) = (out, built.as_slice()) {
        bail!(
            "{} modules come out of {}, which do not all go into {}: leave --out away",
            built.len(),
            dir.display(),
            out.display()
        );
    }
    for module in &built {
        let beside = || dir.join(module.file_name().unwrap_or_default());
        let to = out.map_or_else(beside, Path::to_owned);
        std::fs::copy(module, &to).with_context(|| format!("write {}", to.display()))?;
        println!("{}", to.display());
    }
    Ok(())
}

fn list() -> anyhow::Result<()> {
    let entries = guest_images::list()?;
    if entries.is_empty() {
        println!("the cache is empty; `mapwitness images build` fills it");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["what", "key", "MiB", "last used"]);
    for entry in &entries {
        table.add_row([
            entry.kind.clone(),
            entry.key.chars().take(16).collect(),
            mib(entry.len_bytes),
            ago(entry.last_used),
        ]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    let total: u64 = entries.iter().map(|entry| entry.len_bytes).sum();
    println!("{} MiB in all", mib(total));
    Ok(())
}

fn clean(older_than_days: Option<u64>) -> anyhow::Result<()> {
    let keep = match older_than_days {
        Some(days) => {
            let seconds = days.saturating_mul(24 * 60 * 60);
            Keep::UsedWithin(std::time::Duration::from_secs(seconds))
        }
        None => Keep::Nothing,
    };
    let cleaned = guest_images::clean(keep)?;
    println!(
        "removed {} artefacts, {} MiB",
        cleaned.removed,
        mib(cleaned.len_bytes)
    );
    if cleaned.busy > 0 {
        println!("left {} that are being built just now", cleaned.busy);
    }
    Ok(())
}

fn mib(len_bytes: u64) -> String {
    len_bytes.div_ceil(1 << 20).to_string()
}

fn ago(time: std::time::SystemTime) -> String {
    let minutes = time.elapsed().unwrap_or_default().as_secs() / 60;
    match minutes {
        0 => "just now".to_owned(),
        1..120 => format!("{minutes} min ago"),
        120..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / (24 * 60)),
    }
}
