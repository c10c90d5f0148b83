//! `mapwitness fuzz --gallery`: each driver of a folder, until it is found.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ::fuzz::{Finding, Options, Subject as Fuzzed};
use anyhow::{Context, anyhow, bail};
use contract::Contract;
use guest_images::handover::Images;
use guest_kernel::KernelFacts;
use harness::mutants::GOOD;
use harness::{Driver, Guest, equip};
use provision::Progress;
use serde::{Deserialize, Serialize};

use crate::args::{self, FuzzArgs};
use crate::carried::{self, Errand};
use crate::exit::{Exit, chain};
use crate::{fuzz, images};

/// Tells the carried process of the drivers.
const VARIABLE: &str = "MAPWITNESS_GALLERY";
/// Lists the drivers of a folder, each with the contract that it breaks.
const CONTRACTS: &str = "contracts.txt";
/// With this parameter a driver of a gallery keeps its contract.
const SOUND: &str = "sound=1";
/// How the table begins.
const HEAD: &str = "\
# What fuzzing finds in the gallery

Written by

```sh
cargo witness fuzz --gallery tests/gallery --corpus tests/found --cases 1000
```

which fuzzes each driver of [the gallery](../gallery/README.md) without being told what is
wrong with it, until something is found, and then its mended form for some cases more, in
which nothing must be. Beside this file lies each finding, with the fewest operations that
show it: `mapwitness replay` goes through it. `tests/guests/gallery.rs` does so with all of them.

";

/// A driver, as a carried process is told of it.
#[derive(Debug, Serialize, Deserialize)]
struct Exhibit {
    driver: String,
    contract: Contract,
    /// Its module's path in the guest.
    module: String,
}

/// How it was with a driver.
#[derive(Debug, Serialize)]
struct Row {
    driver: String,
    /// Cases until something was found.
    cases: Option<u64>,
    operations: Option<usize>,
    sequence: Option<String>,
    said: Option<String>,
    /// Cases of the mended driver.
    sound_cases: u64,
    /// What was found in it, which must be nothing.
    sound_findings: Vec<String>,
}

/// Carries out `mapwitness fuzz --gallery`, where it was called.
pub fn carry(options: &FuzzArgs, dir: &Path) -> anyhow::Result<Exit> {
    let progress = Progress::stderr();
    let image = images::ensure(GOOD, &options.fuzzed.image, &progress)?;
    let modules = guest_images::ensure_modules(dir, &image, &progress)?;
    let (image, paths) = guest_images::with_modules(&image, &modules, &progress)?;
    let list = dir.join(CONTRACTS);
    let text = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let mut exhibits = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((driver, contract)) = line.split_once(' ') else {
            continue;
        };
        let module = paths
            .iter()
            .find(|it| it.ends_with(&format!("/{driver}.ko")));
        let module = module.ok_or_else(|| anyhow!("{} builds no {driver}.ko", dir.display()))?;
        let contract = dir.join(contract.trim()).with_extension("toml");
        exhibits.push(Exhibit {
            driver: driver.to_owned(),
            contract: Contract::read(&contract)?,
            module: module.clone(),
        });
    }
    let errand = Errand {
        host: options.fuzzed.host,
        yes: options.fuzzed.image.yes,
        images: Images::from([(GOOD.to_owned(), image)]),
        folders: options.corpus.iter().cloned().collect(),
        environment: vec![(VARIABLE.into(), serde_json::to_string(&exhibits)?.into())],
    };
    std::process::exit(carried::carry(errand, &progress)?)
}

/// Carries it out, on the chosen host.
pub fn here(options: &FuzzArgs, dir: &Path, mut images: Images) -> anyhow::Result<Exit> {
    let told = std::env::var(VARIABLE).context("the drivers of the gallery")?;
    let exhibits: Vec<Exhibit> = serde_json::from_str(&told)?;
    let image = images.remove(GOOD).context("no image was handed over")?;
    let out = options.corpus.as_deref().context("no folder was named")?;
    let facts = fuzz::facts(&image)?;
    let mut table = HEAD.to_owned();
    table +=
        "| CVE | driver | cases | the fewest operations | what is said |\n|---|---|---|---|---|\n";
    let mut rows = Vec::new();
    for (number, exhibit) in (1..).zip(&exhibits) {
        let tried = Tried {
            options,
            facts: &facts,
            image: &image,
            exhibit,
        };
        let row = tried.row(out).unwrap_or_else(|error| {
            // One that cannot be tried is not found, and the others still are.
            eprintln!("mapwitness: {}: {}", exhibit.driver, chain(&error));
            Row::not_found(exhibit)
        });
        eprintln!(
            "{number}/{} {}: {} after {} cases, {} operations; mended: {} findings in {} cases",
            exhibits.len(),
            row.driver,
            row.said.as_deref().unwrap_or("NOT FOUND"),
            row.cases.map_or("all".into(), |cases| cases.to_string()),
            row.operations.unwrap_or(0),
            row.sound_findings.len(),
            row.sound_cases,
        );
        let source = dir.join(&row.driver).with_extension("c");
        // Writing to a String never fails.
        let _ = writeln!(table, "{}", line(&row, &source)?);
        rows.push(row);
    }
    let path = out.join("README.md");
    fs::write(&path, table).with_context(|| format!("write {}", path.display()))?;
    let found = rows.iter().filter(|row| row.cases.is_some()).count();
    let is_sound = rows.iter().all(|row| row.sound_findings.is_empty());
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!("{found} of {} found; {}", rows.len(), path.display());
    }
    Ok(if found == rows.len() && is_sound {
        Exit::Pass
    } else {
        Exit::Fail
    })
}

