//! What a kernel prints when something is wrong with it, read out of its log.
//!
//! A report is known by how its first line begins, behind time stamp and caller: other
//! messages may well have such words somewhere. Reports of a processor that did not get to
//! run in time (soft lockups, RCU stalls) are left out: on a host that emulates, the host
//! may be the cause.

use std::fmt;

use monitor::VmError;
use serde::Serialize;

use crate::error::HarnessError;
use crate::guest::Guest;

/// Lines that are kept of one report.
const MOST_LINES: usize = 80;
/// Reports that are kept.
const MOST_SIGNALS: usize = 100;
/// Ends a boot (`run_init_process` of init/main.c).
const BOOTED: &str = "Run /init as init process";
/// What stands above a BUG and a WARNING, and above their own message.
const CUT_HERE: &str = "------------[ cut here ]------------";
/// Begins the line that stands below them.
const END_TRACE: &str = "---[ end trace";
/// Begins the message of a panic in Rust.
const RUST_PANIC: &str = "rust_kernel: panicked at";
/// Stands on a console above a message that somebody more urgent cut off (kernel/printk/nbcon.c,
/// kernel/printk/printk.c).
const PRINTED_AGAIN: &str = "** replaying previous printk message **";
/// Lines of such a message that may have been printed before.
const MOST_AGAIN: usize = 8;
/// Stands behind the name of the task that asked for memory when none was left (mm/oom_kill.c).
const ASKED_IN_VAIN: &str = " invoked oom-killer: ";
/// Bytes of a task's name with the 0 at its end (include/linux/sched.h).
const TASK_COMM_LEN: usize = 16;
/// Begins the line that names the task which was ended for it.
const OUT_OF_MEMORY: &str = "Out of memory";
/// Begins the lines around a report of KASAN, KFENCE, UBSAN and lockdep.
const RULE: &str = "==========";

/// What kind of report it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The kernel ran into a fault of its own.
    Oops,
    /// An assertion of the kernel's, `BUG_ON` or a check that prints `BUG:`.
    Bug,
    /// `WARN_ON` and the like.
    Warning,
    /// A reference count that overflows or comes back from zero.
    Refcount,
    /// A page, or a count of pages, that is not as it must be when it is let go of.
    BadPage,
    /// Memory used outside its bounds or its life, by KASAN.
    Kasan,
    /// The same, by KFENCE.
    Kfence,
    /// Undefined behaviour, by UBSAN.
    Ubsan,
    /// Locks used in a way that can end in a deadlock, by lockdep.
    Lockdep,
    /// A task that waits for minutes.
    HungTask,
    /// Memory ran out, and a task was ended for it.
    OutOfMemory,
    /// The kernel stopped.
    Panic,
}

impl Kind {
    /// Its name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oops => "oops",
            Self::Bug => "bug",
            Self::Warning => "warning",
            Self::Refcount => "refcount",
            Self::BadPage => "bad-page",
            Self::Kasan => "kasan",
            Self::Kfence => "kfence",
            Self::Ubsan => "ubsan",
            Self::Lockdep => "lockdep",
            Self::HungTask => "hung-task",
            Self::OutOfMemory => "out-of-memory",
            Self::Panic => "panic",
        }
    }
}

/// A report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signal {
    /// Its kind.
    pub kind: Kind,
    /// The line that says what is wrong, without its time stamp.
    pub head: String,
    /// The whole report without time stamps, as far as it could be told from what follows;
    /// of a long one the beginning.
    pub text: Vec<String>,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)
    }
}

/// How first lines of reports begin. The first that fits decides.
const HEADS: [(&str, Kind); 31] = [
    ("BUG: KASAN:", Kind::Kasan),
    ("BUG: KFENCE:", Kind::Kfence),
    ("BUG: Bad ", Kind::BadPage),
    ("BUG: non-zero pgtables_bytes", Kind::BadPage),
    ("BUG: unable to handle", Kind::Oops),
    ("BUG: kernel NULL pointer dereference", Kind::Oops),
    ("BUG: MAX_LOCK", Kind::Lockdep),
    ("BUG: ", Kind::Bug),
    ("kernel BUG at ", Kind::Bug),
    (RUST_PANIC, Kind::Bug),
    ("[ BUG: ", Kind::Lockdep),
    ("Oops: ", Kind::Oops),
    ("Oops[", Kind::Oops),
    ("general protection fault", Kind::Oops),
    ("double fault", Kind::Oops),
    ("traps: PANIC", Kind::Oops),
    ("UBSAN: ", Kind::Ubsan),
    ("refcount_t: ", Kind::Refcount),
    ("WARNING: possible ", Kind::Lockdep),
    ("WARNING: inconsistent lock state", Kind::Lockdep),
    ("WARNING: suspicious RCU usage", Kind::Lockdep),
    ("WARNING: lock held when returning", Kind::Lockdep),
    ("WARNING: bad unlock balance", Kind::Lockdep),
    ("WARNING: bad contention detected", Kind::Lockdep),
    ("WARNING: held lock freed", Kind::Lockdep),
    ("WARNING: Nested lock was not taken", Kind::Lockdep),
    ("WARNING: ", Kind::Warning),
    ("INFO: trying to register non-static key", Kind::Lockdep),
    ("INFO: task ", Kind::HungTask),
    (OUT_OF_MEMORY, Kind::OutOfMemory),
    ("Kernel panic - not syncing", Kind::Panic),
];

