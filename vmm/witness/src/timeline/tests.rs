//! Records made up, for a device of two windows.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::{Gfn, Gpa, Level, Pfn};
use monitor::Threads;
use timeline::{Batch, Event, Loss, What};
use walk::{EptRegs, NptRegs, SecondLevel};

use super::{Finding, Frames, InTables, Ledger, Replay, Timeline, Verdict};
use crate::contract::{DevicePage, Plan, WindowPlan};

const BASE: u64 = 0xd1000;
const READ_ONLY_BASE: u64 = 0xd1005;
const VCPU: i32 = 11;
const PREFAULT: i32 = 12;
const SOMEBODY: i32 = 99;
/// KVM's entry for nothing.
const NOTHING: u64 = 1 << 63;
/// KVM's present bit and the rights of NPT.
const PRESENT: u64 = 1 << 11 | 0b101;
const WRITABLE: u64 = 0b10;

/// Frame of page `page` of window `window`: none follows its neighbour's.
const fn frame(window: usize, page: u64) -> u64 {
    0x10_0000 + window as u64 * 0x1000 + page * 2
}

fn plan() -> Plan {
    let window = |name: &str, base, npages, read_only| WindowPlan {
        name: name.into(),
        base: Gpa::new(base << 12),
        npages,
        read_only,
    };
    Plan {
        windows: vec![
            window("four", BASE, 4, false),
            window("fixed", READ_ONLY_BASE, 2, true),
        ],
        buffers: Vec::new(),
    }
}

fn ledger(moves: Option<u64>) -> Ledger {
    let frames = |window, npages| {
        (0..npages)
            .map(|page| Some(Pfn::new(frame(window, page))))
            .collect()
    };
    Ledger {
        frames: Arc::new(Frames::new(vec![frames(0, 4), frames(1, 2)])),
        moves,
    }
}

fn npt() -> SecondLevel {
    SecondLevel::npt(&NptRegs {
        ncr3: 0,
        five_levels: false,
        pat: 0x0407_0506_0007_0106,
        nxe: true,
        maxphyaddr: 40,
        gib_pages: true,
        encryption_bit: None,
    })
    .expect("a processor's")
}

/// A recording of one phase.
struct Tape {
    replay: Replay,
    events: Vec<Event>,
}

impl Tape {
    fn new() -> Self {
        let mut replay = Replay::new(plan(), npt(), ledger(Some(3)));
        replay.phase("in use");
        Self {
            replay,
            events: Vec::new(),
        }
    }

    fn add(&mut self, tid: i32, what: What) -> &mut Self {
        self.events.push(Event {
            order: self.events.len() as u64 + 1,
            cpu: 0,
            tid,
            what,
        });
        self
    }

    fn change(&mut self, tid: i32, gfn: u64, old: u64, new: u64) -> &mut Self {
        self.add(
            tid,
            What::Changed {
                gfn: Gfn::new(gfn),
                level: 1,
                address_space: 0,
                old,
                new,
            },
        )
    }

    fn fault(&mut self, gfn: u64) -> &mut Self {
        self.add(
            VCPU,
            What::Fault {
                gpa: Gpa::new(gfn << 12 | 0x18),
                error_code: 4,
            },
        )
    }

    fn play(&mut self, losses: Vec<Loss>, after: Ledger) -> &mut Self {
        let batch = Batch {
            events: std::mem::take(&mut self.events),
            losses,
        };
        let threads = Threads {
            vcpus: BTreeSet::from([VCPU]),
            prefault: BTreeSet::from([PREFAULT]),
        };
        self.replay.advance(&batch, &threads, after);
        self
    }

    fn finish(&mut self) -> Timeline {
        self.play(Vec::new(), ledger(Some(3))).replay.finish()
    }
}

fn leads_to(pfn: u64) -> u64 {
    pfn << 12 | PRESENT | WRITABLE
}

fn read_only(pfn: u64) -> u64 {
    pfn << 12 | PRESENT
}

fn in_tables(window: usize, page: u64, pfn: Option<u64>) -> InTables {
    InTables {
        page: DevicePage { window, page },
        pfn: pfn.map(Pfn::new),
    }
}

