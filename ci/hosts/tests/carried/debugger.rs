//! An independent judge of the walker: the debugger of Bochs prints the walk of the
//! emulated processor itself, which shares nothing with this project's.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::program::{example, host_program};

/// A page of 4 KiB, one of 2 MiB, two that nobody has touched, of which the first has
/// neighbours in its table, and one without memory.
const ADDRESSES: [&str; 5] = ["0x3000", "0x80012000", "0x5000", "0xc0001000", "0xf0000000"];

/// What a walk went through, and where it ended, as text.
#[derive(Debug, PartialEq, Eq)]
struct Walk {
    entries: Vec<u64>,
    end: Option<u64>,
}

fn number(text: &str) -> u64 {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// `entries ADDRESS: ENTRY ... -> ADDRESS`, of the example.
fn own_walks(said: &str) -> Vec<Walk> {
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("entries "));
    lines
        .map(|line| {
            let (_, walk) = line.split_once(": ").expect("an address");
            let (entries, end) = walk.split_once(" -> ").expect("an end");
            Walk {
                entries: entries.split_whitespace().map(number).collect(),
                end: (end != "nothing").then(|| number(end)),
            }
        })
        .collect()
}

/// `EPT LEVEL: ENTRY RIGHTS`, then where the page is, or that it is nowhere; from the
/// debugger.
fn debuggers_walks(said: &str) -> Vec<Walk> {
    let mut walks = Vec::new();
    let mut entries = Vec::new();
    for line in said.lines() {
        if let Some((_, entry)) = line
            .split_once("EPT ")
            .and_then(|(_, it)| it.split_once(": "))
        {
            let entry = entry.split_whitespace().next().expect("an entry");
            entries.push(number(entry));
        } else if let Some((_, end)) = line.split_once("maps to physical page ") {
            let end = Some(number(end.trim()));
            walks.push(Walk {
                entries: std::mem::take(&mut entries),
                end,
            });
        } else if line.contains("physical address not available") {
            walks.push(Walk {
                entries: std::mem::take(&mut entries),
                end: None,
            });
        }
    }
    walks
}

#[test]
fn the_walker_finds_what_the_processor_itself_does() {
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    let asked = ADDRESSES
        .map(|address| format!("page {address}\n"))
        .concat();
    // Until the guest stops, and on to the end.
    write!(script, "c\n{asked}c\n").expect("written");
    let output = Command::new(host_program())
        .args(["host-run", "--debugger"])
        .arg(script.path())
        .args(["--", &example("entries")])
        .args(ADDRESSES)
        .env("MAPWITNESS_HOST", "soft-ept")
        .stdin(Stdio::null())
        .output()
        .expect("the runner starts");
    let (said, judged) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{judged}");
    let (own, debuggers) = (own_walks(&said), debuggers_walks(&judged));
    assert_eq!(own.len(), ADDRESSES.len(), "{said}");
    for (address, (own, debuggers)) in ADDRESSES.iter().zip(own.iter().zip(&debuggers)) {
        println!("{address}: {own:x?}");
        assert_eq!(own, debuggers, "{address}\n{said}\n{judged}");
    }
    assert_eq!(debuggers.len(), ADDRESSES.len(), "{judged}");
    // They are what they were chosen for.
    let depth = |walk: &Walk| (walk.entries.len(), walk.end.is_some());
    assert_eq!(depth(&own[0]), (4, true), "4 KiB: {own:x?}");
    assert_eq!(depth(&own[1]), (3, true), "2 MiB: {own:x?}");
    assert_eq!(depth(&own[2]), (4, false), "a hole: {own:x?}");
    for absent in &own[3..] {
        assert_eq!(absent.end, None, "{own:x?}");
    }
}
