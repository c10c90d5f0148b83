use proptest::prelude::*;
use walk::MemoryType;

use super::*;
use crate::access::Access;
use crate::errno::Errno;
use crate::file::{Backing, Fork, Offset, When};
use crate::request::Answer;
use crate::rules::{Condition, Refusal};

const SHORT: &str = r#"
[device]
acpi_id = "EXMP0001"

[[device.window]]
name = "frame"
pages = 13

[[file]]
path = "/dev/example"
refusals = [
    { when = "private", errno = "EINVAL" },
    { when = "exec", errno = "EACCES" },
    { when = "outside", errno = "ENXIO" },
]

[[file.range]]
window = "frame"
memory_type = "uc-"
present = "at-mmap"
"#;

const LONG: &str = r#"
[device]
acpi_id = "ABC12EF0"
registers = [{ offset = 0x10, value = 0xcafe }, { offset = 0xffc, value = 1 }]

[[device.window]]
name = "one"
pages = 8
align_pages = 512
access = "r"

[[device.window]]
name = "two"
pages = 4

[module]
parameters = "debug=1 name=x"

[[file]]
path = "/dev/first"
name = "first"
private = "copy-on-write"
refuses_writers = "EROFS"
growth = "ENOMEM"
fork = "on-touch"
refusals = [
    { when = { longer-than = 4 }, errno = "E2BIG" },
    { when = "beyond-access", errno = "EPERM" },
    { when = "outside", errno = "ENXIO" },
]

[[file.range]]
offset = 2
pages = 3
window = "one"
first_page = 5
memory_type = "wc"
present = "on-touch"

[[file.range]]
offset = 5
window = "two"
access = "rwx"
memory_type = "wb"
present = "at-mmap"

[[file]]
path = "/dev/second"
refusals = [
    { when = "always", errno = "EAGAIN" },
]

[[file.range]]
offset = "any"
window = "two"
memory_type = "uc"
present = "at-mmap"
"#;