#[track_caller]
fn the_finding(timeline: &Timeline) -> &Finding {
    assert_eq!(timeline.verdict, Verdict::Fail, "{timeline:#?}");
    let [finding] = timeline.findings.as_slice() else {
        panic!("{timeline:#?}");
    };
    finding
}

#[track_caller]
fn the_reason(timeline: &Timeline) -> &str {
    assert_eq!(timeline.verdict, Verdict::Unwitnessed, "{timeline:#?}");
    let [reason] = timeline.unwitnessed.as_slice() else {
        panic!("{timeline:#?}");
    };
    reason
}

#[test]
fn the_guests_accesses_and_the_hosts_prefault_are_told_apart() {
    let mut tape = Tape::new();
    for page in 0..3 {
        let (gfn, new) = (BASE + page, leads_to(frame(0, page)));
        tape.fault(gfn).change(VCPU, gfn, NOTHING, new);
    }
    let told = tape
        .change(PREFAULT, BASE + 3, NOTHING, leads_to(frame(0, 3)))
        .change(SOMEBODY, BASE, leads_to(frame(0, 0)), NOTHING)
        .finish();
    assert_eq!(told.verdict, Verdict::Pass);
    let counts = told.counts;
    assert_eq!(
        (counts.set, counts.set_by_guest, counts.set_by_host),
        (4, 3, 1)
    );
    assert_eq!((counts.zapped, counts.faults), (1, 3));
    assert_eq!((told.reached.len(), told.reached[0].pages), (1, 3));
    assert_eq!(
        told.course,
        [
            "-- in use",
            "#1..6          guest            reaches and so sets four[0..=2]",
            "#7             host, pre-fault  sets four[3]",
            "#8             host, thread 99  zaps four[0]",
        ]
    );
}

#[test]
fn an_entry_to_a_frame_that_is_not_the_pages_own_is_found_though_it_is_gone() {
    let wrong = leads_to(frame(0, 1));
    let told = Tape::new()
        .change(VCPU, BASE + 2, NOTHING, wrong)
        .change(SOMEBODY, BASE + 2, wrong, NOTHING)
        .change(VCPU, BASE + 2, NOTHING, leads_to(frame(0, 2)))
        .finish();
    let finding = the_finding(&told);
    assert_eq!((finding.name.as_str(), finding.order), ("four[2]", 1));
    assert_eq!(finding.phase, "in use");
    assert_eq!(finding.expected, "pfn 0x100004, the frame of four[2]");
    assert_eq!(finding.found, "an entry that leads to pfn 0x100002");
}

#[test]
fn a_large_page_must_lead_each_of_its_pages_home_and_nowhere_else() {
    let large = |gfn| What::Changed {
        gfn: Gfn::new(gfn),
        level: 2,
        address_space: 0,
        old: NOTHING,
        new: leads_to(0x10_0000) | 1 << 7,
    };
    let told = Tape::new().add(VCPU, large(BASE & !0x1ff)).finish();
    assert_eq!(the_finding(&told).expected, "pages of one window");
    // Far away from every window.
    let told = Tape::new().add(VCPU, large(0x1000)).finish();
    assert_eq!((told.verdict, told.counts.foreign), (Verdict::Pass, 1));
}

#[test]
fn nothing_may_be_mapped_past_a_window() {
    for gfn in [BASE + 4, READ_ONLY_BASE + 2] {
        let told = Tape::new()
            .change(VCPU, gfn, NOTHING, leads_to(0x5000))
            .finish();
        assert_eq!(the_finding(&told).expected, "pages of one window");
    }
}

#[test]
fn no_entry_of_a_read_only_window_takes_stores() {
    let gfn = READ_ONLY_BASE + 1;
    let own = frame(1, 1);
    let told = Tape::new()
        .change(VCPU, gfn, NOTHING, read_only(own))
        .finish();
    assert_eq!(told.verdict, Verdict::Pass);
    let told = Tape::new()
        .change(VCPU, gfn, NOTHING, leads_to(own))
        .finish();
    assert_eq!(the_finding(&told).name, "fixed[1]");
    let widened = What::Widened {
        gpa: Gpa::new(gfn << 12),
        old: read_only(own),
        new: leads_to(own),
    };
    let told = Tape::new()
        .change(VCPU, gfn, NOTHING, read_only(own))
        .add(VCPU, widened)
        .finish();
    assert_eq!((the_finding(&told).order, told.counts.changed), (2, 1));
}

