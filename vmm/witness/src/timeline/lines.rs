//! A timeline for people: what happened, in order, like next to like.

use std::fmt;

use crate::contract::{DevicePage, Plan};

/// Lines that are kept of one stretch of time.
const MOST_LINES: usize = 400;

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The guest, by an access of one of its vCPUs.
    Guest,
    /// The host, by its own pre-fault for this VM.
    Prefault,
    /// Another thread of the host.
    Thread(i32),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest => f.pad("guest"),
            Self::Prefault => f.pad("host, pre-fault"),
            Self::Thread(tid) => f.pad(&format!("host, thread {tid}")),
        }
    }
}

/// Something that happened to a run of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    first_order: u64,
    last_order: u64,
    who: Who,
    what: String,
    first: DevicePage,
    npages: u64,
}

impl Item {
    /// Takes up `next` if it goes on where this ends.
    fn takes_up(&mut self, next: &Self) -> bool {
        let goes_on = self.who == next.who
            && self.what == next.what
            && self.first.window == next.first.window
            && self.first.page.checked_add(self.npages) == Some(next.first.page);
        if goes_on {
            self.npages += next.npages;
            self.last_order = next.last_order;
        }
        goes_on
    }

    fn line(&self, plan: &Plan) -> String {
        let window = plan
            .windows
            .get(self.first.window)
            .map_or("?", |window| window.name.as_str());
        let first = self.first.page;
        let pages = match self.npages {
            1 => plan.name(self.first),
            npages => format!("{window}[{first}..={}]", first + (npages - 1)),
        };
        let orders = if self.first_order == self.last_order {
            format!("#{}", self.first_order)
        } else {
            format!("#{}..{}", self.first_order, self.last_order)
        };
        format!("{orders:<14} {:<16} {} {pages}", self.who, self.what)
    }
}

/// The course of events as it grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    lines: Vec<String>,
    /// A run of pages that may go on after `last`.
    run: Option<Item>,
    last: Option<Item>,
    left_out: u64,
}

/// What the guest does to a page whose entry is missing.
pub(super) const REACHES: &str = "reaches";
/// What KVM does then.
pub(super) const SETS: &str = "sets";
const REACHES_AND_SETS: &str = "reaches and so sets";

impl Course {
    /// Something that was begun.
    pub fn phase(&mut self, name: &str, plan: &Plan) {
        self.remark(format!("-- {name}"), plan);
    }

    /// Something that happened to one page.
    pub fn add(&mut self, order: u64, who: Who, what: &str, page: DevicePage, plan: &Plan) {
        let next = Item {
            first_order: order,
            last_order: order,
            who,
            what: what.to_owned(),
            first: page,
            npages: 1,
        };
        if let Some(last) = self.last.as_mut().filter(|last| is_answer(last, &next)) {
            REACHES_AND_SETS.clone_into(&mut last.what);
            last.last_order = order;
            self.settle(plan);
            return;
        }
        if !self.last.as_mut().is_some_and(|last| last.takes_up(&next)) {
            self.settle(plan);
            self.last = Some(next);
        }
    }

    /// Something that is told in a line of its own.
    pub fn remark(&mut self, text: String, plan: &Plan) {
        self.end(plan);
        self.line(text);
    }

    /// All lines.
    pub fn take(&mut self, plan: &Plan) -> Vec<String> {
        self.end(plan);
        let mut lines = std::mem::take(&mut self.lines);
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            lines.push(format!("... and {left_out} more lines"));
        }
        lines
    }

    /// What came last goes on with the run, or begins another one.
    fn settle(&mut self, plan: &Plan) {
        let Some(last) = self.last.take() else {
            return;
        };
        if self.run.as_mut().is_some_and(|run| run.takes_up(&last)) {
            return;
        }
        if let Some(run) = self.run.replace(last) {
            self.line(run.line(plan));
        }
    }

    fn end(&mut self, plan: &Plan) {
        self.settle(plan);
        if let Some(run) = self.run.take() {
            self.line(run.line(plan));
        }
    }

    fn line(&mut self, line: String) {
        if self.lines.len() < MOST_LINES {
            self.lines.push(line);
        } else {
            self.left_out += 1;
        }
    }
}

/// Whether `next` is what KVM did about the access that went before.
fn is_answer(last: &Item, next: &Item) -> bool {
    let one_page = last.npages == 1 && last.first == next.first;
    one_page && last.who == next.who && last.what == REACHES && next.what == SETS
}
