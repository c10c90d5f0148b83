//! Whatever the evidence, the judge passes what is right and nothing else; what is
//! right is said here a second time, from the raw entries, without the walker.

use addr::{Gpa, Hva, Level, Pfn};
use monitor::SlotUse;
use proptest::prelude::*;
use walk::{MemoryType, TableRead};

use super::super::PageVerdict;
use super::CHAIN;
use super::fixture::{Case, Nested, PAT, STAMPS, TABLES, loaded, plan};
use crate::contract::{Access, DevicePage, Expected};
use crate::host_frame::FrameError;
use crate::link::Link;
use crate::memslot::Hit;
use crate::second_level::Entry;
use crate::stamp::{Loaded, Seen};

/// What the raw entries amount to.
#[derive(Debug)]
enum End {
    Page {
        gpa: u64,
        rights: (bool, bool),
        pat_field: u64,
        alien: bool,
    },
    Nothing,
    Broken,
}

/// The figures of 4-level paging for a processor with 46 bits of physical address,
/// NXE, pages of 1 GiB, PGE and PKE, read one after the other.
fn by_the_figures(case: &Case) -> End {
    let gva = case.tables.gva;
    if !matches!(gva >> 47, 0 | 0x1_ffff) {
        return End::Broken;
    }
    let (mut table, mut user, mut write, mut exec) = (TABLES[0], true, true, true);
    for shift in [39, 30, 21, 12] {
        let at = Gpa::new(table + ((gva >> shift) & 511) * 8);
        let Ok(entry) = case.tables.read_entry(at) else {
            return End::Broken;
        };
        if entry % 2 == 0 {
            return End::Nothing;
        }
        let large = entry & 0x80 != 0 && shift != 12;
        let address = (entry << 12) >> 24 << 12;
        let in_page = (1 << shift) - 1;
        // Bit 12 of a large leaf is PAT.
        let low = if large {
            address & in_page & !0x1000
        } else {
            0
        };
        if address >> 46 != 0 || low != 0 || (large && shift == 39) {
            return End::Broken;
        }
        user &= entry & 4 != 0;
        write &= entry & 2 != 0;
        exec &= entry >> 63 == 0;
        if large || shift == 12 {
            let pat = entry >> if large { 12 } else { 7 } & 1;
            return End::Page {
                gpa: address & !in_page | gva & in_page,
                rights: (write, exec),
                pat_field: PAT >> (8 * (pat * 4 + (entry >> 3 & 3))) & 0xff,
                alien: !user || entry & 0x100 != 0 || entry >> 59 & 15 != 0,
            };
        }
        table = address;
    }
    unreachable!("the last shift returns")
}

fn pat_field(memory_type: MemoryType) -> u64 {
    match memory_type {
        MemoryType::Uncacheable => 0,
        MemoryType::WriteCombining => 1,
        MemoryType::WriteThrough => 4,
        MemoryType::WriteProtected => 5,
        MemoryType::WriteBack => 6,
        MemoryType::UncachedMinus => 7,
        MemoryType::Reserved(field) => field.into(),
    }
}

