//! Every concept in `guest-module/CONCEPTS.md` names tests, and they exist.

const CONCEPTS: &str = include_str!("../../guest-module/CONCEPTS.md");

/// The programs that it names, with what they are compiled from.
const PROGRAMS: [(&str, &str); 16] = [
    ("atlas", include_str!("atlas.rs")),
    ("buffers", include_str!("buffers.rs")),
    ("contract", include_str!("contract.rs")),
    ("hpet_real", include_str!("hpet_real.rs")),
    ("kernel_view", include_str!("kernel_view.rs")),
    ("mappings", include_str!("mappings.rs")),
    ("operations", include_str!("operations.rs")),
    ("persona_agp", include_str!("persona_agp.rs")),
    ("persona_bsr", include_str!("persona_bsr.rs")),
    ("persona_hpet", include_str!("persona_hpet.rs")),
    ("persona_mspec", include_str!("persona_mspec.rs")),
    ("refusals", include_str!("refusals.rs")),
    ("revoke", include_str!("revoke.rs")),
    ("second_level", include_str!("second_level.rs")),
    ("strategies", include_str!("strategies.rs")),
    ("concepts", include_str!("concepts.rs")),
];

/// The tests that a row names in its last column, or `None` when it is no row.
fn named(line: &str) -> Option<Vec<&str>> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').collect();
    let last = cells.get(2)?.trim();
    if last == "witnessed by" || last.starts_with("---") {
        return None;
    }
    Some(
        last.split(',')
            .map(|name| name.trim().trim_matches('`'))
            .collect(),
    )
}

/// Whether a program has a test of this name: the function right below its attributes.
fn exists(name: &str) -> bool {
    let Some((program, test)) = name.split_once("::") else {
        return false;
    };
    let source = PROGRAMS.iter().find(|(known, _)| *known == program);
    source.is_some_and(|(_, source)| {
        let mut is_test = false;
        source.lines().any(|line| {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[rstest]");
            let Some(declared) = line.strip_prefix("fn ") else {
                return false;
            };
            let found = is_test && declared.split_once('(').is_some_and(|(fun, _)| fun == test);
            is_test = false;
            found
        })
    })
}

#[test]
fn every_concept_is_witnessed_by_tests_that_exist() {
    let rows: Vec<_> = CONCEPTS.lines().filter_map(named).collect();
    assert!(rows.len() >= 30, "{} rows", rows.len());
    for name in rows.iter().flatten() {
        assert!(exists(name), "no test {name}");
    }
}

#[test]
fn a_name_that_is_no_test_is_noticed() {
    assert!(exists("concepts::a_name_that_is_no_test_is_noticed"));
    assert!(!exists("concepts::exists"));
    assert!(!exists("concepts::a_name"));
    assert!(!exists("nowhere::a_name_that_is_no_test_is_noticed"));
    assert!(!exists(""));
    assert_eq!(
        named("| a | b | `c::d`, `e::f` |"),
        Some(vec!["c::d", "e::f"])
    );
    assert_eq!(named("|---|---|---|"), None);
    assert_eq!(named("text"), None);
}
