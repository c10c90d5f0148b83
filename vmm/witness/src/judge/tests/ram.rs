//! Pages of RAM whose frame nobody knows beforehand.

use std::collections::BTreeSet;

use super::fixture::{self, LEAF, Tables};
use super::*;
use crate::judge::{RamContent, RamPage, judge_ram};
use crate::memslot;

/// A page of the guest's RAM.
const GPA: u64 = 0x12_3000;
const WORD: u64 = 0x1234_5678;
/// What Linux sets in an entry for a page of RAM, cached.
const CACHED: u64 = LEAF & !fixture::PCD;

struct Ram {
    case: Case,
    wanted: RamPage,
    content: RamContent,
}

fn right() -> Ram {
    let frame = Pfn::new(0x9_1234);
    let mut case = Case::absent();
    case.tables = Tables::mapping(fixture::GVA, GPA, Level::Pte, CACHED);
    case.slot = memslot::find(&fixture::slots(), Gpa::new(GPA));
    case.slot_frame = Some(Ok(frame));
    case.second_level = Some(Ok(Nested::mapping(GPA, frame, true).entry()));
    Ram {
        case,
        wanted: RamPage {
            access: Access::READ_WRITE,
            memory_type: MemoryType::WriteBack,
            others: BTreeSet::from([Gpa::new(GPA + 0x1000)]),
        },
        content: RamContent {
            first: Ok(0),
            stored: Ok(WORD),
            found: Some(WORD),
        },
    }
}

fn judge(change: impl FnOnce(&mut Ram)) -> (PageVerdict, Vec<Link>) {
    let mut ram = right();
    change(&mut ram);
    let (_, evidence) = ram.case.evidence();
    let plan = fixture::plan();
    let (verdict, unheard) = judge_ram(&plan, &STAMPS, PAGE, &ram.wanted, &evidence, &ram.content);
    (verdict, unheard.into_iter().map(|(link, _)| link).collect())
}

#[test]
fn a_page_of_its_own_passes_by_all_links() {
    assert_eq!(judge(|_| {}), (PageVerdict::Pass(CHAIN.to_vec()), vec![]));
}

#[test]
fn each_deviation_fails_at_its_own_link() {
    type Change = fn(&mut Ram);
    let other_slot = |ram: &mut Ram| {
        ram.case.slot = memslot::find(&fixture::slots(), Gpa::new(0xd100_2000));
    };
    let deviations: [(&str, Change, Link); 11] = [
        ("absent", |ram| ram.case.tables.path[3] = 0, GuestWalk),
        (
            "uncached",
            |ram| set(&mut ram.case, 3, fixture::PCD),
            GuestWalk,
        ),
        (
            "for loads only",
            |ram| clear(&mut ram.case, 3, fixture::WRITE),
            GuestWalk,
        ),
        (
            "global",
            |ram| set(&mut ram.case, 3, fixture::GLOBAL),
            GuestWalk,
        ),
        (
            "another page's",
            |ram| ram.wanted.others.extend([Gpa::new(GPA)]),
            GuestWalk,
        ),
        ("a window of the device", other_slot, Memslot),
        ("nowhere", |ram| ram.case.slot = None, Memslot),
        (
            "another frame below",
            |ram| ram.case.slot_frame = Some(Ok(Pfn::new(1))),
            SecondLevel,
        ),
        (
            "somebody else's words",
            |ram| ram.content.first = Ok(WORD),
            Stamp,
        ),
        (
            "no store",
            |ram| ram.content.stored = Err("SIGSEGV".into()),
            Stamp,
        ),
        ("stored elsewhere", |ram| ram.content.found = Some(0), Stamp),
    ];
    for (name, change, link) in deviations {
        match judge(change).0 {
            PageVerdict::Fail(mismatch) => assert_eq!(mismatch.link, link, "{name}"),
            PageVerdict::Pass(links) => panic!("{name}: passed by {links:?}"),
        }
    }
}

#[test]
fn what_cannot_be_heard_is_no_pass() {
    let (verdict, unheard) = judge(|ram| {
        ram.case.slot_frame = None;
        ram.content.found = None;
    });
    let heard = vec![Link::Contract, GuestWalk, Memslot];
    assert_eq!(verdict, PageVerdict::Pass(heard));
    assert_eq!(unheard, [HostFrame, SecondLevel, Stamp]);
}