/// The kind of report that a line begins.
fn kind(line: &str) -> Option<Kind> {
    let in_vain = line.split_once(ASKED_IN_VAIN);
    if in_vain.is_some_and(|(task, _)| task.len() < TASK_COMM_LEN) {
        return Some(Kind::OutOfMemory);
    }
    let (_, kind) = HEADS.iter().find(|(head, _)| line.starts_with(head))?;
    let waits = || line.contains(" blocked for more than ");
    match kind {
        Kind::HungTask if !waits() => None,
        // `WARNING: ...-safe -> ...-unsafe lock order detected`.
        Kind::Warning if line.contains("lock order detected") => Some(Kind::Lockdep),
        other => Some(*other),
    }
}

/// All reports in a kernel's log, or in what it printed on its console, in their order.
///
/// The oops that a BUG leads to belongs to its report. So does the message of a WARNING,
/// which stands above it. Tasks that waited for long before the first process ran are left
/// out: on a slow host parts of a boot do wait for each other, and no driver is loaded yet.
pub fn signals(log: &str) -> Vec<Signal> {
    let mut reader = Reader::default();
    for line in without_cut_off(log) {
        reader.read(without_stamp(line));
    }
    reader.close();
    reader.found
}

/// The lines of a log without those of messages that were cut off and then printed again.
fn without_cut_off(log: &str) -> Vec<&str> {
    let mut kept: Vec<&str> = Vec::new();
    let mut is_again = false;
    for line in log.lines() {
        if line.starts_with(PRINTED_AGAIN) {
            is_again = true;
            continue;
        }
        if std::mem::take(&mut is_again) {
            let recent = kept.len().saturating_sub(MOST_AGAIN);
            let is_its_start = |cut: &&str| !cut.is_empty() && line.starts_with(*cut);
            if let Some(at) = kept[recent..].iter().position(is_its_start) {
                kept.truncate(recent + at);
            }
        }
        kept.push(line);
    }
    kept
}

