//! What the guest's kernel says when something is wrong with it, provoked by a module that
//! does nothing else, is heard as what it is. A kernel without cause says nothing.

use crate::common::{boot, chain, guest, image_of, kernel_facts};
use crate::modules::module_of;
use fuzz::{Case, Pace, Subject};
use guest_images::Flavour;
use harness::Guest;
use harness::model::{Call, Process};
use harness::signals::{Kind, Signal, signals};
use monitor::VmConfig;
use provision::Progress;

/// Requests in which a thread of the guest's kernel gets to write what it has.
const MOST_WAITS: usize = 100;

/// A guest with the module that provokes in it, and its path there.
fn provoked(flavour: Flavour) -> (Guest, String) {
    let image = image_of("good", flavour);
    let module = module_of("complainer", flavour);
    let with = guest_images::with_modules(&image, &[module], &Progress::hidden());
    let (image, mut paths) = with.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let guest = boot(&VmConfig::new(image.vmlinux, image.initramfs));
    (guest, paths.remove(0))
}

/// Reports that `how` leads to in a guest that lives on.
fn reports(guest: &mut Guest, path: &str, how: &str) -> Vec<Signal> {
    let before = guest.kernel_signals().expect("a log").len();
    guest.take_log_news();
    let parameters = format!("how={how}");
    let loaded = guest.load_module_with(path, &parameters);
    loaded.expect("an answer").expect("loaded");
    guest
        .unload_module("complainer")
        .expect("an answer")
        .expect("unloaded");
    // Its console may have them later, and some sooner.
    assert!(guest.take_log_news(), "{how}");
    let mut all = guest.kernel_signals().expect("a log");
    assert!(!guest.take_log_news(), "reading logs nothing");
    all.split_off(before)
}

/// One report of that kind, which names the function that led to it in its text.
#[track_caller]
fn assert_one(found: &[Signal], kind: Kind, head: &str) {
    let [one] = found else {
        panic!("one report, {kind:?}, was expected: {found:#?}");
    };
    assert_is(one, kind, head);
}

#[track_caller]
fn assert_is(one: &Signal, kind: Kind, head: &str) {
    assert_eq!(one.kind, kind, "{one:#?}");
    assert!(one.head.contains(head), "{one:#?}");
    let names_it = one.text.iter().any(|line| line.contains("complainer"));
    assert!(names_it, "{one:#?}");
}

#[test]
fn nothing_is_heard_of_a_kernel_that_is_well() {
    for flavour in [Flavour::Plain, Flavour::Kcov] {
        let image = image_of("good", flavour);
        let mut config = VmConfig::new(image.vmlinux, image.initramfs);
        config.hpet = true;
        config.vcpus = 2;
        // All that it ever says is on the console.
        config.log_level = 8;
        let mut guest = boot(&config);
        guest.load_driver().expect("the driver");
        let found = guest.kernel_signals().expect("a log");
        assert_eq!(found, [], "{flavour}");
        let console = guest.vm().console().text();
        assert!(console.contains("Linux version"), "{console}");
        assert_eq!(signals(&console), [], "{flavour}");
        // On a slow host a part of its boot waits for long, which would stand before its end.
        let waits = "INFO: task kworker/u10:0:26 blocked for more than 10 seconds.\n";
        assert_eq!(signals(&format!("{waits}{console}")), [], "{flavour}");
    }
}

#[test]
fn what_a_plain_kernel_complains_of_is_heard() {
    let (mut guest, path) = provoked(Flavour::Plain);
    guest.take_console_news();
    let found = reports(&mut guest, &path, "warn");
    assert_one(&found, Kind::Warning, "WARNING: ");
    let message = "complainer: as it was asked to";
    assert!(
        found[0].text.iter().any(|line| line == message),
        "{found:#?}"
    );
    let found = reports(&mut guest, &path, "refcount");
    assert_one(&found, Kind::Refcount, "refcount_t: addition on 0");
    let all = guest.kernel_signals().expect("a log");
    assert_eq!(all.len(), 2, "{all:?}");
    // What it prints comes in its own time, and takes nobody's word.
    let heads = |of: Vec<Signal>| -> Vec<String> { of.into_iter().map(|it| it.head).collect() };
    let all = heads(all);
    let has_come = (0..MOST_WAITS).any(|_| {
        guest.kernel_log().expect("an answer").expect("a log");
        heads(guest.console_signals()) == all
    });
    assert!(has_come, "{:#?}", guest.console_signals());
    assert!(guest.take_console_news());
    assert!(!guest.take_console_news(), "it stands still");
}

