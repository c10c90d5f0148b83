//! Long work says what it is doing and how far it is.
//!
//! Bars on a terminal, plain lines otherwise; always on standard error, because
//! standard output belongs to the one JSON document that a caller may ask for.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Plain lines about one step come at most this often.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

type Sink = Arc<Mutex<dyn Write + Send>>;

#[derive(Clone)]
enum Shown {
    Bars(MultiProgress),
    Lines { sink: Sink, interval: Duration },
}

/// Where progress is shown. Clones show in the same place.
#[derive(Clone)]
pub struct Progress {
    shown: Shown,
}

impl Progress {
    /// Bars when standard error is a terminal, plain lines otherwise.
    pub fn stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            Self {
                shown: Shown::Bars(bars),
            }
        } else {
            Self::lines(std::io::stderr(), LINE_INTERVAL)
        }
    }

    /// Plain lines into `sink`, at most one per step and `interval` between its
    /// first and its last.
    pub fn lines(sink: impl Write + Send + 'static, interval: Duration) -> Self {
        Self {
            shown: Shown::Lines {
                sink: Arc::new(Mutex::new(sink)),
                interval,
            },
        }
    }

    /// Shows nothing: for work too short to be worth a line.
    pub fn hidden() -> Self {
        Self::lines(std::io::sink(), LINE_INTERVAL)
    }

    /// Begins a step that is counted in things (build lines, packages).
    pub fn step(&self, title: impl Into<String>, total: Option<u64>) -> Step {
        self.begin(title.into(), total, Unit::Things)
    }

    /// Begins a step that is counted in bytes.
    pub fn step_bytes(&self, title: impl Into<String>, total_bytes: Option<u64>) -> Step {
        self.begin(title.into(), total_bytes, Unit::Bytes)
    }

    /// One line for the person watching, without disturbing any bar.
    pub fn say(&self, line: impl AsRef<str>) {
        match &self.shown {
            // An unwritable stderr must not fail the work.
            Shown::Bars(bars) => bars.suspend(|| {
                let _ = writeln!(std::io::stderr(), "{}", line.as_ref());
            }),
            Shown::Lines { sink, .. } => write_line(sink, line.as_ref()),
        }
    }

    /// Takes the bars off the screen while `f` talks to the person.
    pub fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.shown {
            Shown::Bars(bars) => bars.suspend(f),
            Shown::Lines { .. } => f(),
        }
    }

    fn begin(&self, title: String, total: Option<u64>, unit: Unit) -> Step {
        let now = Instant::now();
        let view = match &self.shown {
            Shown::Bars(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_prefix(title.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                View::Bar(bar)
            }
            Shown::Lines { sink, interval } => {
                write_line(sink, &format!("{title} ..."));
                View::Lines {
                    sink: sink.clone(),
                    interval: *interval,
                }
            }
        };
        let step = Step {
            title,
            unit,
            view,
            begun: now,
            state: Mutex::new(State {
                position: 0,
                length: None,
                message: String::new(),
                spoke: now,
            }),
            ended: false,
        };
        if let Some(total) = total {
            step.set_length(total);
        }
        step
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Things,
    Bytes,
}

impl Unit {
    fn show(self, amount: u64) -> String {
        match self {
            Self::Things => amount.to_string(),
            Self::Bytes => indicatif::BinaryBytes(amount).to_string(),
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Things => "{spinner} {prefix} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}",
            Self::Bytes => {
                "{spinner} {prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes} {elapsed} {wide_msg}"
            }
        }
    }
}

enum View {
    Bar(ProgressBar),
    Lines { sink: Sink, interval: Duration },
}

struct State {
    position: u64,
    length: Option<u64>,
    message: String,
    spoke: Instant,
}

/// One piece of long work. Say [`Step::done`] at its end; a step that is
/// dropped without it says that it was abandoned.
pub struct Step {
    title: String,
    unit: Unit,
    view: View,
    begun: Instant,
    state: Mutex<State>,
    ended: bool,
}

impl Step {
    /// How much there is to do, once that is known.
    pub fn set_length(&self, total: u64) {
        self.lock().length = Some(total);
        if let View::Bar(bar) = &self.view {
            bar.set_length(total);
            if let Ok(style) = ProgressStyle::with_template(self.unit.template()) {
                bar.set_style(style);
            }
        }
    }

    /// How much is done.
    pub fn set_position(&self, position: u64) {
        self.lock().position = position;
        if let View::Bar(bar) = &self.view {
            bar.set_position(position);
        }
        self.speak_if_due();
    }

    /// `more` is done.
    pub fn inc(&self, more: u64) {
        let position = self.lock().position.saturating_add(more);
        self.set_position(position);
    }

    /// What is being worked on just now.
    pub fn message(&self, message: impl Into<String>) {
        let message = message.into();
        if let View::Bar(bar) = &self.view {
            bar.set_message(message.clone());
        }
        self.lock().message = message;
        self.speak_if_due();
    }

    /// The step is over; `summary` is what came of it.
    pub fn done(mut self, summary: impl AsRef<str>) {
        self.end(summary.as_ref());
    }

    fn end(&mut self, summary: &str) {
        self.ended = true;
        let seconds = self.begun.elapsed().as_secs_f64();
        let line = format!("{}: {summary} ({seconds:.1} s)", self.title);
        match &self.view {
            View::Bar(bar) => {
                // Printed above the remaining bars, so that it stays on the screen.
                bar.suspend(|| {
                    let _ = writeln!(std::io::stderr(), "{line}");
                });
                bar.finish_and_clear();
            }
            View::Lines { sink, .. } => write_line(sink, &line),
        }
    }

    fn speak_if_due(&self) {
        let View::Lines { sink, interval } = &self.view else {
            return;
        };
        let mut state = self.lock();
        if state.spoke.elapsed() < *interval {
            return;
        }
        state.spoke = Instant::now();
        let far = how_far(self.unit, state.position, state.length);
        let line = format!("{}: {far} {}", self.title, state.message);
        drop(state);
        write_line(sink, line.trim_end());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Plain data: a panic elsewhere leaves it as good as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end("abandoned");
        }
    }
}

