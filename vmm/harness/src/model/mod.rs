//! An executable model of what a guest's processes have mapped.
//!
//! The model says what each operation must come to, errno or signal included, and
//! which pages must be mapped after it: from the contract of each file, from what was
//! asked, and from how Linux treats such mappings. Where the kernel decides, the model
//! names the function that does. It never looks at a guest; of a guest's answers it
//! takes what only the guest can choose: addresses, descriptors and pids.
//!
//! ```text
//! Operation --perform--> Came --------+
//!     |                               v
//!     +------ predict --> Wanted == apply --> Model --witness--> every page, every process
//! ```

mod access;
mod advance;
mod bind;
mod changes;
mod fault;
mod look;
mod make;
mod operation;
mod outcome;
mod perform;
mod revoke;
mod rules;
mod space;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::FileContract;
use wire::{Fd, OpenMode};
use witness::Plan;

pub use look::{Finding, Wrong};
pub use operation::{Anchor, Call, Handle, Offered, Operation, Place, Process, Stretch};
pub use outcome::{BUS_ADRERR, Came, SEGV_ACCERR, SEGV_MAPERR, Wanted};
pub use space::{Area, Pages, Shows, Space};

/// What is mapped where, in every process.
#[derive(Clone, Debug)]
pub struct Model {
    files: Vec<Arc<FileContract>>,
    device: Device,
    processes: BTreeMap<Process, State>,
    anchors: BTreeMap<Anchor, Gva>,
    /// How many files were opened so far.
    opened: u64,
    /// Addresses that the guest gave at some time. Nothing but what the model knows
    /// is mapped there in any process: the agent maps nothing of its own.
    known: Vec<Range<u64>>,
}

/// What is behind the files.
#[derive(Clone, Debug)]
struct Device {
    /// Where its memory lies.
    plan: Plan,
    /// Windows that the driver has taken away from its mappings, by their numbers.
    revoked: BTreeSet<usize>,
    /// Windows of which the device has less than its configuration says.
    offered: BTreeMap<usize, Offered>,
    /// Whether the driver has the device.
    is_bound: bool,
    /// How often it was taken away.
    unbound: u64,
}

/// What the model knows of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    pid: i32,
    parent: Option<Process>,
    space: Space,
    open: BTreeMap<Handle, OpenFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenFile {
    /// Tells it from all others, whatever they are called.
    serial: u64,
    fd: Fd,
    file: usize,
    mode: OpenMode,
    /// How often the device had been taken away from the driver before.
    unbound: u64,
}

/// An operation that means nothing here: it names what is not there, or addresses
/// that the model knows nothing of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this operation means nothing here: {0}")]
pub struct Meaningless(pub String);

/// An operation that came to something else than it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surprise {
    /// What it must come to.
    pub wanted: Wanted,
    /// What it came to.
    pub came: Came,
}

/// What only a guest can choose.
struct Learned {
    gva: Gva,
    fd: Fd,
    pid: i32,
}

impl Learned {
    fn of(came: &Came) -> Self {
        let mut learned = Self {
            gva: Gva::new(0),
            fd: Fd(-1),
            pid: 0,
        };
        match came {
            Came::At(gva) => learned.gva = *gva,
            Came::Fd(fd) => learned.fd = *fd,
            Came::Child(pid) => learned.pid = *pid,
            Came::Done | Came::Ended(_) | Came::Reached(_) | Came::Refused(_) => {}
        }
        learned
    }
}

impl Model {
    /// A guest whose first process, with this pid, has nothing of `files` mapped.
    pub fn new(files: Vec<Arc<FileContract>>, plan: Plan, first_pid: i32) -> Self {
        let first = State {
            pid: first_pid,
            parent: None,
            space: Space::default(),
            open: BTreeMap::new(),
        };
        Self {
            files,
            device: Device {
                plan,
                revoked: BTreeSet::new(),
                offered: BTreeMap::new(),
                is_bound: true,
                unbound: 0,
            },
            processes: BTreeMap::from([(Process::FIRST, first)]),
            anchors: BTreeMap::new(),
            opened: 0,
            known: Vec::new(),
        }
    }

    /// The device files, by the numbers that operations have for them.
    pub fn files(&self) -> &[Arc<FileContract>] {
        &self.files
    }

    /// Processes that are alive.
    pub fn processes(&self) -> impl Iterator<Item = Process> {
        self.processes.keys().copied()
    }

    /// What a process has mapped; `None` when it is not alive.
    pub fn space(&self, process: Process) -> Option<&Space> {
        self.processes.get(&process).map(|state| &state.space)
    }

    /// What each process has mapped.
    pub fn spaces(&self) -> impl Iterator<Item = (Process, &Space)> {
        let processes = self.processes.iter();
        processes.map(|(process, state)| (*process, &state.space))
    }

    /// pid of a process; `None` when it is not alive.
    pub fn pid(&self, process: Process) -> Option<i32> {
        self.processes.get(&process).map(|state| state.pid)
    }

