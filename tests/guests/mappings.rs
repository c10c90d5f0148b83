//! What the good driver maps, and when: strategy x window x offset x length x
//! protection, each page followed down to the host's frames.

use std::collections::BTreeSet;

use crate::common::{self, Ask, guest, guest_with, mapped, signal};
use addr::PAGE_SIZE;
use contract::When;
use harness::observe::Judged;
use harness::own_driver::{EAGER, LAZY, STRATEGIES};
use harness::{Guest, HarnessError, Mapping, Presence, Strategy};
use rstest::rstest;
use wire::Prot;
use witness::{DevicePage, Link};

/// Nothing wrong, and these many pages there.
#[track_caller]
fn assert_present(judged: &Judged, npages: u64) {
    assert_eq!(judged.mismatch, None);
    assert_eq!((judged.present, judged.absent), (npages, 0));
    for link in [
        Link::Contract,
        Link::GuestWalk,
        Link::Memslot,
        Link::HostFrame,
    ] {
        assert_eq!(judged.links.get(link), npages, "{link}: {judged:?}");
    }
}

#[track_caller]
fn assert_absent(judged: &Judged, npages: u64) {
    assert_eq!(judged.mismatch, None);
    assert_eq!((judged.present, judged.absent), (0, npages));
}

fn unmap(guest: &mut Guest, mapping: &Mapping) {
    let len_bytes = mapping.spec.len_bytes();
    guest
        .munmap(mapping.gva, len_bytes)
        .expect("an answer")
        .expect("unmapped");
}

#[rstest]
fn every_page_goes_where_the_contract_says(
    #[values(EAGER, LAZY)] strategy: Strategy,
    #[values(Prot::READ, Prot::READ_WRITE)] prot: Prot,
) {
    let mut guest = guest();
    let cases = [
        ("page", 0, 1),
        ("odd", 0, 13),
        ("odd", 12, 1),
        ("odd", 5, 3),
        ("large", 0, 1024),
        ("large", 511, 2),
        ("large", 1023, 1),
    ];
    for (window, first_page, npages) in cases {
        let ask = Ask {
            strategy,
            window,
            first_page,
            npages,
            prot,
        };
        let mapping = mapped(&mut guest, ask);
        let before = guest
            .witness(&mapping, &mapping.spec.before_touch())
            .expect("walked");
        match strategy.present {
            When::AtMmap => assert_present(&before, npages),
            When::OnTouch | When::OnTouchHuge | When::OnTouchAround(_) => {
                assert_absent(&before, npages);
            }
        }
        let in_use = guest.witness_in_use(&mapping).expect("walked");
        assert_present(&in_use, npages);
        assert_eq!(in_use.links.stamp, npages);
        unmap(&mut guest, &mapping);
        let after = guest.witness(&mapping, &Presence::Nothing).expect("walked");
        assert_absent(&after, npages);
    }
    assert_eq!(guest.kernel_complaints().expect("its log"), [""; 0]);
}

#[rstest]
fn a_read_only_window_is_mapped_without_write_access(#[values(EAGER, LAZY)] strategy: Strategy) {
    let mut guest = guest();
    let ask = Ask {
        strategy,
        window: "readonly",
        first_page: 1,
        npages: 4,
        prot: Prot::READ,
    };
    let mapping = mapped(&mut guest, ask);
    assert_present(&guest.witness_in_use(&mapping).expect("walked"), 4);
    let store = guest.store(mapping.gva, 8, vec![1]).expect("an answer");
    assert_eq!(signal(store), libc::SIGSEGV);
    assert_present(&guest.witness_in_use(&mapping).expect("walked"), 4);
}

#[test]
fn a_touch_brings_in_the_touched_page_and_no_other() {
    let mut guest = guest();
    let ask = Ask {
        strategy: LAZY,
        window: "odd",
        first_page: 2,
        npages: 11,
        prot: Prot::READ_WRITE,
    };
    let mapping = mapped(&mut guest, ask);
    let mut touched = BTreeSet::new();
    for page in [10, 0, 4] {
        let gva = mapping.page_gva(page).expect("in the mapping");
        guest
            .load(gva, PAGE_SIZE, 1)
            .expect("an answer")
            .expect("loaded");
        touched.insert(page);
        let judged = guest
            .witness(&mapping, &Presence::Only(touched.clone()))
            .expect("walked");
        assert_eq!(judged.mismatch, None);
        assert_eq!(judged.present, touched.len() as u64);
        assert_eq!(judged.absent, 11 - touched.len() as u64);
    }
}

