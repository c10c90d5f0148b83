//! The guest kernel's memory, by its own addresses.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use addr::{Gpa, Gva, PAGE_SIZE};
use btf::Field;
use monitor::Vm;
use witness::guest_walk::FrozenTables;

use crate::error::ViewError;

const PAGE_LEN: usize = 4096;
const _: () = assert!(PAGE_LEN as u64 == PAGE_SIZE);

/// Memory of a kernel.
pub(crate) trait KernelMemory {
    /// Fills `into` from a virtual address.
    ///
    /// # Errors
    /// [`ViewError::NotMapped`] for `what` unless all of it is mapped.
    fn read(&self, what: &'static str, gva: Gva, into: &mut [u8]) -> Result<(), ViewError>;

    /// A member of the structure at `base`.
    fn field(&self, what: &'static str, base: u64, field: Field) -> Result<u64, ViewError> {
        field.read(base, |at, into| self.read(what, Gva::new(at), into))
    }
}

/// Memory of a guest that stands still.
pub(crate) struct FrozenMemory<'vm> {
    vm: &'vm Vm,
    pub tables: FrozenTables<'vm>,
    /// Pages that were read, and where each lies: thousands of members stand in a few tens
    /// of them, and neither changes while the guest stands still.
    pages: RefCell<HashMap<u64, Rc<Page>>>,
    /// The page that was read last.
    last: RefCell<Option<(u64, Rc<Page>)>>,
}

/// A page of the guest.
struct Page {
    gpa: Gpa,
    bytes: Vec<u8>,
}

impl<'vm> FrozenMemory<'vm> {
    pub(crate) fn new(vm: &'vm Vm, tables: FrozenTables<'vm>) -> Self {
        Self {
            vm,
            tables,
            pages: RefCell::default(),
            last: RefCell::default(),
        }
    }

    fn read_in_page(&self, gva: Gva, into: &mut [u8]) -> Result<(), String> {
        let page = self.page(gva)?;
        let first = usize::try_from(gva.page_offset()).unwrap_or(usize::MAX);
        let bytes = page.bytes.get(first..).and_then(|it| it.get(..into.len()));
        into.copy_from_slice(bytes.ok_or("it does not lie in one page")?);
        Ok(())
    }

    /// Where an address leads, if anywhere.
    pub(crate) fn translate(&self, gva: Gva) -> Option<Gpa> {
        let page = self.page(gva).ok()?;
        page.gpa.checked_add(gva.page_offset())
    }

    fn page(&self, gva: Gva) -> Result<Rc<Page>, String> {
        let base = gva.raw() - gva.page_offset();
        if let Some((known, page)) = &*self.last.borrow()
            && *known == base
        {
            return Ok(Rc::clone(page));
        }
        let known = self.pages.borrow().get(&base).cloned();
        let page = match known {
            Some(page) => page,
            None => {
                let page = Rc::new(self.read_page(Gva::new(base))?);
                self.pages.borrow_mut().insert(base, Rc::clone(&page));
                page
            }
        };
        *self.last.borrow_mut() = Some((base, Rc::clone(&page)));
        Ok(page)
    }

    fn read_page(&self, base: Gva) -> Result<Page, String> {
        let walked = self.tables.walk(base).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; PAGE_LEN];
        let read = self.vm.read(walked.address, &mut bytes);
        read.map_err(|error| error.to_string())?;
        Ok(Page {
            gpa: walked.address,
            bytes,
        })
    }
}

impl KernelMemory for FrozenMemory<'_> {
    fn read(&self, what: &'static str, gva: Gva, into: &mut [u8]) -> Result<(), ViewError> {
        let mut at = gva;
        let mut rest = into;
        while !rest.is_empty() {
            let in_page = usize::try_from(PAGE_SIZE - at.page_offset()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(in_page.min(rest.len()));
            let not_mapped = |reason| ViewError::NotMapped {
                what,
                gva: at,
                reason,
            };
            self.read_in_page(at, now).map_err(not_mapped)?;
            at = Gva::new(at.raw().wrapping_add(now.len() as u64));
            rest = later;
        }
        Ok(())
    }
}
