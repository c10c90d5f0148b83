//! The guest kernel's memory, by its own addresses.

use addr::{Gpa, Gva, PAGE_SIZE};
use btf::Field;
use monitor::Vm;
use witness::guest_walk::FrozenTables;

use crate::error::ViewError;

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
    pub vm: &'vm Vm,
    pub tables: FrozenTables<'vm>,
}

impl FrozenMemory<'_> {
    fn read_in_page(&self, gva: Gva, into: &mut [u8]) -> Result<(), String> {
        let walked = self.tables.walk(gva).map_err(|error| error.to_string())?;
        self.vm
            .read(walked.address, into)
            .map_err(|error| error.to_string())
    }

    /// Where an address leads, if anywhere.
    pub(crate) fn translate(&self, gva: Gva) -> Option<Gpa> {
        self.tables.walk(gva).ok().map(|walked| walked.address)
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