/// Where a mapping begins is what the guest says.
#[test]
fn a_mapping_past_the_end_of_the_address_space_is_no_pass() {
    let mut guest = guest();
    let ask = Ask {
        strategy: LAZY,
        window: "odd",
        first_page: 0,
        npages: 3,
        prot: Prot::READ_WRITE,
    };
    let mapping = Mapping {
        id: 1,
        spec: ask.spec(&guest),
        gva: addr::Gva::new(u64::MAX - (PAGE_SIZE - 1)),
    };
    let below = guest.witness(&mapping, &Presence::Nothing).expect("walked");
    assert!(below.mismatch.is_some(), "{below:?}");
    let in_use = guest.witness_in_use(&mapping);
    assert!(
        matches!(in_use, Err(HarnessError::Rejected { .. })),
        "{in_use:?}"
    );
}

#[test]
fn our_walk_and_kvms_own_translation_agree() {
    let mut config = common::config("good");
    // KVM_TRANSLATE asks as the kernel would, and SMAP keeps the kernel off user pages.
    config.extra_parameters = vec!["clearcpuid=smap".into()];
    let mut guest = common::boot(&config);
    guest.load_driver().expect("loaded");
    let ask = Ask {
        strategy: EAGER,
        window: "odd",
        first_page: 3,
        npages: 7,
        prot: Prot::READ,
    };
    let mapping = mapped(&mut guest, ask);
    for page in 0..7 {
        let gva = mapping.page_gva(page).expect("in the mapping");
        let device_page = DevicePage {
            window: common::window(&guest, "odd"),
            page: 3 + page,
        };
        let theirs = guest.vm().kvm_translate(gva).expect("KVM answers");
        assert_eq!(theirs, guest.plan().gpa(device_page));
    }
}

#[test]
fn a_guest_with_two_vcpus_is_checked_as_one_with_one() {
    let mut config = common::config("good");
    config.vcpus = 2;
    let mut guest = common::boot(&config);
    guest.load_driver().expect("loaded");
    let online = guest
        .read_file("/sys/devices/system/cpu/online")
        .expect("an answer");
    assert_eq!(online.expect("read"), b"0-1\n");
    for strategy in STRATEGIES {
        let ask = Ask {
            strategy,
            window: "large",
            first_page: 100,
            npages: 64,
            prot: Prot::READ_WRITE,
        };
        let mapping = mapped(&mut guest, ask);
        assert_present(&guest.witness_in_use(&mapping).expect("walked"), 64);
    }
}

#[rstest]
#[case::neighbour("off-by-one", 0, 13, 1, "odd[1]", "odd[0]")]
#[case::neighbour_at_an_offset("off-by-one", 6, 4, 1, "odd[7]", "odd[6]")]
#[case::offset_ignored("wrong-offset", 5, 3, 0, "odd[5]", "odd[0]")]
fn a_wrong_page_is_named(
    #[case] variant: &str,
    #[case] first_page: u64,
    #[case] npages: u64,
    #[case] wrong_page: u64,
    #[case] expected: &str,
    #[case] found: &str,
    #[values(EAGER, LAZY)] strategy: Strategy,
) {
    let mut guest = guest_with(variant);
    let ask = Ask {
        strategy,
        window: "odd",
        first_page,
        npages,
        prot: Prot::READ_WRITE,
    };
    let mapping = mapped(&mut guest, ask);
    let judged = guest.witness_in_use(&mapping).expect("walked");
    let mismatch = judged.mismatch.expect("the planted fault");
    assert_eq!(
        (mismatch.link, mismatch.page),
        (Link::GuestWalk, wrong_page)
    );
    assert!(mismatch.expected.contains(expected), "{mismatch:?}");
    assert!(mismatch.found.contains(found), "{mismatch:?}");
    assert!(
        mismatch.guest_walk.len() > 4,
        "every step is told: {mismatch:?}"
    );
}
