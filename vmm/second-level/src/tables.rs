//! A VM's second-level tables, as they stood when they were read.

use std::cell::RefCell;
use std::collections::BTreeMap;

use addr::{Gpa, Hpa, PAGE_SIZE};
use walk::{SecondLevel, Spte, TableRead, Translation, UnsupportedMode, WalkError};

use crate::memory::{HostMemory, ReadError};
use crate::processor::Processor;
use crate::root::Root;

/// What a walk for one guest physical address found.
pub type Walked = Result<Translation<Hpa>, WalkError<Hpa, ReadError>>;

const TABLE_BYTES: usize = 4096;

/// The second-level tables of a VM.
pub struct Tables<'h, M> {
    root: Root,
    walker: SecondLevel,
    pages: Pages<'h, M>,
}

impl<'h, M: HostMemory> Tables<'h, M> {
    pub(crate) fn new(
        memory: &'h M,
        processor: &Processor,
        root: Root,
    ) -> Result<Self, UnsupportedMode> {
        Ok(Self {
            root,
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

    /// Walks for one address.
    pub fn walk(&self, gpa: Gpa) -> Walked {
        self.walker.walk(&self.pages, gpa)
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

/// Tables, each read once and whole: thousands of pages share a few of them.
struct Pages<'h, M> {
    memory: &'h M,
    read: RefCell<BTreeMap<Hpa, Vec<u8>>>,
}

impl<M: HostMemory> TableRead for Pages<'_, M> {
    type Addr = Hpa;
    type Error = ReadError;

    fn read_entry(&self, at: Hpa) -> Result<u64, ReadError> {
        let table = at.page_base();
        let mut read = self.read.borrow_mut();
        let bytes = match read.entry(table) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let mut bytes = vec![0; TABLE_BYTES];
                self.memory.read_physical(table, &mut bytes)?;
                place.insert(bytes)
            }
        };
        usize::try_from(at.raw() % PAGE_SIZE)
            .ok()
            .and_then(|offset| bytes.get(offset..)?.first_chunk::<8>())
            .map(|word| u64::from_le_bytes(*word))
            .ok_or(ReadError::NotMapped(at))
    }
}