/// The links that agree when the page is right; `None` when it is not.
fn right(case: &Case) -> Option<Vec<Link>> {
    let walk_ends = by_the_figures(case);
    let Expected::Present {
        page,
        access,
        memory_type,
    } = case.expected
    else {
        let got_through = case.seen.as_ref().is_some_and(|seen| {
            seen.loaded.is_ok() || seen.stored.as_ref().is_some_and(Result::is_ok)
        });
        return (matches!(walk_ends, End::Nothing) && !got_through)
            .then(|| vec![Link::Contract, Link::GuestWalk]);
    };
    let plan = plan();
    let window = plan.windows.get(page.window)?;
    let as_mapped = matches!(walk_ends, End::Page { gpa, rights, pat_field: field, alien: false }
        if page.page < window.npages
            && gpa == window.base.raw() + page.page * 4096
            && access.read
            && rights == (access.write, access.exec)
            && field == pat_field(memory_type));
    let hit = case.slot?;
    let in_slot = hit.page == page.page
        && hit.used_for == SlotUse::Window(page.window)
        && hit.read_only == (window.read_only && !access.write);
    let gone = |frame: &Option<Result<Pfn, FrameError>>| {
        matches!(frame, Some(Err(FrameError::NotPresent { .. })))
    };
    let frames_differ = match (&case.device_frame, &case.slot_frame) {
        (Some(Ok(device)), Some(Ok(slot))) => Some(device != slot),
        (device, slot) => (gone(device) || gone(slot)).then_some(true),
    };
    let below = right_below(case, window.read_only);
    if !as_mapped || !in_slot || frames_differ == Some(true) || below == Some(false) {
        return None;
    }
    let mut links = vec![Link::Contract, Link::GuestWalk, Link::Memslot];
    links.extend(frames_differ.map(|_| Link::HostFrame));
    links.extend(below.map(|_| Link::SecondLevel));
    let Some(seen) = &case.seen else {
        return Some(links);
    };
    if seen.loaded != Ok(loaded(page)) {
        return None;
    }
    match (&seen.stored, access.write) {
        (Some(Ok(arrived)), true) if arrived.as_slice() == [page] => links.push(Link::Stamp),
        (None | Some(Err(_)), false) => links.push(Link::Stamp),
        (None, true) => {}
        _ => return None,
    }
    Some(links)
}

/// Whether the leaf that the nested walk read is the one of the device's frame;
/// `None` when one of the two is not known.
fn right_below(case: &Case, read_only: bool) -> Option<bool> {
    let (Some(Ok(entry)), Some(Ok(pfn))) = (&case.second_level, &case.device_frame) else {
        return None;
    };
    let leaf = entry.walked.as_ref().ok()?.steps.last()?.raw;
    let rights = if read_only { 5 } else { 7 };
    Some(leaf << 12 >> 24 == pfn.raw() && leaf & 7 == rights)
}

fn pages() -> impl Strategy<Value = DevicePage> {
    let page = prop_oneof![8 => 0_u64..16, 1 => any::<u64>()];
    (0_usize..5, page).prop_map(|(window, page)| DevicePage { window, page })
}

fn right_cases() -> impl Strategy<Value = Case> {
    let page = (0..4_usize, any::<u64>(), any::<bool>(), 1_u8..4);
    page.prop_map(|(window, page, write, level)| {
        let described = &plan().windows[window];
        let page = page % described.npages;
        let access = Access {
            write: write && !described.read_only,
            ..Access::READ
        };
        let level = [Level::Pte, Level::Pmd, Level::Pud][usize::from(level - 1)];
        Case::right(DevicePage { window, page }, access, level)
    })
}

fn same_frame(frame: &Result<Pfn, FrameError>) -> Option<Result<Pfn, FrameError>> {
    frame.as_ref().ok().map(|pfn| Ok(*pfn))
}

fn frames() -> impl Strategy<Value = Option<Result<Pfn, FrameError>>> {
    (0_u8..6, any::<u64>()).prop_map(|(kind, word)| {
        let hva = Hva::new(0x1000);
        Some(match kind {
            0 => return None,
            1 => Err(FrameError::Hidden),
            2 => Err(FrameError::Open(std::io::ErrorKind::NotFound.into())),
            3 => Err(FrameError::NotPresent { hva, entry: word }),
            _ => Ok(Pfn::new(word % 3)),
        })
    })
}

fn slots() -> impl Strategy<Value = Option<Hit>> {
    let used_for = prop_oneof![
        Just(SlotUse::Ram),
        Just(SlotUse::MessageArea),
        (0_usize..5).prop_map(SlotUse::Window),
    ];
    let hit = (used_for, 0_u64..16, any::<bool>()).prop_map(|(used_for, page, read_only)| Hit {
        slot: 1,
        used_for,
        page,
        hva: Hva::new(page << 12),
        read_only,
    });
    proptest::option::of(hit)
}

