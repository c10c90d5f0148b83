//! Reports as kernels print them; those of a guest of this project are in tests/guests/signals.rs.

use super::*;

fn kinds(log: &str) -> Vec<(Kind, String, usize)> {
    let all = signals(log).into_iter();
    all.map(|it| (it.kind, it.head, it.text.len())).collect()
}

#[test]
fn a_warning_has_its_message_and_ends_with_its_trace() {
    let log = "\
[    1.000000] example: bound
[    2.000000] ------------[ cut here ]------------
[    2.000001] an unusual thing
[    2.000002] WARNING: drivers/example.c:7 at example_mmap+0x11/0x20, CPU#0: init/1
[    2.000003]  <TASK>
[    2.000004]  </TASK>
[    2.000005] ---[ end trace 0000000000000000 ]---
[    2.000006] example: goes on
";
    let head = "WARNING: drivers/example.c:7 at example_mmap+0x11/0x20, CPU#0: init/1";
    assert_eq!(kinds(log), [(Kind::Warning, head.to_owned(), 6)]);
    assert_eq!(signals(log)[0].text[1], "an unusual thing");
}

#[test]
fn a_refcount_report_is_one_and_not_a_warning_besides() {
    let log = "\
------------[ cut here ]------------
refcount_t: underflow; use-after-free.
WARNING: lib/refcount.c:28 at refcount_warn_saturate+0xb1/0x100, CPU#0: init/1
---[ end trace 0000000000000000 ]---
";
    let head = "refcount_t: underflow; use-after-free.".to_owned();
    assert_eq!(kinds(log), [(Kind::Refcount, head, 4)]);
}

#[test]
fn a_bug_takes_its_oops_along_and_a_panic_follows() {
    let log = "\
[    2.000000][    T1] ------------[ cut here ]------------
[    2.000000][    T1] kernel BUG at mm/example.c:12!
[    2.000000][    T1] Oops: invalid opcode: 0000 [#1] SMP
[    2.000000][    T1]  </TASK>
[    2.000000][    T1] ---[ end trace 0000000000000000 ]---
[    2.000000][    T1] Kernel panic - not syncing: Fatal exception
";
    let found = kinds(log);
    assert_eq!(found.len(), 2);
    let bug = (Kind::Bug, "kernel BUG at mm/example.c:12!".to_owned(), 5);
    assert_eq!(found[0], bug);
    assert_eq!(found[1].0, Kind::Panic);
}

#[test]
fn a_panic_in_rust_and_its_bug_are_one() {
    let log = "\
rust_kernel: panicked at example.rs:3:4:
attempt to add with overflow
------------[ cut here ]------------
kernel BUG at rust/helpers/bug.c:7!
Oops: invalid opcode: 0000 [#1] SMP
---[ end trace 0000000000000000 ]---
";
    let head = "rust_kernel: panicked at example.rs:3:4:".to_owned();
    assert_eq!(kinds(log), [(Kind::Bug, head, 6)]);
}

#[test]
fn boxed_reports_end_at_their_second_rule() {
    let rule = "=".repeat(66);
    let log = format!(
        "{rule}\nBUG: KASAN: slab-out-of-bounds in beyond+0x1/0x2\nRead of size 1\n </TASK>\n\
         Allocated by task 1:\n{rule}\nexample: goes on\n{rule}\n\
         WARNING: possible circular locking dependency detected\n </TASK>\nexample: goes on\n\
         BUG: KFENCE: use-after-free read in after+0x1/0x2\n"
    );
    let found = signals(&log);
    let lens: Vec<(Kind, usize)> = found.iter().map(|it| (it.kind, it.text.len())).collect();
    assert_eq!(
        lens,
        [(Kind::Kasan, 6), (Kind::Lockdep, 3), (Kind::Kfence, 1)]
    );
}

#[test]
fn reports_without_an_end_are_told_apart() {
    let log = "\
BUG: Bad page map in process init  pte:00000001 pmd:00000002
addr:00007f0000000000 vm_flags:000000fb
BUG: Bad rss-counter state mm:0000000000000001 type:MM_FILEPAGES val:-1
INFO: task init:1 blocked for more than 122 seconds.
WARNING: softirq-safe -> softirq-unsafe lock order detected
[ BUG: Invalid wait context ]
";
    let found: Vec<Kind> = signals(log).iter().map(|it| it.kind).collect();
    assert_eq!(
        found,
        [
            Kind::BadPage,
            Kind::BadPage,
            Kind::HungTask,
            Kind::Lockdep,
            Kind::Lockdep
        ]
    );
}

#[test]
fn a_guest_without_memory_is_told_with_who_asked_for_it() {
    let log = "\
[    1.000000][   T27] init invoked oom-killer: gfp_mask=0xdc0(GFP_KERNEL|__GFP_ZERO), order=0
[    1.000001][   T27]  <TASK>
[    1.000002][   T27]  example_mmap+0xc8/0x140 [example]
[    1.000003][   T27]  </TASK>
[    1.000004][   T27] Mem-Info:
[    1.000005][   T27] Out of memory: Killed process 27 (init) total-vm:1932kB
[    1.000006][   T27] init: page allocation failure: order:0
[    2.000000][    T1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
";
    let found = signals(log);
    let kinds: Vec<Kind> = found.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::OutOfMemory, Kind::Panic]);
    assert!(found[0].head.starts_with("init invoked"), "{found:?}");
    assert_eq!(found[0].text.len(), 6, "{found:?}");
    let by_the_agent = "mapwitness-agent: it invoked oom-killer: gfp_mask=0xdc0\n";
    assert_eq!(signals(by_the_agent), []);
    // Where warnings are not printed.
    let killed = "Out of memory: Killed process 27 (init) total-vm:1932kB\n";
    let kinds: Vec<Kind> = signals(killed).iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::OutOfMemory]);
}

