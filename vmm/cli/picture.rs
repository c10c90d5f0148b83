//! An atlas as a person sees it: the frame in the middle, its names around it.

use std::fmt::{self, Write};

use harness::Verdict;
use harness::atlas::{AtlasReport, Below, Claim, Frame, Name};

/// Columns of the names at each side, and inside the frame's box.
const SIDE: usize = 24;
const BOX: usize = 20;

/// The whole picture, in no more than 80 columns unless something is wrong.
pub fn render(report: &AtlasReport) -> String {
    let mut text = String::new();
    // Writing to a String never fails.
    let _ = write_report(&mut text, report);
    text
}

fn write_report(text: &mut String, report: &AtlasReport) -> fmt::Result {
    writeln!(
        text,
        "host {} (second level: {}), guest Linux {}, {}-level tables",
        report.host.kind, report.host.second_level, report.guest.kernel, report.guest.paging_levels,
    )?;
    write_frame(text, &report.chart.ram)?;
    write_frame(text, &report.chart.device)?;
    writeln!(
        text,
        "\nkernel virtual by vmalloc: addresses in a row, frames that are not"
    )?;
    for page in &report.chart.vmalloc {
        writeln!(text, "  {:#018x} ──▶ {}", page.gva.raw(), page.found)?;
    }
    writeln!(text, "\nconversions, and what the kernel keeps")?;
    write_claims(text, &report.chart.claims)?;
    writeln!(text, "\nafterwards")?;
    write_claims(text, &report.afterwards)?;
    writeln!(text)?;
    let wrong = report.disagreements();
    for one in &wrong {
        writeln!(text, "FAIL {one}")?;
    }
    let names = report.chart.ram.names.len() + report.chart.device.names.len();
    let claims = report.chart.claims.len() + report.afterwards.len();
    let word = match report.verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Error => "NOT CHECKED",
    };
    writeln!(
        text,
        "{word}: {names} addresses and {claims} statements, {} wrong",
        wrong.len()
    )
}

fn write_claims(text: &mut String, claims: &[Claim]) -> fmt::Result {
    for claim in claims {
        let mark = if claim.agrees { "ok " } else { "NO " };
        match format!("  {mark} {}: {}", claim.what, claim.found) {
            line if line.chars().count() <= 80 => writeln!(text, "{line}")?,
            _ => writeln!(text, "  {mark} {}:\n        {}", claim.what, claim.found)?,
        }
    }
    Ok(())
}

/// The frame with names to its left and right, in turn.
fn write_frame(text: &mut String, frame: &Frame) -> fmt::Result {
    writeln!(text, "\n{}", frame.what)?;
    let edge = "─".repeat(BOX);
    writeln!(text, "{:SIDE$}     ┌{edge}┐", "")?;
    let gpa = format!("gpa {:#x}", frame.gpa.raw());
    let mut inside = [format!("frame {:#x}", frame.gpa.raw() >> 12), gpa].into_iter();
    for (row, pair) in frame.names.chunks(2).enumerate() {
        let (left, right) = (pair.first().map(lines), pair.get(1).map(lines));
        if row > 0 {
            writeln!(text, "{:SIDE$}     │{:BOX$}│", "", "")?;
        }
        for line in 0..LINES {
            let middle = if line == 0 { None } else { inside.next() };
            let at = |side: &Option<[String; LINES]>| {
                side.as_ref()
                    .map_or(String::new(), |lines| lines[line].clone())
            };
            let arrow = |name: Option<&Name>, good: &'static str, bad: &'static str| match name {
                Some(name) if line == 1 && name.agrees => good,
                Some(_) if line == 1 => bad,
                _ => "    ",
            };
            let row = format!(
                "{:>SIDE$} {}│{:^BOX$}│{} {}",
                at(&left),
                arrow(pair.first(), "───▶", "─╳  "),
                middle.unwrap_or_default(),
                arrow(pair.get(1), "◀───", "  ╳─"),
                at(&right),
            );
            writeln!(text, "{}", row.trim_end())?;
        }
    }
    writeln!(text, "{:SIDE$}     └{edge}┘", "")?;
    let Below {
        hva,
        host_frame,
        second_level,
        agrees,
    } = &frame.below;
    writeln!(text, "  below it, in the host: hva {hva}")?;
    match agrees {
        Some(true) => writeln!(text, "  {host_frame}, by pagemap and by the second level"),
        _ => writeln!(
            text,
            "  pagemap: {host_frame}\n  second level: {second_level}"
        ),
    }
}

/// Lines of a name.
const LINES: usize = 4;

fn lines(name: &Name) -> [String; LINES] {
    let how = name.found.strip_prefix(&name.expected);
    [
        name.kind.to_owned(),
        format!("{:#018x}", name.address),
        name.by.to_owned(),
        how.unwrap_or(&name.found).trim().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Gpa, Gva};
    use harness::Started;
    use harness::atlas::{Chart, ScatteredPage};
    use harness::report::{GuestReport, HostReport};

    fn name(kind: &'static str, address: u64, agrees: bool) -> Name {
        Name {
            kind,
            by: "dma_alloc_coherent",
            address,
            expected: "0x2e4f000".into(),
            found: "0x2e4f000 uw- WB, 4 KiB page".into(),
            agrees,
        }
    }

    fn report(agrees: bool) -> AtlasReport {
        let frame = |names| Frame {
            what: "a page",
            gpa: Gpa::new(0x2e4f000),
            names,
            below: Below {
                hva: "0x7f0000000000".into(),
                host_frame: "host frame 0x12345".into(),
                second_level: "host frame 0x12345".into(),
                agrees: Some(agrees),
            },
        };
        AtlasReport {
            verdict: Verdict::of(agrees),
            host: HostReport {
                kind: "soft-npt".into(),
                kernel: "6.12".into(),
                second_level: "npt".into(),
                second_level_levels: None,
            },
            guest: GuestReport {
                kernel: "7.3.4".into(),
                paging_levels: 4,
                vcpus: 1,
                started: Started::Boot,
            },
            chart: Chart {
                ram: frame(vec![
                    name("user virtual", 0x7f00_0000_0000, true),
                    name("kernel logical", 0xffff_8880_02e4_f000, agrees),
                    name("bus", 0x2e4f000, true),
                ]),
                device: frame(Vec::new()),
                vmalloc: vec![ScatteredPage {
                    gva: Gva::new(0xffff_c900_0011_5000),
                    found: "0x2e51000 -w- WB, 4 KiB page".into(),
                }],
                claims: Vec::new(),
            },
            afterwards: Vec::new(),
            kernel_complaints: Vec::new(),
        }
    }

    #[test]
    fn every_name_stands_beside_the_frame_and_points_to_it() {
        let text = render(&report(true));
        let row = "      0x00007f0000000000 ───▶│    frame 0x2e4f    │◀─── 0xffff888002e4f000\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("gpa 0x2e4f000"), "{text}");
        assert!(
            text.ends_with("PASS: 3 addresses and 0 statements, 0 wrong\n"),
            "{text}"
        );
        assert!(!text.contains('╳'), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_has_no_arrow() {
        let text = render(&report(false));
        assert!(text.contains("│  ╳─ 0xffff888002e4f000"), "{text}");
        assert!(
            text.contains("FAIL kernel logical (dma_alloc_coherent)"),
            "{text}"
        );
        assert!(
            text.ends_with("FAIL: 3 addresses and 0 statements, 3 wrong\n"),
            "{text}"
        );
    }
}
