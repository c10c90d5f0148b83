//! What there is to do something to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{Backing, FileContract};
use harness::Refusal;
use harness::model::{Anchor, Call, Came, Handle, Model, Operation, Process, Wanted};
use wire::{Fd, Signal};
use witness::Plan;

use crate::case::{Case, MOST_OPERATIONS};

/// More processes would only take longer.
const MOST_PROCESSES: usize = 4;
/// Where the first mapping lies in a rehearsal; the next ones lie below it, one beside
/// the other, as the kernel has them.
const TOP: u64 = 0x7f00_0000_0000;
/// pid of the first process in a rehearsal.
const FIRST_PID: i32 = 100;

/// The driver's files and the device's windows.
#[derive(Clone, Debug)]
pub struct World {
    /// The files, by their numbers in operations.
    pub files: Vec<Arc<FileContract>>,
    /// Where the host put everything of the device.
    pub plan: Plan,
    /// Windows that the driver can be told to revoke; none where it has no such ioctl.
    pub revocable: Vec<usize>,
}

impl World {
    /// A model in which nothing was done yet.
    pub fn model(&self, first_pid: i32) -> Model {
        Model::new(self.files.clone(), self.plan.clone(), first_pid)
    }

    /// Windows that files show, by their numbers.
    pub(crate) fn shown(&self) -> Vec<usize> {
        let is_shown = |name: &str| {
            let mut backings = self.files.iter().flat_map(|file| &file.ranges);
            backings.any(|range| match &range.backing {
                Backing::Window { name: shown, .. } => shown == name,
                Backing::Buffer { .. } => false,
            })
        };
        let windows = self.plan.windows.iter().enumerate();
        let shown = windows.filter(|(_, window)| is_shown(&window.name));
        shown.map(|(index, _)| index).collect()
    }

    /// What of `case` means something, as far as that can be told without a guest.
    pub(crate) fn sense(&self, case: &Case) -> Case {
        let mut rehearsal = Rehearsal::of(self);
        let mut operations = case.operations.clone();
        operations.retain(|operation| rehearsal.take(operation));
        operations.truncate(MOST_OPERATIONS);
        Case { operations }
    }
}

/// A case gone through by the model alone, which plays the guest, too: it tells what is
/// there to do something to.
pub(crate) struct Rehearsal<'w> {
    pub(crate) world: &'w World,
    pub(crate) model: Model,
    /// Names of open files, some of which may be closed again.
    pub(crate) handles: Vec<Handle>,
    /// Addresses with names, and the pages that were mapped there.
    pub(crate) anchors: BTreeMap<Anchor, u64>,
    next_fd: i32,
    next_pid: i32,
    lowest: u64,
}

impl<'w> Rehearsal<'w> {
    pub(crate) fn of(world: &'w World) -> Self {
        Self {
            world,
            model: world.model(FIRST_PID),
            handles: Vec::new(),
            anchors: BTreeMap::new(),
            next_fd: 3,
            next_pid: FIRST_PID + 1,
            lowest: TOP,
        }
    }

    /// As [`Rehearsal::of`], after `operations`.
    pub(crate) fn after(world: &'w World, operations: &[Operation]) -> Self {
        let mut rehearsal = Self::of(world);
        for operation in operations {
            rehearsal.take(operation);
        }
        rehearsal
    }

    /// Does `operation`; `false` when it means nothing.
    pub(crate) fn take(&mut self, operation: &Operation) -> bool {
        let is_fork = matches!(operation.call, Call::Fork { .. });
        if is_fork && self.model.processes().count() >= MOST_PROCESSES {
            return false;
        }
        if self.revokes_what_cannot_be(&operation.call) {
            return false;
        }
        let Ok(wanted) = self.model.predict(operation) else {
            return false;
        };
        let came = self.play(wanted);
        // A surprise would be a contradiction of the model with itself.
        if !matches!(self.model.apply(operation, &came), Ok(Ok(()))) {
            return false;
        }
        self.note(operation, &came);
        true
    }

