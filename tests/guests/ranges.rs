//! What is told of a mapping by ranges is what is told of it page by page: of mappings
//! that are right, of contracts that they break in every way, and of a host gone wrong.

use std::collections::BTreeSet;

use crate::common::{Ask, guest, mapped, window};
use crate::faults::{self, KvmSlot};
use addr::PAGE_SIZE;
use harness::own_driver::{EAGER, HUGE, LAZY};
use harness::{Guest, Mapping, Presence, Strategy};
use rstest::rstest;
use walk::MemoryType;
use wire::Prot;
use witness::stamp::{IDENTITY, LAST, Loaded, Seen};
use witness::{DevicePage, Expected, Link};

fn whole(guest: &mut Guest, strategy: Strategy, name: &'static str) -> Mapping {
    let planned = &guest.plan().windows[window(guest, name)];
    let (npages, read_only) = (planned.npages, planned.read_only);
    let prot = if read_only {
        Prot::READ
    } else {
        Prot::READ_WRITE
    };
    let ask = Ask {
        strategy,
        window: name,
        first_page: 0,
        npages,
        prot,
    };
    mapped(guest, ask)
}

/// Both ways say the same. Gives what went first wrong, if anything did.
#[track_caller]
fn assert_alike(
    guest: &Guest,
    mapping: &Mapping,
    contract: &[Expected],
    seen: Option<&[Seen]>,
) -> Option<(Link, u64)> {
    let each = guest.judge_each(mapping, contract, seen).expect("walked");
    let ranges = guest
        .judge(mapping, contract, seen.map(<[Seen]>::to_vec))
        .expect("walked");
    assert_eq!(ranges, each);
    each.mismatch.map(|mismatch| (mismatch.link, mismatch.page))
}

/// What a process sees of pages that are as this contract has them.
fn seen_well(guest: &Guest, contract: &[Expected]) -> Vec<Seen> {
    let stamps = guest.stamps();
    let refused = || "SIGBUS".to_owned();
    let see = |expected: &Expected| match *expected {
        Expected::Absent => Seen {
            loaded: Err(refused()),
            stored: Some(Err(refused())),
        },
        Expected::Present { page, access, .. } => Seen {
            loaded: Ok(Loaded {
                identity: stamps.word(page, IDENTITY),
                last: stamps.word(page, LAST),
            }),
            stored: access.write.then(|| Ok(vec![page])),
        },
    };
    contract.iter().map(see).collect()
}

/// One thing that a contract has otherwise.
type Change = fn(&mut DevicePage, &mut witness::Access, &mut MemoryType);

const CHANGES: [Change; 4] = [
    |page, _, _| page.page += 1,
    |page, _, _| page.window += 1,
    |_, access, _| access.write ^= true,
    |_, _, memory_type| *memory_type = MemoryType::WriteCombining,
];

/// The contract with one page changed; `None` where there is nothing to change.
fn changed(contract: &[Expected], at: usize, change: Change) -> Option<Vec<Expected>> {
    let mut contract = contract.to_vec();
    let Expected::Present {
        page,
        access,
        memory_type,
    } = contract.get_mut(at)?
    else {
        return None;
    };
    change(page, access, memory_type);
    Some(contract)
}

/// Pages to spoil: the ends of the mapping, of a table, and one within.
fn places(npages: usize) -> BTreeSet<usize> {
    let all = [0, 1, npages / 2, 511, 512, npages.saturating_sub(1)];
    all.into_iter().filter(|place| *place < npages).collect()
}

fn spoil_each_page(guest: &Guest, mapping: &Mapping, contract: &[Expected]) {
    for at in places(contract.len()) {
        for change in CHANGES {
            if let Some(contract) = changed(contract, at, change) {
                let wrong = assert_alike(guest, mapping, &contract, None);
                assert_eq!(wrong.map(|(_, page)| page), Some(at as u64));
            }
        }
        let mut contract = contract.to_vec();
        contract[at] = Expected::Absent;
        assert_alike(guest, mapping, &contract, None);
    }
    // Every second page.
    let mut contract = contract.to_vec();
    for expected in contract.iter_mut().step_by(2) {
        *expected = Expected::Absent;
    }
    assert_alike(guest, mapping, &contract, None);
}

