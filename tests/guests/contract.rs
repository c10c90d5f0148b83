//! A contract is held against what the driver does, in every one of its parts: what
//! is true of the good driver passes, and each statement that is not is contradicted.

use std::sync::Arc;

use crate::common::{boot, chain, check_options, config, kernel_facts, window};
use contract::{
    Access, Backing, Condition, Errno, FileContract, Fork, Offset, Refusal, VmaFlag, When,
};
use harness::own_driver::{BUFFER_STRATEGIES, EAGER, HUGE, LAZY};
use harness::report::PromiseReport;
use harness::{Driver, Guest, Report, Strategy, Verdict, check};
use walk::MemoryType;
use witness::Link;

/// The report on the driver when its file for this window is said to be as `change`
/// makes it.
fn report(
    guest: &mut Guest,
    strategy: Strategy,
    name: &str,
    change: impl FnOnce(&mut FileContract),
) -> Report {
    let index = window(guest, name);
    let mut file = strategy.file(guest.plan(), index).expect("a window");
    change(&mut file);
    checked(guest, file)
}

/// The report on the driver when this is all that its files promise.
fn checked(guest: &mut Guest, file: FileContract) -> Report {
    let driver = Driver {
        files: vec![Arc::new(file)],
        ..Driver::own(guest.plan())
    };
    check(guest, &driver, &kernel_facts(), check_options("good"))
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// Names of what is wrong in a report.
fn wrong(report: &Report) -> Vec<&str> {
    let mappings = report.mappings.iter().map(|it| (&it.name, it.verdict));
    let refusals = report.refusals.iter().map(|it| (&it.name, it.verdict));
    let promises = report.promises.iter().map(|it| (&it.name, it.verdict));
    mappings
        .chain(refusals)
        .chain(promises)
        .filter(|(_, verdict)| *verdict != Verdict::Pass)
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn what_is_true_of_the_driver_passes() {
    let mut guest = boot(&config("good"));
    for (strategy, names) in [
        (EAGER, ["odd", "readonly"]),
        (LAZY, ["odd", "readonly"]),
        (HUGE, ["odd", "large"]),
    ] {
        for name in names {
            let report = report(&mut guest, strategy, name, |_| ());
            assert_eq!(report.verdict, Verdict::Pass, "{:?}", wrong(&report));
            assert!(report.pages_checked > 13 && report.absences_checked > 0);
            for link in [Link::GuestWalk, Link::Memslot, Link::Stamp] {
                assert_eq!(report.links.get(link), report.pages_checked, "{link}");
            }
        }
    }
}

/// One statement that is not true, and something in the report that says so.
type Lie = (&'static str, fn(&mut FileContract), &'static str);

const LIES: [Lie; 18] = [
    (
        "the window is one page longer",
        |file| file.ranges[0].npages += 1,
        "odd: the last page",
    ),
    (
        "the window is one page shorter",
        |file| file.ranges[0].npages -= 1,
        "odd: one page too long",
    ),
    (
        "it begins with another page",
        |file| {
            let Backing::Window { first_page, .. } = &mut file.ranges[0].backing else {
                panic!("a file of a window");
            };
            *first_page = 1;
        },
        "odd",
    ),
    (
        "it shows another window",
        |file| {
            let Backing::Window { name, .. } = &mut file.ranges[0].backing else {
                panic!("a file of a window");
            };
            *name = "large".into();
        },
        "odd",
    ),
    (
        "the offset does not matter",
        |file| file.ranges[0].offset = Offset::Any,
        "odd: the last page",
    ),
    (
        "the offset begins elsewhere",
        |file| file.ranges[0].offset = Offset::Page(1),
        "odd: the page before the start",
    ),
    (
        "it is cached",
        |file| file.ranges[0].memory_type = MemoryType::WriteBack,
        "odd",
    ),
    (
        "it is executable",
        |file| {
            file.ranges[0].access.exec = true;
            file.refusals.retain(|it| it.when != Condition::Exec);
        },
        "odd: PROT_EXEC",
    ),
    (
        "it cannot be written",
        |file| {
            file.ranges[0].access = Access::READ;
            file.refusals
                .push(Refusal::new(Condition::Write, Errno::EACCES));
        },
        "odd: mprotect to PROT_WRITE",
    ),
    (
        "private mappings are granted",
        |file| {
            file.copy_on_write = true;
            file.refusals.retain(|it| it.when != Condition::Private);
        },
        "odd: MAP_PRIVATE",
    ),
    (
        "private mappings get another error",
        |file| file.refusals[0].errno = Errno::ENODEV,
        "odd: MAP_PRIVATE",
    ),
    (
        "what is outside gets another error",
        |file| file.refusals[2].errno = Errno::ENXIO,
        "odd: the page past the end",
    ),
    (
        "the checks have another order",
        |file| file.refusals.swap(1, 2),
        "odd: PROT_EXEC, one page too long",
    ),
    (
        "a whole window cannot be had",
        |file| {
            let refusal = Refusal::new(Condition::LongerThan(12), Errno::EINVAL);
            file.refusals.push(refusal);
        },
        "odd: 13 pages at page 0",
    ),
    (
        "growth gets another error",
        |file| file.growth = Errno::ENOMEM,
        "odd: mremap to one page more",
    ),
    (
        "its mappings may grow",
        |file| {
            file.vma.set.retain(|flag| *flag != VmaFlag::DontExpand);
            file.vma.clear.push(VmaFlag::DontExpand);
        },
        "odd: vm_flags",
    ),
    (
        "its mappings are locked",
        |file| file.vma.set.push(VmaFlag::Locked),
        "odd: vm_flags, for loads alone",
    ),
    (
        "a child has nothing",
        |file| file.fork = Fork::Nothing,
        "odd: fork",
    ),
];

#[test]
fn what_is_not_true_is_contradicted() {
    let mut guest = boot(&config("good"));
    let mut believed = Vec::new();
    for strategy in [EAGER, LAZY] {
        for (lie, change, contradicted) in LIES {
            let report = report(&mut guest, strategy, "odd", change);
            let contradicted = format!("{}/{contradicted}", strategy.name);
            let wrong = wrong(&report);
            if report.verdict != Verdict::Fail || !wrong.contains(&contradicted.as_str()) {
                believed.push(format!("{}: {lie}: {wrong:?}", strategy.name));
            }
        }
    }
    assert!(believed.is_empty(), "{believed:#?}");
}

/// The report on the driver when its file for the buffer is said to be as `change` makes
/// it.
fn buffer_report(
    guest: &mut Guest,
    strategy: Strategy,
    change: impl FnOnce(&mut FileContract),
) -> Report {
    let mut file = strategy.buffer_file(guest.plan(), 0).expect("a buffer");
    change(&mut file);
    checked(guest, file)
}

#[test]
fn buffers_are_held_against_their_contract() {
    let mut guest = boot(&config("good"));
    for strategy in BUFFER_STRATEGIES {
        let report = buffer_report(&mut guest, strategy, |_| ());
        assert_eq!(report.verdict, Verdict::Pass, "{:?}", wrong(&report));
        assert!(report.pages_checked > 5 && report.absences_checked > 0);
        for link in Link::ALL {
            assert_eq!(report.links.get(link), report.pages_checked, "{link}");
        }
        let references = |it: &&PromiseReport| it.name.ends_with("/ring: page references");
        assert!(report.promises.iter().any(|it| references(&it)));
    }
    let lies: [Lie; 4] = [
        (
            "it begins with another page",
            |file| {
                let Backing::Buffer { first_page, .. } = &mut file.ranges[0].backing else {
                    panic!("a file of a buffer");
                };
                *first_page = 1;
            },
            // The last of them is none that the device was told of.
            "ring: page references",
        ),
        (
            "it is uncached",
            |file| file.ranges[0].memory_type = MemoryType::UncachedMinus,
            "ring",
        ),
        (
            "its mappings are of raw frames",
            |file| file.vma.set.push(VmaFlag::PfnMap),
            "ring: vm_flags",
        ),
        (
            "the buffer has a page that the device was told nothing of",
            |file| file.ranges[0].npages += 1,
            "ring: page references",
        ),
    ];
    for strategy in [BUFFER_STRATEGIES[0], BUFFER_STRATEGIES[5]] {
        for (lie, change, contradicted) in lies {
            let report = buffer_report(&mut guest, strategy, change);
            let contradicted = format!("{}/{contradicted}", strategy.name);
            let wrong = wrong(&report);
            assert!(
                report.verdict == Verdict::Fail && wrong.contains(&contradicted.as_str()),
                "{lie}: {wrong:?}"
            );
        }
    }
}

#[test]
fn when_pages_are_there_is_part_of_the_contract() {
    let mut guest = boot(&config("good"));
    for (strategy, said) in [(EAGER, When::OnTouch), (LAZY, When::AtMmap)] {
        let report = report(&mut guest, strategy, "odd", |file| {
            file.ranges[0].present = said;
        });
        let whole = &report.mappings[0];
        assert_eq!(whole.verdict, Verdict::Fail);
        assert_eq!(whole.failed_phase, Some("before touch"));
    }
}

/// A mapping that should have been refused is looked at, and its first page that the
/// file does not have is named.
#[test]
fn a_page_too_many_is_named() {
    let mut guest = boot(&config("good"));
    for strategy in [EAGER, LAZY] {
        let report = report(&mut guest, strategy, "odd", |file| {
            file.ranges[0].npages -= 1;
        });
        let too_long = report
            .refusals
            .iter()
            .find(|it| it.name.ends_with("/odd: one page too long"))
            .expect("it is asked for");
        assert!(too_long.found.starts_with("mapped at"), "{too_long:?}");
        let mismatch = too_long.mismatch.as_ref().expect("a page");
        assert_eq!((mismatch.page, mismatch.link), (12, Link::GuestWalk));
        assert!(mismatch.found.contains("odd[12]"), "{mismatch:?}");
    }
}
