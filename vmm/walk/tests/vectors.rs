//! Hand-written and recorded vectors, one test for each file of `vectors/`.
//!
//! A file is a small script, explained in `vectors/guest_4level.txt`. [`check`] is
//! the only place that walks.

mod support;

use addr::{Gpa, Gva, Hpa, Level};
use rstest::rstest;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use support::{Memory, Outside};
use walk::{
    AddressSpace, EptRegs, NptRegs, PagingRegs, SecondLevel, Steps, Translation, UnsupportedMode,
    Vendor, WalkError, walk_guest,
};

#[rstest]
fn the_walker_agrees(#[files("tests/vectors/*.txt")] file: PathBuf) {
    let text = fs::read_to_string(&file).expect("a vector file");
    let vectors = parse(&text);
    assert!(!vectors.is_empty(), "{} has no vector", file.display());
    let wrong: Vec<String> = vectors.iter().filter_map(|v| check(v).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A named run of the file's lines, the common ones in front.
struct Vector<'a> {
    name: &'a str,
    lines: Vec<(usize, &'a str)>,
}

fn parse(text: &str) -> Vec<Vector<'_>> {
    let mut common = Vec::new();
    let mut vectors: Vec<Vector<'_>> = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("vector ") {
            vectors.push(Vector {
                name,
                lines: common.clone(),
            });
        } else if let Some(vector) = vectors.last_mut() {
            vector.lines.push((number, line));
        } else {
            common.push((number, line));
        }
    }
    vectors
}

/// What the lines so far say.
#[derive(Default)]
struct State {
    tables: String,
    values: HashMap<String, String>,
    entries: HashMap<u64, u64>,
}

/// What a walk said: one line, and one for each step.
struct Said {
    outcome: String,
    steps: Vec<String>,
}

fn check(vector: &Vector<'_>) -> Result<(), String> {
    let mut state = State::default();
    let mut said: Option<Said> = None;
    let mut steps: Vec<&str> = Vec::new();
    let mut checked = 0;
    for &(number, line) in &vector.lines {
        let at = format!("{} (line {number})", vector.name);
        let (word, rest) = line.split_once(' ').ok_or(format!("{at}: {line:?}"))?;
        if word != "|" {
            same_steps(&at, said.as_ref(), &mut steps)?;
        }
        match word {
            "|" => steps.push(rest),
            ">" => {
                let found = &said.as_ref().ok_or(format!("{at}: no walk yet"))?.outcome;
                if found != rest {
                    return Err(format!("{at}:\n  expected {rest}\n  found    {found}"));
                }
                checked += 1;
            }
            "walk" => said = Some(walked(&state, number_of(rest))),
            "spte" => {
                let tables = state.second_level().expect("valid registers");
                said = Some(Said {
                    outcome: tables.spte(number_of(rest)).to_string(),
                    steps: Vec::new(),
                });
            }
            _ => state.apply(word, rest),
        }
    }
    same_steps(vector.name, said.as_ref(), &mut steps)?;
    if checked == 0 {
        return Err(format!("{} expects nothing", vector.name));
    }
    Ok(())
}

/// The steps that the lines before expected, when there were any.
fn same_steps(at: &str, said: Option<&Said>, expected: &mut Vec<&str>) -> Result<(), String> {
    let expected = std::mem::take(expected);
    match said {
        Some(said) if !expected.is_empty() && said.steps != expected => Err(format!(
            "before {at}:\n  expected {expected:#?}\n  found    {:#?}",
            said.steps
        )),
        _ => Ok(()),
    }
}

impl State {
    fn apply(&mut self, word: &str, rest: &str) {
        match (word, rest.split_once(' ')) {
            ("tables", _) => self.tables = rest.to_owned(),
            ("set", Some((name, value))) => {
                self.values.insert(name.to_owned(), value.trim().to_owned());
            }
            ("at", Some((at, raw))) => {
                self.entries.insert(number_of(at), number_of(raw));
            }
            ("gone", _) => {
                self.entries.remove(&number_of(rest)).expect("was there");
            }
            _ => panic!("unknown line: {word} {rest}"),
        }
    }

    fn value(&self, name: &str) -> &str {
        self.values
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not set"))
    }

    fn number(&self, name: &str) -> u64 {
        number_of(self.value(name))
    }