/// A line without `<4>`, `[   12.345678]` and `[  T123]` at its beginning.
fn without_stamp(line: &str) -> &str {
    let line = line.trim_end();
    let line = strip(line, '<', '>', |level| level.parse::<u32>().is_ok());
    let stamped = strip(line, '[', ']', |time| time.parse::<f64>().is_ok());
    if stamped.len() == line.len() {
        return line.trim_start();
    }
    let is_caller = |who: &str| {
        let number = who.strip_prefix(['T', 'C']);
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    strip(stamped, '[', ']', is_caller).trim_start()
}

/// `line` without what stands between these at its beginning, if it is what is expected.
fn strip(line: &str, open: char, close: char, is_expected: impl Fn(&str) -> bool) -> &str {
    let inside = line.trim_start().strip_prefix(open);
    match inside.and_then(|inside| inside.split_once(close)) {
        Some((inside, rest)) if is_expected(inside.trim()) => rest,
        _ => line,
    }
}

#[derive(Default)]
struct Reader {
    found: Vec<Signal>,
    /// The first process runs.
    has_booted: bool,
    /// The report that is being read.
    open: Option<Report>,
}

#[derive(Default)]
struct Report {
    /// What it is and the line that says so, once that came.
    head: Option<(Kind, String)>,
    text: Vec<String>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        if line == BOOTED && !self.has_booted {
            self.close();
            self.has_booted = true;
            self.found.retain(|it| it.kind != Kind::HungTask);
        }
        let is_rule = line.starts_with(RULE);
        let begins = line == CUT_HERE && !self.is_rust_panic();
        if begins || (is_rule && !self.has_head()) {
            self.close();
            self.open = Some(Report::default());
        }
        if let Some(kind) = kind(line)
            && !self.belongs(kind)
        {
            if self.has_head() {
                self.close();
            }
            let report = self.open.get_or_insert_default();
            report.head = Some((kind, line.to_owned()));
        }
        let Some(report) = &mut self.open else {
            return;
        };
        if report.text.len() < MOST_LINES {
            report.text.push(line.to_owned());
        }
        if report.ends_with(line) {
            self.close();
        }
    }

    /// Whether a report is open that has its first line and so no need of another one.
    fn has_head(&self) -> bool {
        self.open.as_ref().is_some_and(|it| it.head.is_some())
    }

    /// Whether what is open is the message of a panic in Rust, which a BUG follows.
    fn is_rust_panic(&self) -> bool {
        let head = self.open.as_ref().and_then(|report| report.head.as_ref());
        head.is_some_and(|(_, line)| line.starts_with(RUST_PANIC))
    }

    /// Whether such a line belongs to the report that is open.
    fn belongs(&self, kind: Kind) -> bool {
        let head = self.open.as_ref().and_then(|report| report.head.as_ref());
        let Some((open, _)) = head else {
            return false;
        };
        match kind {
            Kind::Oops => matches!(open, Kind::Bug | Kind::Oops | Kind::Kasan | Kind::Kfence),
            // `refcount_t: ...` stands above the WARNING that it is the message of.
            Kind::Warning => *open == Kind::Refcount,
            Kind::Bug | Kind::OutOfMemory => *open == kind,
            _ => false,
        }
    }

    fn close(&mut self) {
        if let Some(Report {
            head: Some((kind, head)),
            text,
        }) = self.open.take()
            && self.found.len() < MOST_SIGNALS
        {
            self.found.push(Signal { kind, head, text });
        }
    }
}

impl Report {
    /// Whether this line, which it has already, is its last one.
    fn ends_with(&self, line: &str) -> bool {
        let Some((kind, _)) = &self.head else {
            return false;
        };
        let first = self.text.first().map_or("", String::as_str);
        let is_boxed = first.starts_with(RULE);
        match kind {
            _ if line.starts_with(END_TRACE) => true,
            Kind::BadPage | Kind::HungTask | Kind::Lockdep => line == "</TASK>",
            Kind::Kasan | Kind::Kfence | Kind::Ubsan if is_boxed => line.starts_with(RULE),
            // Such as a function that sleeps where it must not: its trace ends the report.
            Kind::Bug if first != CUT_HERE => line == "</TASK>",
            Kind::OutOfMemory => line.starts_with(OUT_OF_MEMORY),
            _ => false,
        }
    }
}

/// The reports in a log, and those that were printed and are not in it: it may have forgotten
/// them, or been kept back by whoever read it out. A line is printed after it is logged, and
/// may have been printed in part.
fn logged_or_printed(log: &str, printed: Vec<Signal>) -> Vec<Signal> {
    let lacks = |it: &Signal| !log.contains(&it.head);
    let mut all = signals(log);
    all.extend(printed.into_iter().filter(lacks));
    all
}

impl Guest {
    /// Reports of the guest kernel that something is wrong with it: those in its log, which
    /// has them first and whole, and those on its console that the log lacks. A guest that
    /// has ended cannot be asked for the log.
    ///
    /// # Errors
    /// When a guest that lives does not give its kernel's log.
    pub fn kernel_signals(&mut self) -> Result<Vec<Signal>, HarnessError> {
        let log = match self.kernel_log() {
            Err(HarnessError::Vm(VmError::Ended(_))) => return Ok(self.console_signals()),
            answer => answer?.map_err(|refusal| HarnessError::Refused {
                operation: "reading the guest kernel's log".into(),
                refusal,
            })?,
        };
        Ok(logged_or_printed(&log, self.console_signals()))
    }

    /// The reports that have come to its console so far, without the lines that its log level
    /// keeps from there.
    pub fn console_signals(&self) -> Vec<Signal> {
        signals(&self.vm().console().text())
    }

    /// The first lines of [`Guest::kernel_signals`].
    ///
    /// # Errors
    /// As for these.
    pub fn kernel_complaints(&mut self) -> Result<Vec<String>, HarnessError> {
        let signals = self.kernel_signals()?;
        Ok(signals.into_iter().map(|signal| signal.head).collect())
    }
}

#[cfg(test)]
mod tests;
