//! What is said of the leaves at both levels and of the memory type in effect.

use addr::{Hpa, Level, Pfn};
use walk::{EptRegs, SecondLevel, eptp};

use super::fixture::{Case, Nested, TABLES};
use super::{BIG5, Change, PageVerdict, b3};
use crate::contract::Access;
use crate::leaf::Leaves;

/// An EPT leaf of b[3]: read, write, execute, with this type and ignore-PAT.
fn through_ept(case: &mut Case, memory_type: u64, ignore_pat: bool) {
    let [root, pud, pmd, pte] = TABLES;
    let leaf = Pfn::new(0x8_0015).raw() << 12 | memory_type << 3 | u64::from(ignore_pat) << 6 | 7;
    let nested = Nested {
        gpa: 0xd100_5000,
        path: [pud | 7, pmd | 7, pte | 7, leaf],
    };
    let tables = SecondLevel::ept(&EptRegs {
        eptp: eptp(Hpa::new(root), Level::P4d, false),
        maxphyaddr: 46,
        gib_pages: true,
        execute_only: false,
        mode_based_exec: false,
    });
    case.second_level = Some(Ok(nested.through(&tables.expect("a root"))));
}

fn said(case: Case) -> String {
    let (_, evidence) = case.evidence();
    Leaves::of(&evidence).expect("mapped").to_string()
}

#[test]
fn the_type_in_effect_stands_beside_the_one_asked_for() {
    let asked = "UC- by the guest (4 KiB pages), ";
    let cases: [(&str, Change); 6] = [
        ("WB by the second level (4 KiB pages): UC in effect", |_| {}),
        (
            "WB by the second level (4 KiB pages): UC in effect",
            |case| {
                through_ept(case, 6, false);
            },
        ),
        (
            "WB by the second level (4 KiB pages), which ignores the guest's: WB in effect",
            |case| through_ept(case, 6, true),
        ),
        (
            "WC by the second level (4 KiB pages): WC in effect",
            |case| {
                through_ept(case, 1, false);
            },
        ),
        (
            "WB by the second level (4 KiB pages): unknown in effect",
            |case| case.caches = false,
        ),
        ("unknown by the second level: unknown in effect", |case| {
            case.second_level = Some(Err("no root".into()));
        }),
    ];
    for (expected, change) in cases {
        let mut case = b3();
        change(&mut case);
        assert_eq!(said(case), format!("{asked}{expected}"));
    }
}

#[test]
fn sizes_are_those_of_the_leaves() {
    let big = Case::right(BIG5, Access::READ_WRITE, Level::Pmd);
    let words = said(big);
    assert!(words.contains("(2048 KiB pages), WB"), "{words}");
}

#[test]
fn nothing_is_said_of_a_page_that_is_not_mapped() {
    let (_, evidence) = Case::absent().evidence();
    assert_eq!(Leaves::of(&evidence), None);
}

/// An override below changes nothing for the driver, and a mismatch shows it.
#[test]
fn the_driver_answers_for_the_type_that_it_asked_for() {
    let mut case = b3();
    through_ept(&mut case, 6, true);
    let (verdict, unheard) = case.judge();
    assert!(matches!(verdict, PageVerdict::Pass(_)) && unheard.is_empty());

    let mut case = b3();
    through_ept(&mut case, 6, true);
    case.tables.path[3] &= !super::fixture::PCD;
    let (PageVerdict::Fail(mismatch), _) = case.judge() else {
        panic!("WB was asked for");
    };
    let line = mismatch.host.last().expect("a line");
    assert!(
        line.starts_with("memory type: WB by the guest") && line.ends_with("WB in effect"),
        "{line}"
    );
}