/// Another VM of this process has windows at the same guest addresses.
#[test]
fn other_threads_entries_are_left_out_unless_they_lead_here() {
    let told = Tape::new()
        .change(SOMEBODY, BASE, NOTHING, leads_to(0x7777))
        .change(SOMEBODY, BASE, leads_to(0x7777), NOTHING)
        .finish();
    assert_eq!((told.verdict, told.counts.events), (Verdict::Pass, 0));
    assert_eq!(told.counts.foreign, 2);
    // Page 1's frame at page 0: no other VM has that frame.
    let told = Tape::new()
        .change(SOMEBODY, BASE, NOTHING, leads_to(frame(0, 1)))
        .finish();
    assert_eq!(the_finding(&told).name, "four[0]");
}

#[test]
fn an_entry_that_ends_without_a_beginning_is_not_passed_over() {
    let told = Tape::new()
        .change(SOMEBODY, BASE, leads_to(frame(0, 0)), NOTHING)
        .finish();
    assert!(the_reason(&told).contains("no record"), "{told:#?}");
}

#[test]
fn lost_records_leave_nothing_witnessed() {
    let loss = Loss::Overwritten { cpu: 0, records: 5 };
    let mut tape = Tape::new();
    let told = tape.play(vec![loss], ledger(Some(3))).finish();
    assert!(the_reason(&told).contains("5 records overwritten"));
    assert_eq!(told.counts.lost, 5);
    // What comes after is told again.
    tape.change(VCPU, BASE, NOTHING, leads_to(frame(0, 0)));
    assert_eq!(tape.finish().verdict, Verdict::Pass);
}

#[test]
fn what_is_wrong_is_wrong_though_records_were_lost() {
    let told = Tape::new()
        .change(VCPU, BASE, NOTHING, leads_to(frame(0, 3)))
        .play(
            vec![Loss::Marked {
                cpu: 1,
                records: None,
            }],
            ledger(Some(3)),
        )
        .finish();
    assert_eq!(the_finding(&told).name, "four[0]");
    assert_eq!(told.unwitnessed.len(), 1);
}

/// The kernel may move a page there and back again.
#[test]
fn while_the_host_moves_pages_no_frame_is_called_wrong() {
    for moves in [Some(4), None] {
        let told = Tape::new()
            .change(VCPU, BASE, NOTHING, leads_to(0x9999))
            .play(Vec::new(), ledger(moves))
            .replay
            .finish();
        assert!(the_reason(&told).contains("moving"), "{told:#?}");
    }
}

#[test]
fn a_page_that_moved_may_be_at_its_old_or_its_new_frame() {
    let mut moved = ledger(Some(4));
    let frames = vec![vec![Some(Pfn::new(0x9999)); 1], Vec::new()];
    moved.frames = Arc::new(Frames::new(frames));
    let told = Tape::new()
        .change(VCPU, BASE, NOTHING, leads_to(frame(0, 0)))
        .change(SOMEBODY, BASE, leads_to(frame(0, 0)), NOTHING)
        .change(VCPU, BASE, NOTHING, leads_to(0x9999))
        .play(Vec::new(), moved)
        .replay
        .finish();
    assert_eq!(told.verdict, Verdict::Pass, "{told:#?}");
}

#[test]
fn the_tables_must_be_what_the_records_add_up_to() {
    let own = frame(0, 0);
    let tape = || {
        let mut tape = Tape::new();
        tape.change(VCPU, BASE, NOTHING, leads_to(own))
            .play(Vec::new(), ledger(Some(3)));
        tape
    };
    for (found, agree) in [
        (
            vec![in_tables(0, 0, Some(own)), in_tables(0, 1, None)],
            true,
        ),
        (vec![in_tables(0, 0, None)], false),
        (vec![in_tables(0, 0, Some(own + 1))], false),
        (vec![in_tables(0, 1, Some(frame(0, 1)))], false),
    ] {
        let mut tape = tape();
        tape.replay.reconcile(&found);
        let told = tape.finish();
        assert_eq!(told.tables_agree, agree, "{found:?}");
        if !agree {
            assert!(the_reason(&told).contains("add up to"), "{told:#?}");
        }
    }
}