fn spoil_each_look(guest: &Guest, mapping: &Mapping, contract: &[Expected]) {
    let well = seen_well(guest, contract);
    let changes: [fn(&mut Seen); 5] = [
        |seen| {
            if let Ok(loaded) = &mut seen.loaded {
                loaded.identity ^= 1;
            }
        },
        |seen| {
            if let Ok(loaded) = &mut seen.loaded {
                loaded.last ^= 1 << 63;
            }
        },
        |seen| seen.loaded = Err("SIGSEGV".into()),
        |seen| seen.stored = Some(Ok(Vec::new())),
        |seen| seen.stored = None,
    ];
    for at in places(contract.len()) {
        for change in changes {
            let mut seen = well.clone();
            change(&mut seen[at]);
            assert_alike(guest, mapping, contract, Some(&seen));
        }
    }
    let short = well.len() / 2;
    assert_alike(guest, mapping, contract, Some(&well[..short]));
}

#[rstest]
#[case(EAGER, "page")]
#[case(EAGER, "large")]
#[case(LAZY, "odd")]
#[case(LAZY, "readonly")]
#[case(HUGE, "large")]
fn ranges_say_what_each_page_says(#[case] strategy: Strategy, #[case] name: &'static str) {
    let mut guest = guest();
    let mapping = whole(&mut guest, strategy, name);
    let contract =
        |guest: &Guest, presence: &Presence| mapping.spec.contract(guest.plan(), presence);
    let untouched = contract(&guest, &mapping.spec.before_touch());
    assert_eq!(assert_alike(&guest, &mapping, &untouched, None), None);
    spoil_each_page(&guest, &mapping, &untouched);

    // Some pages here and there, so that bits differ from one to the next.
    let all = contract(&guest, &Presence::All);
    for page in [0, 3, 4, 600] {
        if let Some(gva) = mapping
            .page_gva(page)
            .filter(|_| page < mapping.spec.npages)
        {
            let _ = guest.load(gva, PAGE_SIZE, 1).expect("an answer");
        }
    }
    assert_alike(&guest, &mapping, &all, None);
    assert_alike(&guest, &mapping, &untouched, None);

    let used = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!(used.mismatch, None);
    let well = seen_well(&guest, &all);
    assert_eq!(assert_alike(&guest, &mapping, &all, Some(&well)), None);
    spoil_each_page(&guest, &mapping, &all);
    spoil_each_look(&guest, &mapping, &all);

    let len_bytes = mapping.spec.len_bytes();
    let unmapped = guest.munmap(mapping.gva, len_bytes).expect("an answer");
    unmapped.expect("unmapped");
    let nothing = contract(&guest, &Presence::Nothing);
    assert_eq!(assert_alike(&guest, &mapping, &nothing, None), None);
    assert_alike(&guest, &mapping, &all, Some(&well));
    spoil_each_look(&guest, &mapping, &nothing);
}

/// A page that the host has exchanged is found among a thousand that are right.
#[rstest]
fn one_foreign_page_is_found_among_those_that_are_right(#[values(0, 1, 511, 700, 1023)] page: u64) {
    let mut guest = guest();
    let mapping = whole(&mut guest, EAGER, "large");
    let contract = mapping.spec.contract(guest.plan(), &Presence::All);
    assert_eq!(assert_alike(&guest, &mapping, &contract, None), None);
    faults::remap(KvmSlot::of(&guest, "large").page_hva(page));
    let wrong = assert_alike(&guest, &mapping, &contract, None);
    assert_eq!(wrong, Some((Link::HostFrame, page)));
}

/// What was read of the tables is not evidence any more once the guest has run: the
/// entries that KVM then makes, and those it drops, are seen by the next look.
#[test]
fn tables_are_read_anew_once_the_guest_has_run() {
    let mut guest = guest();
    let mapping = whole(&mut guest, LAZY, "large");
    let nothing = mapping.spec.contract(guest.plan(), &Presence::Nothing);
    for page in [5, 6, 7, 900] {
        assert_alike(&guest, &mapping, &nothing, None);
        let gva = mapping.page_gva(page).expect("small");
        guest
            .load(gva, PAGE_SIZE, 1)
            .expect("an answer")
            .expect("a word");
        let wrong = assert_alike(&guest, &mapping, &nothing, None);
        assert_eq!(wrong, Some((Link::GuestWalk, 5)));
    }
    let used = guest.witness_in_use(&mapping).expect("walked");
    assert_eq!((used.mismatch, used.links.second_level), (None, 1024));
    // KVM drops every entry of the window; the next look has them made and reads them.
    let index = window(&guest, "large");
    guest.vm_mut().forget_window(index).expect("withdrawn");
    let all = mapping.spec.contract(guest.plan(), &Presence::All);
    assert_eq!(assert_alike(&guest, &mapping, &all, None), None);
}