/// A driver that is tried.
struct Tried<'a> {
    options: &'a FuzzArgs,
    facts: &'a KernelFacts,
    image: &'a guest_images::GuestImage,
    exhibit: &'a Exhibit,
}

impl Tried<'_> {
    fn row(&self, out: &Path) -> anyhow::Result<Row> {
        let mut row = Row::not_found(self.exhibit);
        let most = self.options.cases.unwrap_or(u64::MAX);
        let (_, findings) = self.fuzz("", most)?;
        let Some((_, finding)) = findings.into_iter().next() else {
            return Ok(row);
        };
        finding.write(&out.join(&self.exhibit.driver).with_extension("toml"))?;
        row.cases = Some(finding.about.cases);
        row.operations = Some(finding.operations.len());
        row.sequence = Some(finding.sequence());
        row.said = Some(finding.complaint());
        let most = finding
            .about
            .cases
            .saturating_add(SOUND_MORE)
            .min(SOUND_MOST);
        let (cases, findings) = self.fuzz(SOUND, most)?;
        row.sound_cases = cases;
        let said = findings.iter().map(|(_, finding)| finding.complaint());
        row.sound_findings = said.collect();
        Ok(row)
    }

    /// Cases that were gone through, and what was found.
    fn fuzz(&self, parameters: &str, cases: u64) -> anyhow::Result<(u64, Vec<(PathBuf, Finding)>)> {
        let mut contract = self.exhibit.contract.clone();
        parameters.clone_into(&mut contract.parameters);
        let mut config = fuzz::config(self.image, &self.options.fuzzed);
        equip(&mut config, &contract.device);
        let guest = Guest::start(&config, args::start(self.options.fuzzed.no_snapshot))?;
        let about = ::fuzz::About {
            driver: format!("{}.ko", self.exhibit.driver),
            ..fuzz::about(&guest, &self.options.fuzzed)?
        };
        let driver = Driver::of_contract(&contract, std::slice::from_ref(&self.exhibit.module));
        let mut subject = Fuzzed::load(guest, self.facts.clone(), &driver, false)?;
        let fresh = tempfile::tempdir().context("make a folder for cases")?;
        let engine = Options {
            until_found: true,
            tells: false,
            cases: Some(cases),
            time: None,
            ..fuzz::engine_options(self.options, fresh.path())
        };
        let outcome = ::fuzz::fuzz(&mut subject, &about, &engine)?;
        Ok((outcome.cases, outcome.findings))
    }
}

/// Cases of a mended driver beyond those that its fault took, and the most of them.
const SOUND_MORE: u64 = 20;
const SOUND_MOST: u64 = 120;

impl Row {
    fn not_found(exhibit: &Exhibit) -> Self {
        Self {
            driver: exhibit.driver.clone(),
            cases: None,
            operations: None,
            sequence: None,
            said: None,
            sound_cases: 0,
            sound_findings: Vec::new(),
        }
    }
}

/// A line of the table. The comment at the head of the driver's source begins with the
/// number of what was published.
fn line(row: &Row, source: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(source).with_context(|| format!("read {}", source.display()))?;
    let comment = text
        .split_once("/*")
        .and_then(|(_, rest)| rest.split_once(": "));
    let number = comment.map(|(number, _)| number.trim_start_matches([' ', '*', '\n']));
    let Some(number) = number else {
        bail!("{} does not begin with what it is about", source.display());
    };
    let Row { driver, .. } = row;
    let cases = row
        .cases
        .map_or("not found".into(), |cases| cases.to_string());
    let (sequence, said) = (row.sequence.as_deref(), row.said.as_deref());
    Ok(format!(
        "| {number} | [{driver}](../gallery/{driver}.c) | {cases} | {} | {} |",
        sequence.unwrap_or_default(),
        said.unwrap_or_default().replace('|', "/"),
    ))
}
