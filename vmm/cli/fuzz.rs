//! `mapwitness fuzz`: does to a driver whatever processes can, until something is wrong.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::fuzz::{
    About, Edges, Finding, Guidance, Options, Outcome, Pace, Peers, Shares, Subject as Fuzzed,
    Total,
};
use anyhow::{Context, anyhow, bail};
use contract::Contract;
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use guest_kernel::KernelFacts;
use harness::Guest;
use harness::mutants::{self, EVERY_FAULT, GOOD, Mutant};
use monitor::VmConfig;
use provision::Progress;
use serde::Serialize;

use crate::args::{self, FuzzArgs, FuzzedArgs, GuidanceArg};
use crate::carried::{self, Errand};
use crate::costs;
use crate::exit::{Exit, chain};
use crate::gallery;
use crate::images;
use crate::subject::Subject;

/// A guest that runs for so long without an answer hangs.
const HANG_AFTER: Duration = Duration::from_secs(30);

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Document {
    driver: String,
    seed: u64,
    cores: usize,
    guidance: &'static str,
    cases: u64,
    seconds: f64,
    cases_per_s: f64,
    /// Of all runs in the folder.
    total: Total,
    corpus: usize,
    /// Cases that came from other cores or machines.
    imported: usize,
    /// Null where the kernel does not tell.
    coverage_edges: Option<usize>,
    /// The same, each part for itself.
    edges: Option<Edges>,
    /// Why there are none.
    no_coverage: Option<String>,
    /// Cases of which only the first edges are known.
    cut_off: u64,
    outcome_pairs: usize,
    pages: u64,
    time: Shares,
    findings: Vec<Kept>,
    unwitnessed: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Kept {
    /// Its own file; `file` is that of the driver.
    path: Option<PathBuf>,
    #[serde(flatten)]
    finding: Finding,
}

/// How it is with a variant.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    mutant: Mutant,
    /// Cases until it was found.
    cases: Option<u64>,
    /// Operations of the finding.
    operations: Option<usize>,
    /// How often it came to the same, of [`REPLAYS`] times that it was gone through again.
    replayed: u32,
    by: Option<String>,
    operation: Option<String>,
    file: Option<String>,
}

/// How often a variant's finding is gone through again.
const REPLAYS: u32 = 10;

/// Carries out `mapwitness fuzz`. Runs twice, as `check` does.
pub fn run(options: &FuzzArgs) -> anyhow::Result<Exit> {
    let has_coverage = options.fuzzed.image.flavour.has_coverage();
    if options.guidance == Some(GuidanceArg::Edges) && !has_coverage {
        let flavour = options.fuzzed.image.flavour;
        bail!("a kernel of flavour {flavour} tells no edges: give --flavour kcov as well");
    }
    let variant = if options.every_variant {
        EVERY_FAULT
    } else {
        &options.driver_variant
    };
    let images = handover::import()?;
    if let (Some(dir), Some(images)) = (&options.gallery, &images) {
        return gallery::here(options, dir, images.clone());
    }
    match images {
        Some(images) if options.every_variant => every_variant(options, images),
        Some(images) if options.compare_evidence => costs::compare(options, images),
        Some(images) => here(options, images),
        None => {
            let corpus = options.corpus.iter();
            for dir in corpus.clone() {
                std::fs::create_dir_all(dir)
                    .with_context(|| format!("make the folder {}", dir.display()))?;
            }
            if let Some(dir) = &options.gallery {
                return gallery::carry(options, dir);
            }
            carry(&options.fuzzed, variant, corpus.cloned().collect())
        }
    }
}

