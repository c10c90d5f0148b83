//! `mapwitness mutants`: every driver with a planted fault, and what catches it.

use std::io::{IsTerminal, Write};

use anyhow::{Context, anyhow};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use guest_images::GuestImage;
use guest_images::handover::{self, Images};
use guest_kernel::KernelFacts;
use harness::mutants::{self, Caught, EVERY_FAULT, Eyes, GOOD, Mutant};
use harness::{Guest, Start};
use monitor::VmConfig;
use provision::Progress;
use serde::Serialize;

use crate::args::{self, MutantsArgs};
use crate::carried::{self, Errand};
use crate::exit::Exit;
use crate::images;

/// The whole matrix.
#[derive(Debug, Serialize)]
struct Matrix {
    /// Number of mutants.
    mutants: usize,
    /// Those that were caught.
    killed: usize,
    /// Names of those that were not.
    survived: Vec<String>,
    /// Number of those that an ordinary test in user space would have caught, too.
    caught_by_data_alone: usize,
    /// What was found in the driver without a fault; nothing, if all is well.
    good: Vec<Caught>,
    /// One for each mutant.
    rows: Vec<Row>,
}

/// What became of one mutant.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    mutant: Mutant,
    /// What caught it.
    caught: Option<Caught>,
    /// What an ordinary test would have seen of it.
    data_alone: Option<Caught>,
}

/// Carries out `mapwitness mutants`. Runs twice, as `check` does.
pub fn run(options: &MutantsArgs) -> anyhow::Result<Exit> {
    match handover::import()? {
        Some(mut images) => {
            let image = images.remove(EVERY_FAULT);
            let image = image.ok_or_else(|| anyhow!("no image with every planted fault"))?;
            here(options, &image)
        }
        None => carry(options),
    }
}

fn carry(options: &MutantsArgs) -> anyhow::Result<Exit> {
    let progress = Progress::stderr();
    let image = images::ensure(EVERY_FAULT, &options.image, &progress)?;
    let images = Images::from([(EVERY_FAULT.to_owned(), image)]);
    let errand = Errand {
        host: options.host,
        yes: options.image.yes,
        images,
        folders: Vec::new(),
        environment: Vec::new(),
    };
    let status = carried::carry(errand, &progress)?;
    std::process::exit(status)
}

fn here(options: &MutantsArgs, image: &GuestImage) -> anyhow::Result<Exit> {
    let facts = KernelFacts::read(&image.types, &image.system_map)
        .context("what is known of the guest's kernel")?;
    let bench = Bench {
        image,
        facts,
        verbose: options.verbose,
        start: args::start(options.no_snapshot),
    };
    let mutants = chosen(options)?;
    let matrix = bench.matrix(&mutants)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&matrix)?);
    } else {
        print(&matrix);
    }
    let all_well = matrix.survived.is_empty() && matrix.good.is_empty();
    Ok(if all_well { Exit::Pass } else { Exit::Fail })
}

/// All mutants, or those that are named.
fn chosen(options: &MutantsArgs) -> anyhow::Result<Vec<Mutant>> {
    let all = mutants::listed(&guest_images::variants()?);
    if options.only.is_empty() {
        return Ok(all);
    }
    for name in &options.only {
        if !all.iter().any(|mutant| mutant.name == *name) {
            return Err(anyhow!(
                "no mutant is called {name}; guest-module/variants.txt lists them"
            ));
        }
    }
    Ok(all
        .into_iter()
        .filter(|mutant| options.only.contains(&mutant.name))
        .collect())
}

struct Bench<'a> {
    image: &'a GuestImage,
    facts: KernelFacts,
    verbose: bool,
    start: Start,
}

impl Bench<'_> {
    fn matrix(&self, mutants: &[Mutant]) -> anyhow::Result<Matrix> {
        let mut good = Vec::new();
        for eyes in [Eyes::All, Eyes::DataAlone] {
            good.extend(self.look_at(GOOD, eyes)?);
        }
        let mut rows = Vec::new();
        for (number, mutant) in (1..).zip(mutants) {
            let caught = self.look_at(&mutant.name, Eyes::All)?;
            let data_alone = self.look_at(&mutant.name, Eyes::DataAlone)?;
            self.tell(number, mutants.len(), mutant, caught.as_ref());
            rows.push(Row {
                mutant: mutant.clone(),
                caught,
                data_alone,
            });
        }
        let survived = rows.iter().filter(|row| row.caught.is_none());
        let survived: Vec<_> = survived.map(|row| row.mutant.name.clone()).collect();
        let by_data = rows.iter().filter(|row| row.data_alone.is_some());
        Ok(Matrix {
            mutants: rows.len(),
            killed: rows.len() - survived.len(),
            survived,
            caught_by_data_alone: by_data.count(),
            good,
            rows,
        })
    }

    /// A guest of its own for each look.
    fn look_at(&self, name: &str, eyes: Eyes) -> anyhow::Result<Option<Caught>> {
        let mut config = VmConfig::new(self.image.vmlinux.clone(), self.image.initramfs.clone());
        config.echo_console = self.verbose;
        let mut guest = Guest::start(&config, self.start)?;
        let found = mutants::first_finding(&mut guest, &self.facts, name, eyes);
        found.with_context(|| format!("mutant {name}"))
    }

    /// How far it has come.
    fn tell(&self, number: usize, all: usize, mutant: &Mutant, caught: Option<&Caught>) {
        let by = caught.map_or("NOT CAUGHT", |caught| &caught.by);
        // Nobody needs to know who cannot read it.
        let _ = writeln!(std::io::stderr(), "{number}/{all} {}: {by}", mutant.name);
    }
}

fn print(matrix: &Matrix) {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.force_no_tty();
        table.set_width(140);
    }
    table.set_header(["mutant", "fault", "caught by", "where", "by data alone"]);
    for row in &matrix.rows {
        let (by, place) = match &row.caught {
            Some(caught) => (caught.by.as_str(), caught.place.as_str()),
            None => ("NOT CAUGHT", ""),
        };
        let data = row.data_alone.as_ref().map_or("no", |_| "yes");
        table.add_row([&row.mutant.name, &row.mutant.fault, by, place, data]);
    }
    println!("{table}");
    for found in &matrix.good {
        println!(
            "FAIL the driver without a fault: {} {}: expected {}, found {}",
            found.by, found.place, found.expected, found.found
        );
    }
    println!(
        "{} of {} mutants caught; {} of them by data alone, too",
        matrix.killed, matrix.mutants, matrix.caught_by_data_alone
    );
    for name in &matrix.survived {
        println!("FAIL {name} was not caught");
    }
}
