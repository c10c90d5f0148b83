//! The walk-throughs of the documentation, carried out to the letter: what stands in their
//! `sh` blocks is run as it stands there, `cargo witness` being the program that this test
//! was built with; it must end as the words after it say, and print what the `text` block
//! after it shows.

use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mapwitness");

/// `cargo witness` for a shell, and no other cargo.
const CARGO: &str = r#"cargo() { test "$1" = witness && shift && "$MAPWITNESS" "$@"; }"#;

/// A command of the documentation, with what is said of it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    /// How it ends.
    status: i32,
    /// Lines that it prints among others.
    shows: Vec<String>,
}

/// The commands of a text in Markdown. What is said up to the next ones is said of the last
/// command of a block.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), block.take()) {
            (Some(language), None) => block = Some((language, Vec::new())),
            (Some(_), Some(("sh", lines))) => steps.extend(commands(&lines)),
            (Some(_), Some(("text", lines))) => {
                if let Some(step) = steps.last_mut() {
                    step.shows.extend(shown(&lines));
                }
            }
            (Some(_), Some(_)) => {}
            (None, Some((language, mut lines))) => {
                lines.push(line);
                block = Some((language, lines));
            }
            (None, None) if line.contains("ends with status 1") => {
                if let Some(step) = steps.last_mut() {
                    step.status = 1;
                }
            }
            (None, None) => {}
        }
    }
    steps
}

/// Lines of a shell block, those with a backslash at their end joined with the next.
fn commands(lines: &[&str]) -> Vec<Step> {
    let text = lines.join("\n").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let step = |command: &str| Step {
        command: command.to_owned(),
        status: 0,
        shows: Vec::new(),
    };
    lines.map(step).collect()
}

/// Lines of a text block that say something.
fn shown(lines: &[&str]) -> Vec<String> {
    let said = lines.iter().filter(|line| line.trim() != "...");
    said.map(|line| comparable(line)).collect()
}

/// A line with one space for several, and without addresses, which differ from run to run.
fn comparable(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let (before, rest) = word.split_once("0x").unwrap_or((word, ""));
        let after = rest.trim_start_matches(|it: char| it.is_ascii_hexdigit());
        match word.contains("0x") {
            true => format!("{before}0x*{after}"),
            false => before.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The part of a text below a heading, up to the next one of its kind.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let (_, below) = text.split_once(heading).expect("the heading is there");
    below.split("\n## ").next().unwrap_or(below)
}

/// Runs `steps` in a folder in which `tests/examples` are as in the clone.
fn walk(steps: &[Step]) {
    let folder = tempfile::tempdir().expect("a folder");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples");
    copy(&examples, &folder.path().join("tests/examples"));
    for step in steps {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("{CARGO}; {}", step.command))
            .env("MAPWITNESS", PROGRAM)
            .current_dir(folder.path())
            .output()
            .expect("a shell");
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(step.status),
            "{}\n{printed}\n{errors}",
            step.command
        );
        let lines: Vec<String> = printed.lines().map(comparable).collect();
        for line in &step.shows {
            assert!(
                lines.contains(line),
                "{} does not print\n{line}\nbut\n{printed}",
                step.command
            );
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the examples") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else if from.extension().is_none_or(|it| it != "ko") {
            std::fs::copy(&from, &to).expect("copied");
        }
    }
}

/// For the first section of the front page and all of the examples' one: each is followed
/// from its beginning.
#[test]
fn the_front_page_leads_a_driver_of_ones_own_through_a_check() {
    let steps = steps(section(
        include_str!("../../README.md"),
        "\n## A driver of your own\n",
    ));
    assert_eq!(steps.len(), 2, "{steps:#?}");
    walk(&steps);
}

#[test]
fn the_examples_page_is_true_from_its_first_command_to_its_last() {
    let steps = steps(include_str!("../examples/README.md"));
    let failing = steps.iter().filter(|step| step.status == 1);
    assert_eq!(failing.count(), 2, "{steps:#?}");
    let showing = steps.iter().filter(|step| !step.shows.is_empty());
    assert_eq!(showing.count(), 3, "{steps:#?}");
    walk(&steps);
}

#[test]
fn commands_are_taken_with_what_is_said_of_them() {
    let text = "\
Do:

```sh
one --a \\
    --b
two
```

The command ends with status 1 and prints:

```text
FAIL  at 0x7f: page
  ...
```

```toml
[device]
```
";
    let step = |command: &str, status, shows: &[&str]| Step {
        command: command.to_owned(),
        status,
        shows: shows.iter().map(|line| (*line).to_owned()).collect(),
    };
    let expected = [
        step("one --a      --b", 0, &[]),
        step("two", 1, &["FAIL at 0x*: page"]),
    ];
    assert_eq!(steps(text), expected);
}

#[test]
#[should_panic(expected = "does not print")]
fn a_line_that_is_not_printed_is_told() {
    walk(&[Step {
        command: "echo this".to_owned(),
        status: 0,
        shows: vec!["that".to_owned()],
    }]);
}

#[test]
#[should_panic(expected = "cargo witness nothing")]
fn another_status_is_told() {
    walk(&[Step {
        command: "cargo witness nothing".to_owned(),
        status: 0,
        shows: Vec::new(),
    }]);
}