#[test]
fn what_a_kernel_that_checks_itself_complains_of_is_heard() {
    let (mut guest, path) = provoked(Flavour::Kcov);
    // A bad page makes the kernel distrust its own locks, and lockdep rests from then on.
    let cases = [
        ("locks", Kind::Lockdep, "possible circular locking"),
        ("sleep", Kind::Bug, "BUG: sleeping function called"),
        (
            "use-after-free",
            Kind::Kfence,
            "BUG: KFENCE: use-after-free read",
        ),
        ("bad-page", Kind::BadPage, "BUG: Bad page state"),
    ];
    for (how, kind, head) in cases {
        let found = reports(&mut guest, &path, how);
        assert_one(&found, kind, head);
    }
}

/// The kernel's search comes at times of its own, so that a task that hangs for a while may be
/// told of more than once.
#[test]
fn a_task_that_hangs_is_heard() {
    let (mut guest, path) = provoked(Flavour::Kcov);
    let found = reports(&mut guest, &path, "hang");
    assert!(!found.is_empty());
    for one in &found {
        assert_is(one, Kind::HungTask, "blocked for more than");
    }
}

#[test]
#[ignore = "builds a third kernel, which takes a quarter of an hour and clang"]
fn what_a_kernel_that_checks_every_access_complains_of_is_heard() {
    let (mut guest, path) = provoked(Flavour::Kasan);
    let found = reports(&mut guest, &path, "use-after-free");
    let head = "BUG: KASAN: slab-use-after-free in ";
    assert_one(&found, Kind::Kasan, head);
}

#[test]
fn a_kernel_that_died_is_heard_on_its_console() {
    for (how, kind, head) in [
        ("oops", Kind::Oops, "BUG: kernel NULL pointer dereference"),
        ("bug", Kind::Bug, "kernel BUG at "),
        (
            "out-of-memory",
            Kind::OutOfMemory,
            "invoked oom-killer: gfp_mask=",
        ),
    ] {
        let (mut guest, path) = provoked(Flavour::Plain);
        assert_eq!(guest.kernel_signals().expect("a log"), []);
        let loaded = guest.load_module_with(&path, &format!("how={how}"));
        loaded.expect_err("the agent dies with the kernel");
        let found = guest.kernel_signals().expect("the console");
        assert_one(&found[..1], kind, head);
        let last = found.last().expect("at least that one");
        assert_eq!(last.kind, Kind::Panic, "{found:#?}");
    }
}

/// Whoever writes to the log cannot be taken for the kernel: the agent signs its lines.
#[test]
fn the_agents_own_words_are_no_report() {
    let mut guest = guest();
    let text = "BUG: this is what a case may print".to_owned();
    let request = wire::Request::Log { text: text.clone() };
    let reply = guest.request(&request).expect("an answer");
    assert_eq!(reply, wire::Reply::Done(wire::Value::Unit));
    let log = guest.kernel_log().expect("an answer").expect("a log");
    let line = log.lines().find(|line| line.contains(&text));
    let line = line.unwrap_or_else(|| panic!("it is not in the log: {log}"));
    assert!(line.contains("mapwitness-agent: "), "{line}");
    assert_eq!(guest.kernel_signals().expect("a log"), []);
}

/// A report on the console counts though the log lacks it and the agent says nothing of it:
/// whoever keeps the log back keeps nothing from the host.
#[test]
fn a_report_that_only_the_console_has_is_heard_in_a_case() {
    let (mut guest, path) = provoked(Flavour::Plain);
    let loaded = guest.load_module_with(&path, "how=aside");
    loaded.expect("an answer").expect("loaded");
    let subject = Subject::own(guest, kernel_facts(), None);
    let mut subject = subject.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let unbind = Case {
        operations: vec![Process::FIRST.does(Call::Unbind)],
    };
    for _ in 0..2 {
        let ran = subject.run(&unbind, Pace::Never).expect("it runs");
        let found = ran.found.expect("the report");
        assert_eq!(found.verdict.by, "kernel bug", "{found:?}");
        let text = "BUG: complainer: aside of the log";
        assert!(found.verdict.found.starts_with(text), "{found:?}");
    }
    // As before the case, nothing is new.
    let nothing = Case {
        operations: Vec::new(),
    };
    let ran = subject.run(&nothing, Pace::AtTheEnd).expect("it runs");
    assert_eq!(ran.found, None);
}