fn how_far(unit: Unit, position: u64, length: Option<u64>) -> String {
    match length {
        Some(length) if length > 0 => {
            // An estimated length may be too small: 100 % is for the end only.
            let percent = (u128::from(position) * 100 / u128::from(length)).min(99);
            format!(
                "{percent} % ({} of {})",
                unit.show(position),
                unit.show(length)
            )
        }
        _ => unit.show(position),
    }
}

fn write_line(sink: &Sink, line: &str) {
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    // An unwritable stderr must not fail the work.
    let _ = writeln!(sink, "{line}");
    let _ = sink.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap().clone();
            let text = String::from_utf8(bytes).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn updates_within_the_interval_add_no_lines() {
        let page = Page::default();
        let progress = Progress::lines(page.clone(), Duration::from_secs(3600));
        let step = progress.step("build", Some(100));
        for _ in 0..50 {
            step.inc(1);
        }
        step.done("vmlinux");
        let lines = page.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0], "build ...");
        assert!(lines[1].starts_with("build: vmlinux ("), "{lines:?}");
    }

    #[test]
    fn updates_after_the_interval_say_how_far_it_is() {
        let page = Page::default();
        let progress = Progress::lines(page.clone(), Duration::ZERO);
        let step = progress.step_bytes("fetch", Some(4 << 20));
        step.set_position(1 << 20);
        step.message("part two");
        step.done("ok");
        let lines = page.lines();
        assert_eq!(lines[1], "fetch: 25 % (1.00 MiB of 4.00 MiB)");
        assert_eq!(lines[2], "fetch: 25 % (1.00 MiB of 4.00 MiB) part two");
    }

    #[test]
    fn an_estimate_that_was_too_small_never_claims_the_end() {
        assert_eq!(how_far(Unit::Things, 120, Some(100)), "99 % (120 of 100)");
        assert_eq!(how_far(Unit::Things, 7, None), "7");
        assert_eq!(how_far(Unit::Things, 7, Some(0)), "7");
    }

    #[test]
    fn a_dropped_step_says_that_it_was_abandoned() {
        let page = Page::default();
        let progress = Progress::lines(page.clone(), Duration::from_secs(3600));
        drop(progress.step("build", None));
        assert!(page.lines()[1].starts_with("build: abandoned ("));
    }

    #[test]
    fn said_lines_come_through_whole() {
        let page = Page::default();
        Progress::lines(page.clone(), Duration::ZERO).say("waiting");
        assert_eq!(page.lines(), ["waiting"]);
    }
}
