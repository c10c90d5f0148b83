//! The atlas: one frame under every address that a kernel has for it.

use crate::common::{self, chain, guest, kernel_facts};
use guest_kernel::KernelFacts;
use harness::atlas::{AtlasOptions, Session, draw};
use harness::report::HostReport;
use harness::{Guest, HarnessError, Verdict};
use wire::atlas::{DmaCopy, Published, VMALLOC_NPAGES};
use wire::{Reply, Request, regs};

fn options() -> AtlasOptions {
    AtlasOptions {
        host: HostReport {
            kind: "test".into(),
            kernel: String::new(),
            second_level: String::new(),
            second_level_levels: None,
        },
        vcpus: 1,
    }
}

/// A guest whose driver stands at the device's doorbell, with all addresses valid.
fn published(facts: &KernelFacts) -> (Guest, Session, Published) {
    let mut guest = guest();
    let session = Session::open(&mut guest).expect("the atlas's file");
    session.publish(&mut guest).expect("the driver rings");
    let published = Session::published(&guest).expect("a table");
    let chart = session.chart(&guest, facts, &published).expect("a chart");
    assert_eq!(chart.disagreements(), Vec::<String>::new());
    (guest, session, published)
}

#[test]
fn every_address_leads_to_the_frame() {
    let mut guest = guest();
    let report = draw(&mut guest, &kernel_facts(), options())
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(report.disagreements(), Vec::<String>::new());
    assert_eq!(report.verdict, Verdict::Pass);
    let kinds: Vec<_> = report
        .chart
        .ram
        .names
        .iter()
        .map(|name| name.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            "user virtual",
            "kernel logical",
            "kernel virtual",
            "kmap_local",
            "physical",
            "bus"
        ]
    );
    // Each of them is another address; only bus and physical are one.
    let mut addresses: Vec<u64> = report
        .chart
        .ram
        .names
        .iter()
        .map(|one| one.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 5);
    assert_eq!(report.chart.device.names.len(), 3);
    assert_eq!(report.chart.vmalloc.len(), VMALLOC_NPAGES);
    // The tests' hosts show the second level, so that nothing may go unheard.
    for frame in [&report.chart.ram, &report.chart.device] {
        assert_eq!(frame.below.agrees, Some(true), "{:?}", frame.below);
    }
    let claims = report.chart.claims.iter().chain(&report.afterwards);
    assert!(claims.count() >= 25, "{report:#?}");
}

#[test]
fn a_driver_that_lies_of_any_address_is_caught() {
    let facts = kernel_facts();
    let (mut guest, session, truth) = published(&facts);
    let words = truth.to_words();
    for index in 0..Published::WORDS {
        for by in [0x1000, u64::MAX - 0xfff, 1 << 40, 0x40] {
            let mut lie = words;
            lie[index] = lie[index].wrapping_add(by);
            let lie = Published::from_words(lie);
            let chart = session.chart(&guest, &facts, &lie).expect("a chart");
            let caught = !chart.disagreements().is_empty();
            assert!(caught, "word {index} off by {by:#x}");
        }
    }
    let after = session.go_on(&mut guest, &facts, &truth).expect("the rest");
    assert!(after.iter().all(|claim| claim.agrees), "{after:#?}");
}

#[test]
fn the_temporary_mapping_is_gone_when_the_driver_goes_on() {
    let facts = kernel_facts();
    let (mut guest, session, truth) = published(&facts);
    let after = session.go_on(&mut guest, &facts, &truth).expect("the rest");
    assert!(after.iter().all(|claim| claim.agrees), "{after:#?}");
    // With the very same addresses, only it is missing now.
    let chart = session.chart(&guest, &facts, &truth).expect("a chart");
    let wrong = chart.disagreements();
    assert_eq!(wrong.len(), 1, "{wrong:#?}");
    assert!(wrong[0].starts_with("kmap_local"), "{wrong:#?}");
}

#[test]
fn the_device_moves_data_only_where_it_may() {
    let facts = kernel_facts();
    let (mut guest, session, truth) = published(&facts);
    session.go_on(&mut guest, &facts, &truth).expect("the rest");
    let copy = DmaCopy {
        command: regs::DMA_COMMAND_TO_RAM,
        window: 1,
        page: 12,
        len_bytes: 4096,
        bus_offset: 0,
        status: 0,
    };
    let done = session.copy(&mut guest, copy).expect("an answer");
    assert_eq!(done, regs::DMA_STATUS_DONE);
    let window = guest.vm().windows()[1].read(12, 0, 4096).expect("odd[12]");
    let mut arrived = vec![0; 4096];
    let frame = addr::Gpa::new(truth.bus);
    guest.vm().read(frame, &mut arrived).expect("RAM");
    assert_eq!(arrived, window);
    let loaded = guest.load(session.user, 8, 512).expect("an answer");
    let loaded = loaded
        .expect("mapped")
        .into_iter()
        .flat_map(u64::to_le_bytes);
    assert_eq!(loaded.collect::<Vec<_>>(), window);

    let end_of_ram = 128 << 20;
    for (wrong, status) in [
        (DmaCopy { page: 13, ..copy }, regs::DMA_STATUS_NO_PAGE),
        (DmaCopy { window: 9, ..copy }, regs::DMA_STATUS_NO_PAGE),
        (
            DmaCopy {
                len_bytes: 4097,
                ..copy
            },
            regs::DMA_STATUS_BAD_LENGTH,
        ),
        (DmaCopy { command: 7, ..copy }, regs::DMA_STATUS_BAD_COMMAND),
        (
            DmaCopy {
                bus_offset: end_of_ram - truth.bus,
                ..copy
            },
            regs::DMA_STATUS_NOT_RAM,
        ),
        (
            DmaCopy {
                bus_offset: monitor::MESSAGE_AREA.raw() - truth.bus,
                ..copy
            },
            regs::DMA_STATUS_NOT_RAM,
        ),
    ] {
        let refused = session.copy(&mut guest, wrong).expect("an answer");
        assert_eq!(refused, status, "{wrong:?}");
    }
}

#[test]
fn a_driver_that_does_not_ring_is_noticed() {
    let mut guest = guest();
    let request = Request::Log {
        text: "no ring".into(),
    };
    let error = guest.request_to_device(&request).expect_err("no ring");
    assert!(matches!(error, HarnessError::NotRung { .. }), "{error}");
    // The conversation goes on.
    let reply = guest.request(&request).expect("an answer");
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
}

#[test]
fn a_mapping_outlives_its_driver() {
    let facts = kernel_facts();
    let (mut guest, session, truth) = published(&facts);
    session.go_on(&mut guest, &facts, &truth).expect("the rest");
    common::unbind(&mut guest);
    let stored = guest.store(session.user, 8, vec![7]).expect("an answer");
    stored.expect("the page is still there");
    let view = guest.kernel(&facts).expect("this kernel");
    let frame = addr::Gfn::containing(addr::Gpa::new(truth.bus));
    let page = view.page_of(frame).expect("readable").expect("a page");
    assert_eq!((page.refcount, page.mapcount()), (1, 1));
    let walked = view.walk(session.user).expect("mapped");
    assert_eq!(walked.address.raw(), truth.bus);
    // The driver has nothing of it any more.
    for gva in [truth.vmap, truth.vmalloc, truth.ioremap] {
        assert!(view.walk(addr::Gva::new(gva)).is_err(), "{gva:#x}");
    }
    let complaints = guest.kernel_complaints().expect("a log");
    assert_eq!(complaints, Vec::<String>::new());
}
