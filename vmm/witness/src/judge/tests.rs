//! Each deviation fails at its own link, and what is right passes.

mod absence;
mod any;
mod below;
mod buffers;
mod content;
mod fixture;
mod host;
mod leaves;
mod ram;
mod walks;

use addr::{Gpa, Level, Pfn};
use walk::MemoryType;

use super::{PageVerdict, judge_page};
use crate::contract::{Access, DevicePage, Expected, Plan};
use crate::link::Link::{self, Contract, GuestWalk, HostFrame, Memslot, SecondLevel, Stamp};
use fixture::{ACCESSED, BIT_7, Case, DIRTY, NO_EXECUTE, Nested, PAGE, STAMPS};

const B3: DevicePage = DevicePage { window: 1, page: 3 };
const B4: DevicePage = DevicePage { window: 1, page: 4 };
const BIG5: DevicePage = DevicePage { window: 2, page: 5 };
const RO1: DevicePage = DevicePage { window: 3, page: 1 };

const CHAIN: &[Link] = &Link::ALL;

/// What must become of a case.
enum End<'a> {
    /// These links agree, and these could not be heard.
    Pass(&'static [Link], &'static [Link]),
    /// This link disagrees: what it expects, and what it found.
    Fail(Link, &'a str, &'a str),
}
use End::{Fail, Pass};

type Change = fn(&mut Case);

/// One deviation from a case that passes, by name.
type Row<'a> = (&'a str, Change, End<'a>);