    fn revokes_what_cannot_be(&self, call: &Call) -> bool {
        match call {
            // As far as is known only the project's own driver can be told any of this.
            Call::Unbind | Call::Bind => self.world.revocable.is_empty(),
            Call::Offer { window, .. } => !self.world.shown().contains(window),
            Call::Revoke { window } | Call::Restore { window } => {
                !self.world.revocable.contains(window)
            }
            _ => false,
        }
    }

    /// What a guest would answer.
    fn play(&mut self, wanted: Wanted) -> Came {
        match wanted {
            Wanted::Done => Came::Done,
            Wanted::Fd => {
                self.next_fd += 1;
                Came::Fd(Fd(self.next_fd))
            }
            Wanted::At(gva) => Came::At(gva),
            Wanted::Free { npages } => {
                let len_bytes = npages.saturating_mul(PAGE_SIZE);
                self.lowest = self.lowest.saturating_sub(len_bytes);
                Came::At(Gva::new(self.lowest))
            }
            Wanted::Child => {
                self.next_pid += 1;
                Came::Child(self.next_pid)
            }
            Wanted::Ended(status) => Came::Ended(status),
            Wanted::Reaches(page) => Came::Reached(vec![page]),
            Wanted::ReachesNothing => Came::Reached(Vec::new()),
            Wanted::Errno(errno) => Came::Refused(Refusal::Errno(errno)),
            Wanted::Signal { number, code, page } => Came::Refused(Refusal::Signal(Signal {
                number,
                code,
                address: page.raw(),
            })),
        }
    }

    fn note(&mut self, operation: &Operation, came: &Came) {
        match (&operation.call, came) {
            (Call::Open { handle, .. }, Came::Fd(_)) => self.handles.push(*handle),
            (Call::Map { anchor, npages, .. } | Call::Reserve { anchor, npages }, Came::At(_)) => {
                self.anchors.insert(*anchor, *npages);
            }
            (
                Call::Remap {
                    anchor, new_npages, ..
                },
                Came::At(_),
            ) => {
                self.anchors.insert(*anchor, *new_npages);
            }
            (
                Call::Ask {
                    anchor, len_bytes, ..
                },
                Came::At(_),
            ) => {
                self.anchors.insert(*anchor, len_bytes.div_ceil(PAGE_SIZE));
            }
            _ => {}
        }
    }

    /// What `process` has open.
    pub(crate) fn open(&self, process: Process) -> Vec<Handle> {
        let handles = self.handles.iter().copied();
        handles
            .filter(|handle| self.model.fd(process, *handle).is_some())
            .collect()
    }

    /// Windows that can be revoked and that files show which somebody has open.
    pub(crate) fn in_use(&self) -> Vec<usize> {
        let open = self.model.processes().flat_map(|process| {
            let handles = self.open(process).into_iter();
            handles.filter_map(move |handle| self.model.file(process, handle))
        });
        let shown: BTreeSet<&str> = open
            .flat_map(|file| &file.ranges)
            .filter_map(|range| match &range.backing {
                Backing::Window { name, .. } => Some(name.as_str()),
                Backing::Buffer { .. } => None,
            })
            .collect();
        let windows = &self.world.plan.windows;
        let is_shown = |at: &usize| {
            let window = windows.get(*at);
            window.is_some_and(|window| shown.contains(window.name.as_str()))
        };
        let revocable = self.world.revocable.iter().copied();
        revocable.filter(is_shown).collect()
    }

    /// A name that is not in use.
    pub(crate) fn new_handle(&self) -> Handle {
        Handle(self.handles.iter().map(|it| it.0 + 1).max().unwrap_or(0))
    }

    /// A name that is not in use.
    pub(crate) fn new_anchor(&self) -> Anchor {
        Anchor(self.anchors.keys().map(|it| it.0 + 1).max().unwrap_or(0))
    }
}
