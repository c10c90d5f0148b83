//! Link gva -> gpa: the guest's page tables, read in guest memory from the CR3 of
//! the vCPU that stands at the agent's doorbell.

use addr::{Gpa, Gva};
use monitor::{Vm, VmError};
use walk::{Extent, GuestTables, RangeWalk, TableRead, Translation, UnsupportedMode, WalkError};

/// SDM volume 3A, "Control Registers".
const CR0_CD: u64 = 1 << 30;

/// A table entry that names memory which the guest does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memslot backs {0}")]
pub struct NoMemory(pub Gpa);

/// A walk of a range of a frozen guest's addresses.
pub type WalkOf<'t, 'vm> = RangeWalk<'t, GuestTables, GuestMemory<'vm>>;

/// What a walk for one address found.
pub type Walked = Result<Translation<Gpa>, WalkError<Gpa, NoMemory>>;

/// Why the tables of a frozen vCPU cannot be walked at all.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The vCPU's registers could not be read.
    #[error("registers of the vCPU at the doorbell")]
    Registers(#[from] VmError),
    /// The vCPU does not translate by tables that can be walked.
    #[error("the vCPU at the doorbell does not run in long mode")]
    Mode(#[from] UnsupportedMode),
}

/// Tables of a guest that stands still.
pub struct FrozenTables<'vm> {
    memory: GuestMemory<'vm>,
    tables: GuestTables,
    cr0: u64,
    cr3: u64,
}

/// The memory of a guest, as its page tables name it.
pub struct GuestMemory<'vm>(&'vm Vm);

impl TableRead for GuestMemory<'_> {
    type Addr = Gpa;
    type Error = NoMemory;

    fn read_entry(&self, at: Gpa) -> Result<u64, NoMemory> {
        self.0.read_u64(at).map_err(|_| NoMemory(at))
    }

    fn read_entries(&self, at: Gpa, into: &mut [u64]) -> Result<(), NoMemory> {
        self.0.read_words(at, into).map_err(|_| NoMemory(at))
    }
}

impl<'vm> FrozenTables<'vm> {
    /// The tables that the vCPU at the doorbell uses.
    ///
    /// # Errors
    /// [`TablesError`] when its registers do not tell.
    pub fn of(vm: &'vm Vm) -> Result<Self, TablesError> {
        let regs = vm.paging_regs()?;
        Ok(Self {
            memory: GuestMemory(vm),
            tables: GuestTables::new(&regs)?,
            cr0: regs.cr0,
            cr3: regs.cr3,
        })
    }

    /// Whether the vCPU caches memory at all (CR0.CD clear).
    pub fn caches(&self) -> bool {
        self.cr0 & CR0_CD == 0
    }

    /// The register that names their root.
    pub fn cr3(&self) -> u64 {
        self.cr3
    }

    /// Walks for one address.
    pub fn walk(&self, gva: Gva) -> Walked {
        self.tables.walk(&self.memory, gva)
    }

    /// All that the tables have from `start` on, for `len_bytes`, each table read once.
    pub fn range(&self, start: Gva, len_bytes: u64) -> WalkOf<'_, 'vm> {
        self.tables.range(&self.memory, start, len_bytes)
    }

    /// All that the tables have from `start` on, for `len_bytes`.
    pub fn extents(
        &self,
        start: Gva,
        len_bytes: u64,
    ) -> impl Iterator<Item = Extent<Gva, Gpa, NoMemory>> + '_ {
        self.tables.extents(&self.memory, start, len_bytes)
    }
}