/// Runs this very command on the chosen host.
pub fn carry(fuzzed: &FuzzedArgs, variant: &str, folders: Vec<PathBuf>) -> anyhow::Result<Exit> {
    let progress = Progress::stderr();
    if let Some(path) = &fuzzed.contract {
        Contract::read(path)?;
    }
    let kind = hosts::choose(fuzzed.host)?.kind;
    if kind == hosts::HostKind::SoftEpt {
        bail!("nothing comes back from {kind} but its output: fuzz on kvm or soft-npt");
    }
    let image_name = image_of(variant);
    let mut image = images::ensure(image_name, &fuzzed.image, &progress)?;
    let subject = Subject::of(brought(fuzzed), &mut image, &progress)?;
    let environment = subject.iter().map(Subject::environment);
    let errand = Errand {
        host: fuzzed.host,
        yes: fuzzed.image.yes,
        images: Images::from([(image_name.to_owned(), image)]),
        folders,
        environment: environment.collect::<Result<_, _>>()?,
    };
    std::process::exit(carried::carry(errand, &progress)?)
}

fn brought(fuzzed: &FuzzedArgs) -> (&[PathBuf], Option<&Path>) {
    (&fuzzed.module, fuzzed.contract.as_deref())
}

/// One build of the driver has all of its faults.
fn image_of(variant: &str) -> &str {
    if variant == GOOD { GOOD } else { EVERY_FAULT }
}

/// A driver that is ready to be fuzzed, with its name.
pub fn load(
    fuzzed: &FuzzedArgs,
    variant: &str,
    mut images: Images,
) -> anyhow::Result<(Fuzzed, About)> {
    let image = images.remove(image_of(variant));
    let mut image = image.ok_or_else(|| {
        let variable = handover::VARIABLE;
        anyhow!("{variable} holds no image {}", image_of(variant))
    })?;
    let subject = Subject::of(brought(fuzzed), &mut image, &Progress::hidden())?;
    let facts = facts(&image)?;
    let mut config = config(&image, fuzzed);
    if let Some(subject) = &subject {
        subject.equip(&mut config);
    }
    let guest = Guest::start(&config, args::start(fuzzed.no_snapshot))?;
    let about = About {
        driver: match &subject {
            Some(subject) => subject.name().to_owned(),
            None => variant.to_owned(),
        },
        ..about(&guest, fuzzed)?
    };
    let mut loaded = match &subject {
        Some(subject) => Fuzzed::load(guest, facts, &subject.driver(), false)?,
        None => own(guest, facts, variant)?,
    };
    if let Some(mm_text) = &image.mm_text {
        loaded.cover(mm_text)?;
    }
    Ok((loaded, about))
}

fn own(guest: Guest, facts: KernelFacts, variant: &str) -> anyhow::Result<Fuzzed> {
    // The driver without faults has no such parameter.
    let named = (variant != GOOD).then_some(variant);
    let loaded = Fuzzed::own(guest, facts, named);
    loaded.with_context(|| format!("driver variant {variant}"))
}

pub fn facts(image: &GuestImage) -> anyhow::Result<KernelFacts> {
    KernelFacts::read(&image.types, &image.system_map)
        .context("what is known of the guest's kernel")
}

pub fn config(image: &GuestImage, fuzzed: &FuzzedArgs) -> VmConfig {
    let mut config = VmConfig::new(image.vmlinux.clone(), image.initramfs.clone());
    config.echo_console = fuzzed.verbose;
    config.hang_after = HANG_AFTER;
    if fuzzed.image.flavour.has_coverage() {
        // Where a task hangs is told, but not as an error.
        config.log_level = 7;
    }
    config
}

pub fn about(guest: &Guest, fuzzed: &FuzzedArgs) -> anyhow::Result<About> {
    Ok(About {
        mapwitness: env!("CARGO_PKG_VERSION").to_owned(),
        guest_kernel: guest.kernel_release().to_owned(),
        host_kernel: carried::host_report(fuzzed.host)?.kernel,
        ..About::default()
    })
}

pub fn engine_options(options: &FuzzArgs, dir: &Path) -> Options {
    Options {
        seed: options.seed,
        pace: match (options.paranoid, options.no_evidence) {
            (true, _) => Pace::EachStep,
            (_, true) => Pace::Never,
            _ => Pace::AtTheEnd,
        },
        guidance: guidance(options),
        dir: dir.to_owned(),
        time: Some(Duration::from_secs(options.seconds)),
        cases: options.cases,
        until_found: options.until_found,
        ends: None,
        tells: !options.json,
    }
}

