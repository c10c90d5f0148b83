//! A VM's second-level tables, as they stood when they were read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use addr::{Gpa, Hpa, PAGE_SIZE, Pfn};
use walk::{RangeWalk, Run, SecondLevel, Spte, TableRead, Translation, UnsupportedMode, WalkError};
use zerocopy::IntoBytes;

use crate::memory::{HostMemory, ReadError};
use crate::processor::Processor;
use crate::root::{Root, Vcpu};

/// What a walk for one guest physical address found.
pub type Walked = Result<Translation<Hpa>, WalkError<Hpa, ReadError>>;

/// Addresses that a walk of a range decided about alike.
pub type WalkedRun<'w> = Run<'w, Gpa, Hpa, ReadError>;

const ENTRIES: usize = 512;

/// The second-level tables of a VM.
pub struct Tables<'h, M> {
    root: Root,
    vcpu: Vcpu,
    walker: SecondLevel,
    pages: Pages<'h, M>,
}

impl<'h, M: HostMemory> Tables<'h, M> {
    pub(crate) fn new(
        memory: &'h M,
        processor: &Processor,
        (vcpu, root): (Vcpu, Root),
    ) -> Result<Self, UnsupportedMode> {
        Ok(Self {
            root,
            vcpu,
            walker: processor.walker(&root)?,
            pages: Pages {
                memory,
                read: RefCell::default(),
            },
        })
    }

    /// The root.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The vCPU that used them.
    pub(crate) fn vcpu(&self) -> Vcpu {
        self.vcpu
    }

    /// Walks for one address.
    pub fn walk(&self, gpa: Gpa) -> Walked {
        self.walker.walk(&self.pages, gpa)
    }

    /// Hands all that they have from `start` on, for `len_bytes`, to `look`, run by run,
    /// until it has seen enough.
    pub fn runs(&self, start: Gpa, len_bytes: u64, mut look: impl FnMut(&WalkedRun<'_>) -> bool) {
        let mut walk: RangeWalk<'_, _, _> = self.walker.range(&self.pages, start, len_bytes);
        while let Some(run) = walk.next_run() {
            if !look(&run) {
                break;
            }
        }
    }

    /// The frames of the pages from `start` on that leaves with the same bits map, at
    /// most `npages` of them, and what the walk for the first one found.
    pub fn alike(&self, start: Gpa, npages: u64) -> (Option<Walked>, Vec<Pfn>) {
        let (mut first, mut pfns) = (None, Vec::new());
        self.runs(start, npages.saturating_mul(PAGE_SIZE), |run| {
            if let Ok(found) = &run.found {
                let most = (run.last.raw() - run.start.raw()) / PAGE_SIZE + 1;
                pfns = pages_of(found, run, most);
            }
            first = Some(run.found.clone());
            false
        });
        (first, pfns)
    }

    /// What KVM means by an entry of these tables.
    pub fn spte(&self, raw: u64) -> Spte {
        self.walker.spte(raw)
    }

    /// Forgets what was read, so that later walks see the tables as they are then.
    pub fn reread(&self) {
        self.pages.read.borrow_mut().clear();
    }
}

/// The frame of each of the first `npages` pages of 4 KiB of a run.
fn pages_of(found: &Translation<Hpa>, run: &WalkedRun<'_>, npages: u64) -> Vec<Pfn> {
    let per_leaf = found.page_bytes() / PAGE_SIZE;
    let into_first = (run.start.raw() & (found.page_bytes() - 1)) / PAGE_SIZE;
    let of_leaf = |frame: Hpa| {
        let first = Pfn::containing(frame).raw();
        (first..first.saturating_add(per_leaf)).map(Pfn::new)
    };
    let all = run.frames().flat_map(of_leaf);
    let skipped = usize::try_from(into_first).unwrap_or(usize::MAX);
    let wanted = usize::try_from(npages).unwrap_or(usize::MAX);
    all.skip(skipped).take(wanted).collect()
}

/// Tables, each read once and whole: thousands of pages share a few of them.
///
/// They are as they were when a walk first came through them. Whoever has KVM change them
/// (an access of the guest, a pre-fault) takes [`Tables`] anew.
struct Pages<'h, M> {
    memory: &'h M,
    read: RefCell<BTreeMap<Hpa, Box<[u64]>>>,
}

impl<M: HostMemory> Pages<'_, M> {
    /// Gives `take` the entries of the table at and after `at`.
    fn entries<T>(&self, at: Hpa, take: impl FnOnce(&[u64]) -> Option<T>) -> Result<T, ReadError> {
        let table = at.page_base();
        let mut read = self.read.borrow_mut();
        let entries = match read.entry(table) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(read_table(self.memory, table)?),
        };
        let index = usize::try_from(at.raw() % PAGE_SIZE / 8).unwrap_or(ENTRIES);
        let rest = entries.get(index..).unwrap_or_default();
        take(rest).ok_or(ReadError::NotMapped(at))
    }
}

fn read_table<M: HostMemory>(memory: &M, table: Hpa) -> Result<Box<[u64]>, ReadError> {
    let mut entries = vec![0; ENTRIES].into_boxed_slice();
    // Straight to where they belong: x86 has them in the order of bytes of this processor.
    memory.read_physical(table, entries.as_mut_bytes())?;
    Ok(entries)
}

impl<M: HostMemory> TableRead for Pages<'_, M> {
    type Addr = Hpa;
    type Error = ReadError;

    fn read_entry(&self, at: Hpa) -> Result<u64, ReadError> {
        self.entries(at, |rest| rest.first().copied())
    }

    fn read_entries(&self, at: Hpa, into: &mut [u64]) -> Result<(), ReadError> {
        self.entries(at, |rest| {
            into.copy_from_slice(rest.get(..into.len())?);
            Some(())
        })
    }
}