    /// Windows of which the device has less than its configuration says, by their numbers.
    pub fn offered(&self) -> impl Iterator<Item = (usize, Offered)> {
        let offered = self.device.offered.iter();
        offered.map(|(window, offer)| (*window, *offer))
    }

    /// Windows that the driver has taken away from its mappings, by their numbers.
    pub fn revoked(&self) -> impl Iterator<Item = usize> {
        self.device.revoked.iter().copied()
    }

    /// Whether the driver has the device.
    pub fn is_bound(&self) -> bool {
        self.device.is_bound
    }

    /// Whether the device was ever taken away from the driver.
    pub fn was_unbound(&self) -> bool {
        self.device.unbound > 0
    }

    /// Who holds the doorbell once this process has ended: its parent, or the first
    /// process where that is gone.
    pub fn heir(&self, process: Process) -> Process {
        let parent = self
            .processes
            .get(&process)
            .and_then(|state| state.parent)
            .filter(|parent| self.processes.contains_key(parent));
        parent.unwrap_or(Process::FIRST)
    }

    /// Descriptor of an open file.
    pub fn fd(&self, process: Process, handle: Handle) -> Option<Fd> {
        let open = self.processes.get(&process)?.open.get(&handle)?;
        Some(open.fd)
    }

    /// The file that is open.
    pub fn file(&self, process: Process, handle: Handle) -> Option<&Arc<FileContract>> {
        let open = self.processes.get(&process)?.open.get(&handle)?;
        self.files.get(open.file)
    }

    /// How many open files there are of the file with this number. One that processes
    /// share by fork(2) is one, and one that is closed lives for as long as it is mapped.
    pub fn opens(&self, file: usize) -> usize {
        let mut opens = BTreeSet::new();
        for state in self.processes.values() {
            let open = state.open.values().filter(|open| open.file == file);
            opens.extend(open.map(|open| open.serial));
            for (_, area) in state.space.areas() {
                if let Shows::File(pages) = &area.shows
                    && self
                        .files
                        .get(file)
                        .is_some_and(|it| it.name == pages.file.name)
                {
                    opens.insert(pages.opened);
                }
            }
        }
        opens.len()
    }

    /// Address of a place; `None` when nothing has come to its anchor, or it lies past
    /// the end of the address space.
    pub fn gva(&self, place: Place) -> Option<Gva> {
        let start = self.anchors.get(&place.anchor)?;
        start.checked_add(place.page.checked_mul(PAGE_SIZE)?)
    }

    /// What `operation` must come to.
    ///
    /// # Errors
    /// [`Meaningless`]: it cannot be performed.
    pub fn predict(&self, operation: &Operation) -> Result<Wanted, Meaningless> {
        // Nothing is learned, and what would follow is thrown away.
        self.clone().advance(operation, &Learned::of(&Came::Done))
    }

    /// Takes note of `operation`, which came to `came`. The model stays as it was when
    /// that is not what it must come to.
    ///
    /// # Errors
    /// [`Meaningless`]: it cannot have been performed.
    pub fn apply(
        &mut self,
        operation: &Operation,
        came: &Came,
    ) -> Result<Result<(), Box<Surprise>>, Meaningless> {
        let mut next = self.clone();
        let wanted = next.advance(operation, &Learned::of(came))?;
        if !wanted.is(came) || self.takes_what_is_taken(operation.by, &wanted, came) {
            let came = came.clone();
            return Ok(Err(Box::new(Surprise { wanted, came })));
        }
        *self = next;
        Ok(Ok(()))
    }

    /// Whether an address of the kernel's choice is not free.
    fn takes_what_is_taken(&self, by: Process, wanted: &Wanted, came: &Came) -> bool {
        let (Wanted::Free { npages }, Came::At(gva)) = (wanted, came) else {
            return false;
        };
        let range = range_of(*gva, *npages);
        let space = self.space(by);
        range.is_none_or(|range| space.is_some_and(|space| !space.is_free(&range)))
    }

    /// Pages at addresses that the guest gave at some time, of which `space` has
    /// nothing of a device.
    fn vacant(&self, space: &Space) -> BTreeSet<Gva> {
        let page_len = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
        let known = self.known.iter().cloned();
        let starts = known.flat_map(|range| range.step_by(page_len));
        let pages = starts.map(Gva::new);
        pages.filter(|gva| !space.has_device(*gva)).collect()
    }
}

fn nothing(named: impl std::fmt::Debug) -> Meaningless {
    Meaningless(format!("{named:?}"))
}

fn range_of(start: Gva, npages: u64) -> Option<Range<u64>> {
    let end = start.checked_add(npages.checked_mul(PAGE_SIZE)?)?;
    Some(start.raw()..end.raw())
}

/// Whether `known`, all together, has every byte of `range`.
fn is_covered(known: &[Range<u64>], range: &Range<u64>) -> bool {
    let mut at = range.start;
    let starts: BTreeSet<_> = known.iter().map(|one| (one.start, one.end)).collect();
    for (start, end) in starts {
        if start <= at {
            at = at.max(end);
        }
    }
    at >= range.end
}
