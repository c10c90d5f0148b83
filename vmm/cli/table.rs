//! A report as a person reads it.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table};
use harness::report::{FileReport, PromiseReport, RefusalReport, TimelineReport};
use harness::{Report, Verdict};
use witness::{Leaves, Link, Mismatch, timeline};

/// The whole report, in colours if `colour`.
pub fn render(report: &Report, colour: bool) -> String {
    let mut text = String::new();
    // Writing to a String never fails.
    let _ = write_report(&mut text, report, colour);
    text
}

/// The timeline of each mapping, line by line.
pub fn courses(report: &Report) -> String {
    let mut text = String::new();
    for mapping in &report.mappings {
        let Some(timeline) = &mapping.timeline else {
            continue;
        };
        // Writing to a String never fails.
        let _ = writeln!(text, "timeline of {}:", mapping.name);
        for line in &timeline.course {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn write_timeline(text: &mut String, timeline: &TimelineReport) -> std::fmt::Result {
    let counts = &timeline.counts;
    let word = match timeline.verdict {
        timeline::Verdict::Pass => "PASS",
        timeline::Verdict::Fail => "FAIL",
        timeline::Verdict::Unwitnessed => "not witnessed",
    };
    writeln!(
        text,
        "timeline: {word}: {} entries set ({} for accesses of the guest, {} by pre-fault), {} \
         changed, {} zapped; {} records, {} lost",
        counts.set,
        counts.set_by_guest,
        counts.set_by_host,
        counts.changed,
        counts.zapped,
        counts.events,
        counts.lost,
    )?;
    for finding in &timeline.findings {
        writeln!(
            text,
            "FAIL timeline, {}: {}: expected {}, found {} (record #{})",
            finding.phase, finding.name, finding.expected, finding.found, finding.order
        )?;
    }
    for reason in &timeline.unwitnessed {
        writeln!(text, "not witnessed: timeline: {reason}")?;
    }
    Ok(())
}

fn write_report(text: &mut String, report: &Report, colour: bool) -> std::fmt::Result {
    writeln!(
        text,
        "host {} (Linux {}, second level: {}{}), guest Linux {}, {}-level tables, {} vCPU{}, driver {}",
        report.host.kind,
        report.host.kernel,
        report.host.second_level,
        match report.host.second_level_levels {
            Some(levels) => format!(" of {levels} levels"),
            None => String::new(),
        },
        report.guest.kernel,
        report.guest.paging_levels,
        report.guest.vcpus,
        if report.guest.vcpus == 1 { "" } else { "s" },
        report.driver_variant,
    )?;
    if !report.only.is_empty() {
        writeln!(text, "only files named {}...", report.only.join("..., "))?;
    }
    writeln!(text, "{}", files_table(report, colour))?;
    for mapping in &report.mappings {
        if let Some(mismatch) = &mapping.mismatch {
            let phase = mapping.failed_phase.unwrap_or("?");
            write_mismatch(text, &format!("{}, {phase}", mapping.name), mismatch)?;
        }
    }
    write_leaves(text, report)?;
    write_refusals(text, &report.refusals)?;
    write_promises(text, &report.promises)?;
    if !report.operations_tried {
        writeln!(
            text,
            "sequences of operations were not tried: something simpler is wrong"
        )?;
    }
    if let Some(ended) = &report.ended {
        writeln!(text, "FAIL {ended}; what comes after it was not checked")?;
    }
    for signal in &report.kernel_complaints {
        writeln!(text, "FAIL the guest kernel complains: {signal}")?;
        for line in &signal.text {
            writeln!(text, "  {line}")?;
        }
    }
    for unheard in &report.unwitnessed {
        writeln!(text, "not witnessed: {}: {}", unheard.link, unheard.reason)?;
    }
    if let Some(timeline) = &report.timeline {
        write_timeline(text, timeline)?;
    }
    let failed = report
        .mappings
        .iter()
        .filter(|one| one.verdict != Verdict::Pass)
        .count();
    writeln!(
        text,
        "{}: {} mappings, {failed} wrong; {} pages where they must be present, {} where they \
         must be absent",
        word(report.verdict),
        report.mappings.len(),
        report.pages_checked,
        report.absences_checked,
    )
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Error => "NOT CHECKED",
    }
}

fn files_table(report: &Report, colour: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let links = Link::ALL.map(|link| link.name().to_owned());
    let header = ["file", "mappings", "pages"].map(str::to_owned);
    let after = ["refused", "promises", "verdict"].map(str::to_owned);
    table.set_header(header.into_iter().chain(links).chain(after));
    for file in &report.files {
        table.add_row(file_row(file));
    }
    for column in table.column_iter_mut().skip(1).take(4 + Link::ALL.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn file_row(file: &FileReport) -> Vec<Cell> {
    let mut row = vec![
        Cell::new(&file.name),
        Cell::new(file.mappings),
        Cell::new(file.pages_checked),
    ];
    row.extend(Link::ALL.map(|link| match file.links.get(link) {
        0 => Cell::new("-").fg(Color::DarkGrey),
        count if count == file.pages_checked => Cell::new(count),
        count => Cell::new(count).fg(Color::Yellow),
    }));
    row.extend([Cell::new(file.refusals), Cell::new(file.promises)]);
    let verdict = Cell::new(word(file.verdict)).add_attribute(Attribute::Bold);
    row.push(match file.verdict {
        Verdict::Pass => verdict.fg(Color::Green),
        Verdict::Fail | Verdict::Error => verdict.fg(Color::Red),
    });
    row
}

fn write_mismatch(text: &mut String, subject: &str, mismatch: &Mismatch) -> std::fmt::Result {
    write!(text, "FAIL {subject}: ")?;
    write_page(text, mismatch)
}

/// The page at which something is wrong, and what was seen of it.
fn write_page(text: &mut String, mismatch: &Mismatch) -> std::fmt::Result {
    writeln!(
        text,
        "page {} at gva {}: link {} disagrees",
        mismatch.page, mismatch.gva, mismatch.link
    )?;
    writeln!(text, "  expected  {}", mismatch.expected)?;
    writeln!(text, "  found     {}", mismatch.found)?;
    for line in &mismatch.guest_walk {
        writeln!(text, "  walk      {line}")?;
    }
    for line in &mismatch.host {
        writeln!(text, "  host      {line}")?;
    }
    Ok(())
}

/// What the driver asks for, and what becomes of it.
fn write_leaves(text: &mut String, report: &Report) -> std::fmt::Result {
    let mut alike: BTreeMap<&Leaves, u64> = BTreeMap::new();
    for leaves in report.mappings.iter().flat_map(|mapping| &mapping.leaves) {
        *alike.entry(&leaves.leaves).or_default() += leaves.pages;
    }
    for (leaves, pages) in alike {
        writeln!(text, "memory type of {pages} pages: {leaves}")?;
    }
    Ok(())
}

fn write_refusals(text: &mut String, refusals: &[RefusalReport]) -> std::fmt::Result {
    let wrong = |one: &&RefusalReport| one.verdict != Verdict::Pass;
    for refusal in refusals.iter().filter(wrong) {
        let RefusalReport {
            name,
            expected,
            found,
            mismatch,
            ..
        } = refusal;
        write_answer(text, name, [expected, found], mismatch.as_ref())?;
    }
    writeln!(
        text,
        "{} of {} hostile requests refused as they must be",
        refusals.iter().filter(|one| !wrong(one)).count(),
        refusals.len()
    )
}

fn write_promises(text: &mut String, promises: &[PromiseReport]) -> std::fmt::Result {
    let wrong = |one: &&PromiseReport| one.verdict != Verdict::Pass;
    for promise in promises.iter().filter(wrong) {
        let PromiseReport {
            name,
            expected,
            found,
            mismatch,
            ..
        } = promise;
        write_answer(text, name, [expected, found], mismatch.as_ref())?;
    }
    writeln!(
        text,
        "{} of {} promises of a mapping's later life kept",
        promises.iter().filter(|one| !wrong(one)).count(),
        promises.len()
    )
}

/// An answer that is wrong, and the page that shows it.
fn write_answer(
    text: &mut String,
    name: &str,
    [expected, found]: [&str; 2],
    mismatch: Option<&Mismatch>,
) -> std::fmt::Result {
    writeln!(text, "FAIL {name}: expected {expected}, found {found}")?;
    match mismatch {
        Some(mismatch) => {
            write!(text, "  ")?;
            write_page(text, mismatch)
        }
        None => Ok(()),
    }
}