fn parse(text: &str) -> Contract {
    Contract::from_toml("c.toml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn a_few_lines_are_a_contract() {
    let contract = parse(SHORT);
    assert_eq!(contract.device.registers, None);
    assert_eq!(contract.device.windows[0].align_bytes, 4096);
    let [file] = contract.files.as_slice() else {
        panic!("one file");
    };
    assert_eq!(file.name, "example");
    assert_eq!((file.growth, file.fork), (Errno::EFAULT, Fork::Pages));
    let [range] = file.ranges.as_slice() else {
        panic!("one range");
    };
    assert_eq!((range.offset, range.npages), (Offset::Page(0), 13));
    assert_eq!(range.access, Access::READ_WRITE);
    assert_eq!(range.memory_type, MemoryType::UncachedMinus);
    assert_eq!(
        file.refusals[2],
        Refusal::new(Condition::Outside, Errno::ENXIO)
    );
}

#[test]
fn every_key_is_understood() {
    let contract = parse(LONG);
    assert_eq!(contract.parameters, "debug=1 name=x");
    let registers = contract.device.registers.as_ref().expect("a page");
    assert_eq!((registers[0].offset, registers[0].value), (0x10, 0xcafe));
    assert!(contract.device.windows[0].read_only);
    assert_eq!(contract.device.windows[0].align_bytes, 2 << 20);
    let first = &contract.files[0];
    assert_eq!(first.strategy, "mixed");
    assert_eq!((first.growth, first.fork), (Errno::ENOMEM, Fork::OnTouch));
    assert_eq!(first.refusals[0].when, Condition::LongerThan(4));
    assert!(first.copy_on_write);
    assert_eq!(first.refuses_writers, Some(Errno::EROFS));
    let range = &first.ranges[0];
    assert_eq!((range.npages, range.access), (3, Access::READ));
    let backing = Backing::Window {
        name: "one".into(),
        first_page: 5,
    };
    assert_eq!(range.backing, backing);
    assert_eq!(range.present, When::OnTouch);
    assert!(first.ranges[1].access.exec);
    assert_eq!(contract.files[1].ranges[0].offset, Offset::Any);
}

/// What is changed in the short contract, into what, and what must then be said.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    // The schema.
    (
        "pages = 13",
        "pges = 13",
        &["c.toml:7:1: unknown field `pges`", "`pages`"],
    ),
    ("pages = 13", "pages = -1", &["c.toml:7:9: invalid value"]),
    (
        "pages = 13",
        "pages = \"13\"",
        &["c.toml:7:9: invalid type"],
    ),
    ("pages = 13", "pages = ", &["c.toml:7:"]),
    ("[device]", "[device", &["c.toml:2:"]),
    (
        "\"ENXIO\"",
        "\"EINVALID\"",
        &["c.toml:14:33", "EINVALID", "such as EINVAL"],
    ),
    (
        "\"outside\"",
        "\"outsize\"",
        &["c.toml:14:14", "outsize", "`outside`"],
    ),
    (
        "\"uc-\"",
        "\"uncached\"",
        &["c.toml:19:15", "uncached", "uc-"],
    ),
    (
        "\"at-mmap\"",
        "\"eager\"",
        &["c.toml:20:11", "eager", "`at-mmap`"],
    ),
    (
        "pages = 13",
        "pages = 13\npages = 14",
        &["c.toml:8:1", "duplicate key"],
    ),
    (
        "window = \"frame\"",
        "offset = -4\nwindow = \"frame\"",
        &["c.toml:18:10", "\"any\""],
    ),
    (
        "window = \"frame\"",
        "access = \"wx\"\nwindow = \"frame\"",
        &["c.toml:18:10", "\"rw\""],
    ),
    (
        "memory_type = \"uc-\"",
        "",
        &["c.toml:17:1", "missing field `memory_type`"],
    ),
    // What fits together.
    (
        "EXMP0001",
        "exmp1",
        &["c.toml:3:11: \"exmp1\" is no ACPI", "\"EXMP0001\""],
    ),
    (
        "EXMP0001",
        "MAPW0001",
        &["c.toml:3:11:", "mapwitness's own device"],
    ),
    (
        "window = \"frame\"",
        "window = \"fram\"",
        &[
            "c.toml:18:10: the device has no window \"fram\"",
            "\"frame\"",
        ],
    ),
    (
        "pages = 13",
        "pages = 0",
        &["c.toml:7:9: 0 pages", "1 to 16384"],
    ),
    (
        "pages = 13",
        "pages = 16385",
        &["c.toml:7:9: 16385 pages", "1 to 16384"],
    ),
    (
        "pages = 13",
        "pages = 13\nalign_pages = 3",
        &["c.toml:8:15", "power of two"],
    ),
    (
        "pages = 13",
        "pages = 13\naccess = \"rx\"",
        &["c.toml:8:10", "not run"],
    ),
    (
        "window = \"frame\"",
        "window = \"frame\"\npages = 14",
        &["c.toml:19:9: 14 pages from page 0", "the window has 13"],
    ),
    (
        "window = \"frame\"",
        "window = \"frame\"\nfirst_page = 13",
        &["c.toml:19:14: 0 pages from page 13"],
    ),
    (
        "window = \"frame\"",
        "window = \"frame\"\noffset = 0xfffffffffffff",
        &["c.toml:19:10: no offset of mmap(2)", "not the byte"],
    ),
    (
        "pages = 13",
        "pages = 13\naccess = \"r\"",
        &[
            "c.toml:11:8: nothing says what /dev/example answers to PROT_WRITE",
            "{ when = \"beyond-access\", errno = \"EACCES\" }",
        ],
    ),
    (
        "/dev/example",
        "example",
        &["c.toml:10:8: \"example\" is no path", "\"/dev/example\""],
    ),
    (
        "    { when = \"private\", errno = \"EINVAL\" },\n",
        "",
        &[
            "c.toml:10:8: nothing says what /dev/example answers to MAP_PRIVATE",
            "copy-on-write",
        ],
    ),
    (
        "    { when = \"exec\", errno = \"EACCES\" },\n",
        "",
        &["answers to PROT_EXEC", "\"rwx\""],
    ),
    (
        "    { when = \"outside\", errno = \"ENXIO\" },\n",
        "",
        &["pages that it does not have"],
    ),
];

