//! The type in effect, by the manual's table written out.

mod support;

use addr::{Gpa, Hpa, Level};
use std::collections::HashMap;
use support::Memory;
use walk::{EptRegs, MemoryType, NptRegs, SecondLevel, Translation, eptp};

/// SDM volume 3A, "Effective Page-Level Memory Types": the first column is the type
/// that the guest's page asks for, the others are types of EPT entries.
const SDM_TABLE: &str = "
    page  UC  WC  WT  WP  WB
    UC    UC  UC  UC  UC  UC
    UC-   UC  WC  UC  WC  UC
    WC    WC  WC  WC  WC  WC
    WT    UC  UC  WT  WT  WT
    WB    UC  WC  WT  WP  WB
    WP    UC  UC  WP  WP  WP
";

fn named(name: &str) -> (u8, MemoryType) {
    (0..8)
        .map(|encoding| (encoding, MemoryType::from_pat_field(encoding)))
        .find(|(_, memory_type)| memory_type.to_string() == name)
        .expect("a type's name")
}

fn only_entry(raw: u64) -> Memory<Hpa> {
    // One 1 GiB leaf below the root's first entry.
    Memory::new(HashMap::from([(0x1000, 0x2007), (0x2000, raw)]))
}

fn through_ept(type_bits: u8, ignore_pat: bool) -> Translation<Hpa> {
    let raw = 0x87 | u64::from(type_bits) << 3 | u64::from(ignore_pat) << 6;
    let tables = SecondLevel::ept(&EptRegs {
        eptp: eptp(Hpa::new(0x1000), Level::P4d, false),
        maxphyaddr: 46,
        gib_pages: true,
        execute_only: false,
        mode_based_exec: false,
    });
    tables
        .expect("a valid pointer")
        .walk(&only_entry(raw), Gpa::new(0))
        .expect("mapped")
}

fn through_npt(host_pat: u64) -> Translation<Hpa> {
    let tables = SecondLevel::npt(&NptRegs {
        ncr3: 0x1000,
        five_levels: false,
        pat: host_pat,
        nxe: true,
        maxphyaddr: 46,
        gib_pages: true,
        encryption_bit: None,
    });
    tables
        .expect("a valid root")
        .walk(&only_entry(0x87), Gpa::new(0))
        .expect("mapped")
}

fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let lines = SDM_TABLE.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| line.split_whitespace().collect())
}

#[test]
fn sdm_ept_type_stands_in_for_the_mtrrs() {
    let ranges = rows().next().expect("the heading");
    let mut checked = 0;
    for row in rows().skip(1) {
        let (_, page) = named(row[0]);
        for (range, expected) in ranges.iter().zip(&row).skip(1) {
            let found = through_ept(named(range).0, false).type_in_effect(page);
            let expected = Some(named(expected).1);
            assert_eq!(found, expected, "page {page}, EPT {range}");
            checked += 1;
        }
    }
    assert_eq!(checked, 30);
}

#[test]
fn sdm_ignore_pat_leaves_the_guest_no_say() {
    for row in rows().skip(1) {
        let (_, page) = named(row[0]);
        let found = through_ept(6, true).type_in_effect(page);
        assert_eq!(found, Some(MemoryType::WriteBack), "page {page}");
        let found = through_ept(4, true).type_in_effect(page);
        assert_eq!(found, Some(MemoryType::WriteThrough), "page {page}");
    }
}

#[test]
fn npt_of_write_back_memory_leaves_the_guest_its_type() {
    for (page, expected) in [
        ("UC", "UC"),
        ("WC", "WC"),
        ("WT", "WT"),
        ("WB", "WB"),
        ("UC-", "UC"),
    ] {
        let found = through_npt(0x06).type_in_effect(named(page).1);
        assert_eq!(found, Some(named(expected).1), "page {page}");
    }
    // Other nested types combine by rules of their own, which are not claimed.
    assert_eq!(
        through_npt(0x01).type_in_effect(MemoryType::WriteBack),
        None
    );
}

#[test]
fn no_type_has_no_effect() {
    let reserved = MemoryType::from_pat_field(3);
    assert_eq!(through_ept(6, false).type_in_effect(reserved), None);
    assert_eq!(through_npt(0x06).type_in_effect(reserved), None);
}