    fn flag(&self, name: &str) -> bool {
        match self.value(name) {
            "yes" => true,
            "no" => false,
            other => panic!("{name} is {other}, not yes or no"),
        }
    }

    fn maxphyaddr(&self) -> u8 {
        self.value("maxphyaddr").parse().expect("bits")
    }

    fn paging_regs(&self) -> PagingRegs {
        PagingRegs {
            cr0: self.number("cr0"),
            cr3: self.number("cr3"),
            cr4: self.number("cr4"),
            efer: self.number("efer"),
            pat: self.number("pat"),
            maxphyaddr: self.maxphyaddr(),
            gib_pages: self.flag("gib_pages"),
            vendor: match self.value("vendor") {
                "intel" => Vendor::Intel,
                "amd" => Vendor::Amd,
                other => panic!("unknown vendor {other}"),
            },
        }
    }
}

impl State {
    fn second_level(&self) -> Result<SecondLevel, UnsupportedMode> {
        match self.tables.as_str() {
            "ept" => SecondLevel::ept(&EptRegs {
                eptp: self.number("eptp"),
                maxphyaddr: self.maxphyaddr(),
                gib_pages: self.flag("gib_pages"),
                execute_only: self.flag("execute_only"),
                mode_based_exec: self.flag("mode_based_exec"),
            }),
            "npt" => SecondLevel::npt(&NptRegs {
                ncr3: self.number("ncr3"),
                five_levels: self.flag("five_levels"),
                pat: self.number("pat"),
                nxe: self.flag("nxe"),
                maxphyaddr: self.maxphyaddr(),
                gib_pages: self.flag("gib_pages"),
                encryption_bit: match self.value("encryption_bit") {
                    "none" => None,
                    bit => Some(bit.parse().expect("a bit")),
                },
            }),
            other => panic!("unknown tables {other}"),
        }
    }
}

fn number_of(text: &str) -> u64 {
    let digits = text.trim().strip_prefix("0x").expect("0x...");
    u64::from_str_radix(digits, 16).expect("hexadecimal")
}

fn walked(state: &State, address: u64) -> Said {
    match state.tables.as_str() {
        "guest" => {
            let memory = Memory::<Gpa>::new(state.entries.clone());
            say(&walk_guest(
                &memory,
                &state.paging_regs(),
                Gva::new(address),
            ))
        }
        _ => {
            let memory = Memory::<Hpa>::new(state.entries.clone());
            let found = match state.second_level() {
                Ok(tables) => tables.walk(&memory, Gpa::new(address)),
                Err(mode) => Err(WalkError::UnsupportedMode(mode)),
            };
            say(&found)
        }
    }
}

fn say<A: AddressSpace>(found: &Result<Translation<A>, WalkError<A, Outside>>) -> Said {
    let lines = |steps: &Steps<A>| steps.iter().map(|step| step.to_string()).collect();
    match found {
        Ok(translation) => Said {
            outcome: describe(translation),
            steps: lines(&translation.steps),
        },
        Err(error) => Said {
            outcome: format!("error: {error}"),
            steps: error.steps().map(lines).unwrap_or_default(),
        },
    }
}

fn describe<A: AddressSpace>(found: &Translation<A>) -> String {
    let right = |granted, letter| if granted { letter } else { '-' };
    let mut text = format!(
        "{} {} {} {}{}{}{} {}",
        A::NAME,
        found.address,
        match found.page_size {
            Level::Pte => "4K",
            Level::Pmd => "2M",
            Level::Pud => "1G",
            Level::P4d | Level::Pgd => "too large",
        },
        right(found.access.read, 'r'),
        right(found.access.write, 'w'),
        right(found.access.exec, 'x'),
        right(found.access.user, 'u'),
        found.memory_type,
    );
    for (is_set, word) in [
        (found.accessed == Some(true), " accessed"),
        (found.dirty == Some(true), " dirty"),
        (found.dirty.is_none(), " unrecorded"),
        (found.global, " global"),
        (found.ept.is_some_and(|leaf| leaf.ignore_pat), " ipat"),
        (found.ept.is_some_and(|leaf| leaf.suppress_ve), " sve"),
    ] {
        text.push_str(if is_set { word } else { "" });
    }
    if let Some(pkey) = found.pkey {
        text.push_str(&format!(" pkey {pkey}"));
    }
    text
}