fn check(right: impl Fn() -> Case, rows: &[Row<'_>]) {
    for (name, change, end) in rows {
        let mut case = right();
        change(&mut case);
        let gva = format!("{:#x}", case.tables.gva);
        let (verdict, unheard) = case.judge();
        let unheard: Vec<Link> = unheard.into_iter().map(|(link, _)| link).collect();
        match (verdict, end) {
            (PageVerdict::Pass(links), Pass(agreed, unwitnessed)) => {
                assert_eq!(links, *agreed, "{name}");
                assert_eq!(unheard, *unwitnessed, "{name}");
            }
            (PageVerdict::Fail(mismatch), Fail(link, expected, found)) => {
                assert_eq!(mismatch.link, *link, "{name}");
                assert_eq!(mismatch.expected, *expected, "{name}");
                assert_eq!(mismatch.found, *found, "{name}");
                assert_eq!((mismatch.page, mismatch.gva), (PAGE, gva), "{name}");
            }
            (verdict, _) => panic!("{name}: {verdict:?}"),
        }
    }
}

fn b3() -> Case {
    Case::right(B3, Access::READ_WRITE, Level::Pte)
}

fn set(case: &mut Case, depth: usize, bits: u64) {
    case.tables.path[depth] |= bits;
}

fn clear(case: &mut Case, depth: usize, bits: u64) {
    case.tables.path[depth] &= !bits;
}

#[test]
fn what_is_right_passes_by_all_links() {
    let pages = [
        (DevicePage { window: 0, page: 0 }, Access::READ_WRITE),
        (B3, Access::READ_WRITE),
        (
            DevicePage {
                window: 1,
                page: 12,
            },
            Access::READ,
        ),
        (RO1, Access::READ),
        (BIG5, Access::READ_WRITE),
    ];
    for (page, access) in pages {
        for level in [Level::Pte, Level::Pmd, Level::Pud] {
            let right = || Case::right(page, access, level);
            check(right, &[("right", |_| {}, Pass(CHAIN, &[]))]);
        }
    }
}

#[test]
fn what_the_contract_does_not_say_does_not_count() {
    check(
        b3,
        &[
            (
                "not used yet",
                |c| clear(c, 3, ACCESSED | DIRTY),
                Pass(CHAIN, &[]),
            ),
            (
                "bits for software",
                |c| set(c, 3, 7 << 9 | 1 << 58),
                Pass(CHAIN, &[]),
            ),
            (
                "UC- by another field of PAT",
                |c| set(c, 3, BIT_7),
                Pass(CHAIN, &[]),
            ),
            (
                "execution denied further up",
                |c| {
                    clear(c, 3, NO_EXECUTE);
                    set(c, 1, NO_EXECUTE);
                },
                Pass(CHAIN, &[]),
            ),
            ("nobody looked", |c| c.seen = None, Pass(&CHAIN[..5], &[])),
        ],
    );
}

#[test]
fn a_wrong_contract_fails_as_such() {
    fn name(case: &mut Case, window: usize, page: u64) {
        let Expected::Present { page: named, .. } = &mut case.expected else {
            panic!("a page is expected");
        };
        *named = DevicePage { window, page };
    }
    let none = "the device has no such page";
    check(
        b3,
        &[
            (
                "past the window",
                |c| name(c, 1, 13),
                Fail(Contract, "b[13]", none),
            ),
            (
                "no such window",
                |c| name(c, 4, 0),
                Fail(Contract, "page 0 of window 4", none),
            ),
            (
                "past 2^64",
                |c| name(c, 1, u64::MAX),
                Fail(Contract, "b[18446744073709551615]", none),
            ),
        ],
    );
}

/// The part of a case that each link speaks of, spoiled.
const SPOILED: [(Link, Change); 6] = [
    (Contract, |c| {
        c.expected = Expected::Present {
            page: DevicePage { window: 9, page: 3 },
            access: Access::READ_WRITE,
            memory_type: MemoryType::UncachedMinus,
        }
    }),
    (GuestWalk, |c| set(c, 3, 0x2000)),
    (Memslot, |c| c.slot = None),
    (HostFrame, |c| c.slot_frame = Some(Ok(Pfn::new(1)))),
    (SecondLevel, |c| {
        c.second_level = Some(Ok(Nested::mapping(0xd100_5000, Pfn::new(1), true).entry()))
    }),
    (Stamp, |c| {
        c.seen.as_mut().expect("seen").stored = Some(Ok(Vec::new()))
    }),
];

#[test]
fn of_several_links_that_disagree_the_earliest_is_named() {
    for chosen in 1_u32..1 << SPOILED.len() {
        let spoiled = SPOILED.iter().enumerate();
        let mut spoiled = spoiled.filter(|(index, _)| chosen >> index & 1 == 1);
        let mut case = b3();
        for (_, (_, spoil)) in spoiled.clone() {
            spoil(&mut case);
        }
        let (_, (earliest, _)) = spoiled.next().expect("at least one");
        match case.judge().0 {
            PageVerdict::Fail(mismatch) => assert_eq!(mismatch.link, *earliest, "{chosen:#b}"),
            passed @ PageVerdict::Pass(_) => panic!("{chosen:#b}: {passed:?}"),
        }
    }
}

#[test]
fn a_plan_that_ends_past_2_64_has_no_such_page() {
    let mut plan = fixture::plan();
    plan.windows[1].base = Gpa::new(0xffff_ffff_ffff_e000);
    let (expected, evidence) = b3().evidence();
    let (verdict, _) = judge_page(&plan, &STAMPS, PAGE, &expected, &evidence);
    assert!(
        matches!(&verdict, PageVerdict::Fail(mismatch) if mismatch.link == Contract),
        "{verdict:?}"
    );
}

/// With no plan at all nothing can be right.
#[test]
fn an_empty_plan_passes_no_page() {
    let (expected, evidence) = b3().evidence();
    let plan = Plan {
        windows: Vec::new(),
        buffers: Vec::new(),
    };
    let (verdict, _) = judge_page(&plan, &STAMPS, PAGE, &expected, &evidence);
    assert!(matches!(verdict, PageVerdict::Fail(_)), "{verdict:?}");
}

#[test]
fn a_mismatch_shows_every_step_of_both_walks_and_both_frames() {
    let mut case = b3();
    set(&mut case, 3, 0x2000);
    let PageVerdict::Fail(mismatch) = case.judge().0 else {
        panic!("b[5] is not b[3]");
    };
    assert_eq!(
        mismatch.guest_walk,
        [
            "level 4 entry 0xfe at gpa 0x17f0: 0x0000000000005067",
            "level 3 entry 0x48 at gpa 0x5240: 0x0000000000003067",
            "level 2 entry 0x1a2 at gpa 0x3d10: 0x0000000000009067",
            "level 1 entry 0x7a at gpa 0x93d0: 0x80000000d1007077",
            "-> gpa 0xd1007000 (b[5]), user rw-, UC-",
        ]
    );
    assert_eq!(
        mismatch.host,
        [
            "page 3 of memslot 2 (Window(1)), writable: hva 0x7e00d1005000",
            "host frame behind it: pfn 0x80015",
            "host frame of the expected page: pfn 0x80015",
            "second level 4 entry 0x0 at hpa 0x1000: 0x0000000000005067",
            "second level 3 entry 0x3 at hpa 0x5018: 0x0000000000003067",
            "second level 2 entry 0x88 at hpa 0x3440: 0x0000000000009067",
            "second level 1 entry 0x5 at hpa 0x9028: 0x0000000080015067",
            "second level -> pfn 0x80015, writable, WB, a page of 4 KiB",
            "memory type: UC- by the guest (4 KiB pages), WB by the second level (4 KiB pages): UC in \
             effect",
        ]
    );
}