#[test]
fn what_is_printed_again_is_one_report() {
    let log = "\
[    2.000000][    T1] BUG: sleeping function ca
** replaying previous printk message **
[    2.000000][    T1] BUG: sleeping function called from invalid context at example.c:7
[    2.000001][    T1]  </TASK>
[    2.100000][    T1] BUG: KFENCE: use-after-free read in example+0x1/0x2
[    2.100000][    T1]
** replaying previous printk message **
[    2.100000][    T1] BUG: KFENCE: use-after-free read in example+0x1/0x2
";
    let found: Vec<Kind> = signals(log).iter().map(|it| it.kind).collect();
    assert_eq!(found, [Kind::Bug, Kind::Kfence]);
    // Where nothing was cut off, two are two.
    let log = log.replace("** replaying previous printk message **\n", "");
    let found: Vec<Kind> = signals(&log).iter().map(|it| it.kind).collect();
    assert_eq!(found, [Kind::Bug, Kind::Kfence, Kind::Kfence]);
}

/// A guest can keep its log back, and a log forgets; what was printed is there all the same.
#[test]
fn what_the_log_lacks_is_taken_from_the_console() {
    let heads = |log: &str, console: &str| -> Vec<String> {
        let all = logged_or_printed(log, signals(console));
        all.into_iter().map(|it| it.head).collect()
    };
    let log = "\
[    1.000000][    T1] WARNING: one
[    1.000000][    T1] which was told of
[    2.000000][    T1] WARNING: two
";
    assert_eq!(heads("", log), ["WARNING: one", "WARNING: two"]);
    let kept_back = "[    2.000000][    T1] WARNING: two\n";
    assert_eq!(heads(kept_back, log), ["WARNING: two", "WARNING: one"]);
    for printed in ["", "[    1.000000][    T1] WARNING: o", kept_back, log] {
        assert_eq!(
            heads(log, printed),
            ["WARNING: one", "WARNING: two"],
            "{printed}"
        );
    }
}

#[test]
fn other_lines_are_no_reports() {
    let log = "\
<6>[    0.000000] Linux version 7.3.4 (a@b) #1 SMP
[    0.000000] [Firmware Bug]: TSC not synchronous to P0
[    0.100000] ACPI BIOS Warning (bug): Optional FADT field
[    0.200000] kfence: initialized - using 524288 bytes for 63 objects
[    0.300000] mapwitness-agent: BUG: said by a process
[    0.400000] example: WARNING: said by a driver
[    0.500000] INFO: lockdep is turned off.
[    0.600000] INFO: task list:3 is short
";
    assert_eq!(signals(log), []);
}

#[test]
fn a_kernel_that_never_stops_costs_no_more() {
    let log = "BUG: Bad page map in process init\nmore\n".repeat(10_000);
    assert_eq!(signals(&log).len(), MOST_SIGNALS);
    let log = format!("BUG: endless\n{}", "more\n".repeat(10_000));
    assert_eq!(signals(&log)[0].text.len(), MOST_LINES);
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in "[\\[\\]<>=\\- .0-9TBUGWARNI:\n]{0,200}") {
        for signal in signals(&text) {
            proptest::prop_assert!(!signal.text.is_empty());
        }
    }
}

#[test]
fn tasks_that_wait_for_each_other_in_a_boot_are_left_out() {
    let waits = "INFO: task kworker/u10:0:26 blocked for more than 10 seconds.";
    let warns = "WARNING: init/example.c:7 at example+0x11/0x20, CPU#0: swapper/1";
    let boot = format!("[    9.0] {waits}\n[    9.1]  </TASK>\n[    9.2] {warns}\n");
    let up = "[   11.0][    T1] Run /init as init process\n";
    let heads = |log: &str| -> Vec<String> {
        let all = signals(log).into_iter();
        all.map(|it| it.head).collect()
    };
    assert_eq!(heads(&format!("{boot}{up}")), [warns]);
    assert_eq!(
        heads(&format!("{boot}{up}{boot}{up}")),
        [warns, waits, warns]
    );
    // A boot that is still going on, or whose end is not among what was kept.
    assert_eq!(heads(&boot), [waits, warns]);
}