#[test]
fn an_entry_that_outlives_its_memory_is_found() {
    let own = frame(0, 0);
    let mut tape = Tape::new();
    tape.change(VCPU, BASE, NOTHING, leads_to(own))
        .play(Vec::new(), ledger(Some(3)));
    let found = [
        in_tables(0, 0, Some(own)),
        in_tables(1, 0, Some(frame(1, 0))),
    ];
    // Of a window whose memory was not withdrawn entries may be left.
    tape.replay.nothing_left(&BTreeSet::from([1]), None);
    tape.replay.nothing_left(&BTreeSet::from([0]), Some(&found));
    assert_eq!(the_finding(&tape.finish()).name, "four[0]");
    // Without the tables it could also be a record that is missing.
    tape.replay.nothing_left(&BTreeSet::from([0, 1]), None);
    let told = tape.finish();
    assert!(the_reason(&told).contains("no record"));
    assert_eq!(told.left, 1);
    // Both forgot it.
    tape.replay.nothing_left(&BTreeSet::from([0, 1]), None);
    assert_eq!(tape.finish().verdict, Verdict::Pass);
}

#[test]
fn a_page_that_was_used_without_an_entry_is_not_passed_over() {
    let mut tape = Tape::new();
    let page = |page| DevicePage { window: 0, page };
    tape.change(VCPU, BASE, NOTHING, leads_to(frame(0, 0)))
        .play(Vec::new(), ledger(Some(3)));
    tape.replay.used([page(0)].into_iter());
    assert_eq!(tape.finish().verdict, Verdict::Pass);
    tape.replay.used([page(0), page(1)].into_iter());
    assert!(the_reason(&tape.finish()).contains("four[1]"));
}

#[test]
fn parts_of_a_split_page_have_no_records() {
    let split = What::Split {
        gfn: Gfn::new(BASE & !0x1ff),
        level: 2,
    };
    let told = Tape::new().add(VCPU, split).finish();
    assert!(the_reason(&told).contains("split"), "{told:#?}");
}

/// EPT without accessed bits: KVM takes the rights away and keeps the page.
#[test]
fn an_entry_whose_accesses_are_tracked_is_still_there() {
    let ept = SecondLevel::ept(&EptRegs {
        eptp: 0x1e,
        maxphyaddr: 40,
        gib_pages: true,
        execute_only: true,
        mode_based_exec: false,
    })
    .expect("a processor's");
    let tracked = 0x1234 << 12 | 1 << 11;
    let mapped = ept.maps(Level::Pte, tracked).expect("still maps");
    assert_eq!((mapped.address.raw(), mapped.write), (0x1234 << 12, false));
    assert_eq!(ept.maps(Level::Pte, 0x1a0 | NOTHING), None, "frozen");
    assert_eq!(
        ept.maps(Level::Pmd, 0x1234 << 12 | 1 << 11 | 7),
        None,
        "a table"
    );
}

proptest::proptest! {
    /// Records are untrusted: no values of theirs can make the replay panic.
    #[test]
    fn any_records_are_gone_through(
        records in proptest::collection::vec(
            (0u8..8, 0i32..14, proptest::num::u64::ANY, 0u8..8, proptest::num::u64::ANY,
             proptest::num::u64::ANY),
            0..60,
        ),
        near in proptest::bool::ANY,
    ) {
        let mut tape = Tape::new();
        for (kind, tid, place, level, old, new) in records {
            let place = if near { BASE + place % 8 } else { place };
            let (gfn, gpa) = (Gfn::new(place), Gpa::new(place.wrapping_mul(4096)));
            tape.add(tid, match kind {
                0 => What::Mark(7),
                1 => What::Widened { gpa, old, new },
                2 => What::Split { gfn, level },
                3 => What::Mmio { gfn },
                4 => What::Fault { gpa, error_code: old },
                5 => What::Served { gfn, level, spte: new },
                _ => What::Changed { gfn, level, address_space: 0, old, new },
            });
        }
        tape.finish();
    }
}