/// The best that the kernel's flavour gives, unless it was said.
fn guidance(options: &FuzzArgs) -> Guidance {
    let has_coverage = options.fuzzed.image.flavour.has_coverage();
    match options.guidance {
        Some(GuidanceArg::Off) => Guidance::Off,
        Some(GuidanceArg::Outcomes) => Guidance::Outcomes,
        Some(GuidanceArg::Edges) => Guidance::Edges,
        None if has_coverage => Guidance::Edges,
        None => Guidance::Outcomes,
    }
}

const fn guidance_name(guidance: Guidance) -> &'static str {
    match guidance {
        Guidance::Off => "off",
        Guidance::Outcomes => "outcomes",
        Guidance::Edges => "edges",
    }
}

fn here(options: &FuzzArgs, images: Images) -> anyhow::Result<Exit> {
    let fresh = tempfile::tempdir().context("make a folder for cases")?;
    let dir = options.corpus.as_deref().unwrap_or(fresh.path());
    let (outcome, about) = on_cores(options, images, &engine_options(options, dir))?;
    let is_clean = outcome.findings.is_empty();
    let document = document(options, about, outcome);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print(&document)?;
    }
    Ok(if is_clean { Exit::Pass } else { Exit::Fail })
}

/// Fuzzes on as many cores as it was asked for.
fn on_cores(
    options: &FuzzArgs,
    images: Images,
    engine: &Options,
) -> anyhow::Result<(Outcome, About)> {
    let peers = Peers {
        broker: options.broker,
        join: options.join,
    };
    let load = || load(&options.fuzzed, &options.driver_variant, images.clone());
    let cores = NonZeroUsize::new(options.cores.into()).unwrap_or(NonZeroUsize::MIN);
    if cores.get() == 1 && peers.broker.or(peers.join).is_none() {
        let (mut subject, about) = load()?;
        let outcome = ::fuzz::fuzz(&mut subject, &about, engine)?;
        return Ok((outcome, about));
    }
    Ok(::fuzz::fuzz_on(cores, peers, &|| Ok(load()?), engine)?)
}

fn document(options: &FuzzArgs, about: About, outcome: Outcome) -> Document {
    let seconds = outcome.elapsed.as_secs_f64();
    let is_kept = options.corpus.is_some();
    let kept = |(path, finding): (PathBuf, Finding)| Kept {
        path: is_kept.then_some(path),
        finding,
    };
    Document {
        driver: about.driver,
        seed: options.seed,
        cores: outcome.cores,
        guidance: guidance_name(guidance(options)),
        cases: outcome.cases,
        seconds,
        // Nobody counts so many cases that this would be off.
        #[allow(clippy::cast_precision_loss)]
        cases_per_s: outcome.cases as f64 / seconds.max(f64::MIN_POSITIVE),
        total: outcome.total,
        corpus: outcome.corpus,
        imported: outcome.imported,
        coverage_edges: outcome.edges.map(|edges| edges.driver + edges.mm),
        edges: outcome.edges,
        no_coverage: outcome.edges.is_none().then(|| {
            let flavour = options.fuzzed.image.flavour;
            format!("a kernel of flavour {flavour} does not tell which of its code ran; kcov does")
        }),
        cut_off: outcome.cut_off,
        outcome_pairs: outcome.outcome_pairs,
        pages: outcome.pages,
        time: outcome.shares,
        findings: outcome.findings.into_iter().map(kept).collect(),
        unwitnessed: outcome.unheard,
    }
}

