//! `mapwitness replay` and `mapwitness minimize`: a finding once more.

use std::path::{Path, PathBuf};

use ::fuzz::{Finding, Pace, Ran, Subject, kind};
use guest_images::handover;
use serde::Serialize;

use crate::args::ReplayArgs;
use crate::exit::Exit;
use crate::fuzz;

/// What to do with a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Do what it says.
    Replay,
    /// Find the fewest operations.
    Minimize,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Document {
    reproduces: bool,
    steps: Vec<Line>,
    finding: Option<Finding>,
}

/// A step of the story.
#[derive(Debug, Serialize)]
struct Line {
    process: u32,
    operation: &'static str,
    does: String,
    expected: String,
    came: Option<String>,
}

/// Carries out both. Runs twice, as `check` does.
pub fn run(options: &ReplayArgs, task: Task) -> anyhow::Result<Exit> {
    let finding = Finding::read(&options.file)?;
    let variant = options.driver_variant.clone();
    let variant = match &options.fuzzed.contract {
        // The project's own driver is in the image, and is not loaded.
        Some(_) => "good".to_owned(),
        None => variant.unwrap_or_else(|| finding.about.driver.clone()),
    };
    let Some(images) = handover::import()? else {
        return fuzz::carry(&options.fuzzed, &variant, folder(&options.file));
    };
    let (mut subject, _) = fuzz::load(&options.fuzzed, &variant, images)?;
    match task {
        Task::Replay => replay(options, &mut subject, &finding),
        Task::Minimize => minimize(options, &mut subject, &finding),
    }
}

/// The folder of a file.
fn folder(file: &Path) -> Vec<PathBuf> {
    let parent = file.parent().filter(|it| !it.as_os_str().is_empty());
    parent.map(Path::to_owned).into_iter().collect()
}

fn replay(options: &ReplayArgs, subject: &mut Subject, finding: &Finding) -> anyhow::Result<Exit> {
    let case = finding.case(subject.world())?;
    let ran = subject.run(&case, Pace::EachStep)?;
    let is_same = ran.found.is_some();
    let lines = story(&case, &ran);
    if options.json {
        let again = ran.found.as_ref();
        let document = Document {
            reproduces: is_same,
            steps: lines,
            finding: again.map(|found| {
                Finding::of(subject.world(), &case, found.clone(), finding.about.clone())
            }),
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        for (number, line) in (1..).zip(&lines) {
            let Line {
                process,
                does,
                expected,
                ..
            } = line;
            let came = line.came.as_deref().unwrap_or("no answer");
            println!("{number}. process {process}: {does}");
            if came == expected {
                println!("   {came}");
            } else {
                println!("   expected {expected}; came {came}");
            }
        }
        match &ran.found {
            Some(found) => println!("FAIL {}", found.verdict),
            None => println!("PASS: nothing is wrong"),
        }
    }
    Ok(if is_same { Exit::Fail } else { Exit::Pass })
}

fn story(case: &::fuzz::Case, ran: &Ran) -> Vec<Line> {
    let steps = ran.steps.iter();
    let line = |step: &::fuzz::Step| {
        let operation = case.operations.get(step.index)?;
        Some(Line {
            process: operation.by.0,
            operation: kind(operation),
            does: format!("{:?}", operation.call),
            expected: step.wanted.to_string(),
            came: step.came.as_ref().map(ToString::to_string),
        })
    };
    steps.filter_map(line).collect()
}

fn minimize(
    options: &ReplayArgs,
    subject: &mut Subject,
    finding: &Finding,
) -> anyhow::Result<Exit> {
    let case = finding.case(subject.world())?;
    let Some(found) = subject.run(&case, Pace::EachStep)?.found else {
        eprintln!("mapwitness: nothing is wrong any more; the finding is left as it is");
        return Ok(Exit::Pass);
    };
    let (least, found) = subject.minimise(&case, found, Pace::EachStep)?;
    let least = Finding::of(subject.world(), &least, found, finding.about.clone());
    least.write(&options.file)?;
    let (before, after) = (finding.operations.len(), least.operations.len());
    if options.json {
        println!("{}", serde_json::to_string_pretty(&least)?);
    } else {
        println!("{after} of {before} operations are left");
        print!("{}", least.text()?);
    }
    Ok(Exit::Fail)
}