fn looks() -> impl Strategy<Value = Option<Seen>> {
    let words = (any::<u64>(), any::<u64>()).prop_map(|(identity, last)| Loaded { identity, last });
    let got = || Just("a signal".to_owned());
    let loaded = prop_oneof![
        pages().prop_map(|page| Ok(loaded(page))),
        words.prop_map(Ok),
        got().prop_map(Err),
    ];
    let stored = prop_oneof![
        proptest::collection::vec(pages(), 0..3).prop_map(Ok),
        got().prop_map(Err),
    ];
    let seen = (loaded, proptest::option::of(stored));
    proptest::option::of(seen.prop_map(|(loaded, stored)| Seen { loaded, stored }))
}

fn contracts() -> impl Strategy<Value = Expected> {
    let access = (any::<bool>(), any::<bool>(), any::<bool>());
    let present = (pages(), access, any::<u8>()).prop_map(|(page, (read, write, exec), field)| {
        Expected::Present {
            page,
            access: Access { read, write, exec },
            memory_type: MemoryType::from_pat_field(field % 9),
        }
    });
    prop_oneof![Just(Expected::Absent), present]
}

fn nested() -> impl Strategy<Value = Option<Result<Entry, String>>> {
    let gpa = (0_u64..1 << 36).prop_map(|page| page << 12);
    let entry = (gpa, 0_u64..3, any::<bool>())
        .prop_map(|(gpa, pfn, write)| Nested::mapping(gpa, Pfn::new(pfn), write).entry());
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Err("run as root".to_owned()))),
        4 => entry.prop_map(|entry| Some(Ok(entry))),
    ]
}

/// One part of a case, changed: by another, or by as little as can be.
fn changed(case: impl Strategy<Value = Case>) -> impl Strategy<Value = Case> {
    let parts = (
        contracts(),
        slots(),
        frames(),
        frames(),
        looks(),
        any::<u64>(),
        nested(),
    );
    let which = (0_u8..17, 0_usize..4, 0_u32..64);
    (case, parts, which).prop_map(|(mut case, parts, (part, depth, bit))| {
        let (expected, slot, slot_frame, device_frame, seen, word, nested) = parts;
        match part {
            0 => case.expected = expected,
            1 => case.slot = slot,
            2 => case.slot_frame = slot_frame,
            3 => case.device_frame = device_frame,
            4 => case.seen = seen,
            5 => case.tables.path[depth] = word,
            6 => case.tables.gva ^= 1 << bit,
            7 => case.expected = Expected::Absent,
            8..12 => case.tables.path[depth] ^= 1 << bit,
            12 => {
                if let Some(Seen { stored, .. }) = &mut case.seen {
                    *stored = None;
                }
            }
            13 => case.seen = None,
            14 => case.second_level = nested,
            15 => case.slot_frame = case.device_frame.as_ref().and_then(same_frame),
            _ => {}
        }
        case
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn what_passes_is_right_and_what_is_right_passes(
        case in prop_oneof![changed(right_cases()), changed(changed(changed(right_cases())))],
    ) {
        let right = right(&case);
        let asked: &[Link] = match (case.expected, &case.seen) {
            (Expected::Absent, _) => &CHAIN[..2],
            (_, None) => &CHAIN[..5],
            (_, Some(_)) => CHAIN,
        };
        let told = format!("{case:?}");
        let (verdict, unheard) = case.judge();
        match verdict {
            PageVerdict::Pass(links) => {
                let heard = |link: &&Link| !unheard.iter().any(|(unheard, _)| unheard == *link);
                let due: Vec<Link> = asked.iter().filter(heard).copied().collect();
                prop_assert_eq!(&links, &due, "{}", told);
                prop_assert_eq!(Some(links), right, "{}", told);
            }
            PageVerdict::Fail(mismatch) => {
                prop_assert_eq!(None, right, "{}: {:?}", told, mismatch);
            }
        }
    }

    /// A stamp tells its page from every other one.
    #[test]
    fn no_page_has_the_stamp_of_another(one in pages(), other in pages()) {
        prop_assert_eq!(loaded(one) == loaded(other), one == other);
        prop_assert_eq!(STAMPS.stored(1, one) == STAMPS.stored(1, other), one == other);
    }
}