fn print(document: &Document) -> anyhow::Result<()> {
    for kept in &document.findings {
        println!("FAIL {}", kept.finding.cause);
        if let Some(file) = &kept.path {
            println!("  in {}", file.display());
        }
        println!("{}", kept.finding.text()?);
    }
    for (link, why) in &document.unwitnessed {
        println!("unwitnessed: {link}: {why}");
    }
    let Shares {
        reset,
        guest,
        evidence,
        leavings,
        coverage,
        engine,
    } = document.time;
    println!(
        "{} cases in {:.1} s, {:.1} a second; corpus {}, {} pairs of outcomes, {} pages looked at",
        document.cases,
        document.seconds,
        document.cases_per_s,
        document.corpus,
        document.outcome_pairs,
        document.pages
    );
    println!(
        "time: reset {:.0} %, guest {:.0} %, evidence {:.0} %, leavings {:.0} %, coverage {:.0} %, engine {:.0} %",
        100.0 * reset,
        100.0 * guest,
        100.0 * evidence,
        100.0 * leavings,
        100.0 * coverage,
        100.0 * engine
    );
    match (&document.edges, &document.no_coverage) {
        (Some(Edges { driver, mm }), _) => {
            println!("edges: {driver} of the driver, {mm} of mm/");
        }
        (None, Some(why)) => println!("edges: unknown, {why}"),
        (None, None) => {}
    }
    println!("{} findings", document.findings.len());
    Ok(())
}

/// Fuzzes each variant that has a fault planted.
fn every_variant(options: &FuzzArgs, images: Images) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    let mut all = mutants::listed(&guest_images::variants()?);
    all.retain(|mutant| options.only.is_empty() || options.only.contains(&mutant.name));
    if all.is_empty() {
        bail!("no variant is called so; guest-module/variants.txt lists them");
    }
    for (number, mutant) in (1..).zip(&all) {
        let mut row = Row::not_found(mutant);
        if let Err(error) = until_found(options, &mut row, images.clone()) {
            // One that cannot be tried is not found, and the others still are.
            eprintln!("mapwitness: {}: {}", mutant.name, chain(&error));
        }
        eprintln!(
            "{number}/{} {}: {} after {} cases, {} operations, the same again {} of {REPLAYS} times",
            all.len(),
            mutant.name,
            row.by.as_deref().unwrap_or("NOT FOUND"),
            row.cases.map_or("all".into(), |cases| cases.to_string()),
            row.operations.unwrap_or(0),
            row.replayed
        );
        rows.push(row);
    }
    let found = rows.iter().filter(|row| row.cases.is_some()).count();
    let is_all = rows.iter().all(|row| row.replayed == REPLAYS);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!("{found} of {} found", rows.len());
        for row in rows.iter().filter(|row| row.replayed < REPLAYS) {
            let Row {
                mutant, replayed, ..
            } = row;
            match row.cases {
                None => println!("FAIL {} was not found: {}", mutant.name, mutant.fault),
                Some(_) => println!(
                    "FAIL {} came to the same {replayed} of {REPLAYS} times",
                    mutant.name
                ),
            }
        }
    }
    Ok(if is_all { Exit::Pass } else { Exit::Fail })
}

fn until_found(options: &FuzzArgs, row: &mut Row, images: Images) -> anyhow::Result<()> {
    let fresh = tempfile::tempdir().context("make a folder for cases")?;
    let engine = Options {
        until_found: true,
        tells: false,
        ..engine_options(options, fresh.path())
    };
    let (mut subject, about) = load(&options.fuzzed, &row.mutant.name, images)?;
    let outcome = ::fuzz::fuzz(&mut subject, &about, &engine)?;
    if let Some((_, finding)) = outcome.findings.first() {
        row.cases = Some(finding.about.cases);
        row.operations = Some(finding.operations.len());
        row.by = Some(finding.cause.by.clone());
        row.operation = Some(finding.cause.operation.clone());
        row.file = Some(finding.cause.file.clone());
        let case = finding.case(subject.world())?;
        for _ in 0..REPLAYS {
            let again = subject.run(&case, Pace::AtTheEnd)?.found;
            row.replayed += u32::from(again.is_some_and(|it| it.cause == finding.cause));
        }
    }
    Ok(())
}

impl Row {
    fn not_found(mutant: &Mutant) -> Self {
        Self {
            mutant: mutant.clone(),
            cases: None,
            operations: None,
            replayed: 0,
            by: None,
            operation: None,
            file: None,
        }
    }
}