#[test]
fn each_mistake_is_named_with_its_place_and_what_to_write() {
    let mut wrong = Vec::new();
    for (from, to, words) in MISTAKES {
        assert!(SHORT.contains(from), "{from}");
        let text = SHORT.replacen(from, to, 1);
        let said = Contract::from_toml("c.toml", &text)
            .expect_err(to)
            .to_string();
        let missing = words.iter().find(|word| !said.contains(**word));
        wrong.extend(missing.map(|word| format!("{to}: `{word}` is missing in\n{said}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn names_and_offsets_belong_to_one_thing_each() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "name = \"two\"",
            "name = \"one\"",
            "c.toml:13:8: the name \"one\" is taken",
        ),
        (
            "offset = 5",
            "offset = 4",
            "c.toml:41:10: this range has offsets of an earlier one",
        ),
        ("offset = 5", "offset = \"any\"", "belongs to a range alone"),
        (
            "\"/dev/second\"",
            "\"/dev/second\"\nname = \"first\"",
            "the name \"first\" is taken",
        ),
        (
            "offset = 0x10",
            "offset = 0x11",
            "no register is at byte 0x11",
        ),
        (
            "\"debug=1 name=x\"",
            "\"debug=1\\n\"",
            "no module parameters",
        ),
        ("offset = 5", "access = \"rw\"\noffset = 5", "c.toml:"),
    ];
    for (from, to, words) in cases {
        assert!(LONG.contains(from), "{from}");
        let text = LONG.replacen(from, to, 1);
        let said = Contract::from_toml("c.toml", &text)
            .expect_err(to)
            .to_string();
        assert!(
            said.contains(words),
            "{to}: `{words}` is missing in\n{said}"
        );
    }
}

#[test]
fn the_place_is_shown_below_the_line() {
    let text = SHORT.replace("\"frame\"\nmemory", "\"främ\"\nmemory");
    let said = Contract::from_toml("c.toml", &text).expect_err("no such window");
    let shown = "\
c.toml:18:10: the device has no window \"främ\"
 18 | window = \"främ\"
    |          ^^^^^^
   write one that is described: \"frame\"";
    assert_eq!(said.to_string(), shown);
}

/// TOML knows escapes, so what a text decodes to can hold what the text does not.
#[test]
fn what_is_quoted_leaves_the_terminal_alone() {
    for escape in ["\\e[2J", "\\u009b2J", "\\u202e", "\\n", "\\r", "\u{202e}"] {
        for place in ["path = \"", "window = \"", "acpi_id = \"", "present = \""] {
            let text = SHORT.replacen(place, &format!("{place}{escape}"), 1);
            let said = Contract::from_toml("c.toml", &text).expect_err(escape);
            shows_only_text(&said.to_string());
        }
        let key = format!("{SHORT}\n\"{escape}\" = 1\n");
        let said = Contract::from_toml("c.toml", &key).expect_err(escape);
        shows_only_text(&said.to_string());
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = SHORT
        .replace("EXMP0001", "x")
        .replace("window = \"frame\"", "window = \"y\"");
    let said = Contract::from_toml("c.toml", &text)
        .expect_err("two")
        .to_string();
    assert!(
        said.contains("c.toml:3:") && said.contains("c.toml:18:"),
        "{said}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Contract::read(Path::new("/nowhere/c.toml")).expect_err("not there");
    assert!(missing.to_string().contains("/nowhere/c.toml"));
    let folder = tempfile::tempdir().expect("a folder");
    let huge = folder.path().join("huge.toml");
    std::fs::write(&huge, vec![b'\n'; (1 << 20) + 1]).expect("written");
    let error = Contract::read(&huge).expect_err("too long");
    assert!(
        std::error::Error::source(&error).is_some_and(|it| it.to_string().contains("more than"))
    );
    std::fs::write(&huge, b"\xff\xfe").expect("written");
    assert!(Contract::read(&huge).is_err());
}

/// The text with a piece of it replaced, at any place and by anything.
fn damaged(text: &str, at: usize, len: usize, by: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let start = at % (chars.len() + 1);
    let end = (start + len).min(chars.len());
    let (head, tail) = (&chars[..start], &chars[end..]);
    head.iter().collect::<String>() + by + &tail.iter().collect::<String>()
}

/// Nothing but lines of what can be seen, in the order in which it is written.
#[track_caller]
fn shows_only_text(said: &str) {
    let hidden = |it: char| {
        let turns = "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        it.is_control() && it != '\n' && it != '\t' || turns.contains(it)
    };
    assert!(!said.contains(hidden), "{said:?}");
}

/// Whatever the text: an answer, and a contract that leaves nothing open.
fn holds_together(text: &str) -> Result<(), TestCaseError> {
    match Contract::from_toml("c.toml", text) {
        Err(problems) => {
            let said = problems.to_string();
            prop_assert!(said.starts_with("c.toml"), "{said}");
            shows_only_text(&said);
        }
        Ok(contract) => {
            for file in &contract.files {
                for named in file.requests() {
                    let Answer::Undetermined(why) = file.predict(&named.request) else {
                        continue;
                    };
                    prop_assert!(!why.contains("contract"), "{}: {why}", named.name);
                }
            }
        }
    }
    Ok(())
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("18446744073709551615".to_owned()),
        Just("9223372036854775807".to_owned()),
        Just("0".to_owned()),
        Just("-1".to_owned()),
        Just("\"any\"".to_owned()),
        Just("\"rwx\"".to_owned()),
        Just("\"beyond-access\"".to_owned()),
        Just("{ longer-than = 3 }".to_owned()),
        Just("[[file.range]]\n".to_owned()),
        Just("[[device.window]]\n".to_owned()),
        Just("ä\u{200d}\u{1b}[2J\t".to_owned()),
        "\\PC{0,12}",
        "[\\x00-\\x7f]{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n|\t){0,400}") {
        holds_together(&text)?;
    }

    #[test]
    fn no_damage_to_a_contract_makes_it_panic(
        long: bool,
        damage in proptest::collection::vec((any::<usize>(), 0_usize..24, piece()), 1..4),
    ) {
        let mut text = if long { LONG } else { SHORT }.to_owned();
        for (at, len, by) in damage {
            text = damaged(&text, at, len, &by);
        }
        holds_together(&text)?;
    }

    /// Values of the right type are the hardest to refuse.
    #[test]
    fn no_numbers_make_it_panic(
        pages: u64,
        first: u64,
        offset: u64,
        npages in prop_oneof![any::<u64>(), 1_u64..20],
        align: u64,
        bound: u64,
    ) {
        let signed = |number: u64| number & (u64::MAX >> 1);
        let text = format!(
            "[device]\nacpi_id = \"EXMP0001\"\n[[device.window]]\nname = \"w\"\npages = {}\n\
             align_pages = {}\n[[file]]\npath = \"/dev/w\"\nrefusals = [\n\
             {{ when = {{ longer-than = {} }}, errno = \"EINVAL\" }},\n\
             {{ when = {{ offset-is-not = {} }}, errno = \"EINVAL\" }},\n\
             {{ when = \"private\", errno = \"EINVAL\" }},\n\
             {{ when = \"exec\", errno = \"EINVAL\" }},\n\
             {{ when = \"outside\", errno = \"EINVAL\" }}]\n\
             [[file.range]]\nwindow = \"w\"\nmemory_type = \"uc\"\npresent = \"at-mmap\"\n\
             first_page = {}\noffset = {}\npages = {}\n",
            signed(pages), 1_u64 << (align % 63), signed(bound), signed(bound), signed(first),
            signed(offset), signed(npages),
        );
        holds_together(&text)?;
    }
}
