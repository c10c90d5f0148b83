// SPDX-License-Identifier: GPL-2.0

//! Mapping pages on the first access to them.

use super::{
    helpers,
    memory::{inserted, Access, Memory},
    misc::MappableFile,
    setup::VmaPage,
    window::Window, //
};
use core::{marker::PhantomData, ops::Range};
use kernel::{
    bindings,
    mm::virt::{flags, vm_flags_t},
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// What a driver does when user space first touches a page of its mapping.
///
/// Installed by [`ClaimedVma::map_on_fault`](super::ClaimedVma::map_on_fault). An implementor chooses a page
/// by its number in [`memory`](Self::memory); a frame is never in its hands.
#[vtable]
pub(crate) trait FaultOperations: Send + Sync + Sized + 'static {
    /// The file whose mappings these operations are for.
    type File: MappableFile;

    /// What they show pages of.
    type Memory: Memory;

    /// The operations of a new mapping of `file`, to which its vmas will own references.
    ///
    /// Called once for each mapping when it is certain to exist: in an `mmap` hook as its last step, else
    /// by `vm_ops->mapped`. A file that needs nothing of its own for a mapping gives itself.
    ///
    /// # Errors
    ///
    /// Any; the mapping then fails with it.
    fn of(file: ArcBorrow<'_, Self::File>) -> Result<Arc<Self>>;

    /// The memory that may be shown.
    fn memory(&self) -> &Self::Memory;

    /// Answers one fault, by one of the methods of [`Fault`] or by an error.
    ///
    /// Runs in process context with the mmap lock or the vma lock held for reading, and may sleep. May
    /// run for the same page on several CPUs at once.
    fn fault<'a>(&self, fault: Fault<'a, '_, Self::Memory>) -> Result<Installed<'a>, FaultError>;

    /// Answers a fault in a stretch of 2 MiB of which nothing is mapped yet, by [`HugeFault::install`] or
    /// by [`FaultError::Smaller`]. As [`fault`](Self::fault) else.
    fn huge_fault<'a>(
        &self,
        _fault: HugeFault<'a, '_, Self::Memory>,
    ) -> Result<Installed<'a>, FaultError> {
        Err(FaultError::Smaller)
    }

    /// Maps more than the page that was read, by [`Around::install`]; [`None`] leaves the access to
    /// [`fault`](Self::fault).
    ///
    /// Runs under RCU: must not sleep.
    fn map_pages<'a>(&self, _around: Around<'a, '_, Self::Memory>) -> Option<Installed<'a>> {
        None
    }

    /// Whether a vma may be split at `page`, the first page of its second half.
    ///
    /// # Errors
    ///
    /// Any; the system call that would split it then fails with it.
    fn may_split(&self, _page: VmaPage) -> Result {
        Ok(())
    }
}

/// Why a fault could not be answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultError {
    /// There is no such page, or it may not be shown: `SIGBUS`.
    NoPage,
    /// A page table or a page could not be allocated.
    OutOfMemory,
    /// Not as a huge page: the fault is asked for again, as one of a single page.
    Smaller,
}

/// A fault that waits for its answer.
///
/// # Invariants
///
/// - For the duration of `'a`, `vmf` is valid and its vma is locked, at least for reading.
/// - The vma is one that [`ClaimedVma::map_on_fault`](super::ClaimedVma::map_on_fault) has set up for this
///   kind of memory, or its descendant: it has the flags of that kind, and is not copy-on-write.
pub(crate) struct Fault<'a, 'm, M> {
    pub(super) vmf: *mut bindings::vm_fault,
    pub(super) memory: &'m M,
    _lock: PhantomData<&'a ()>,
}

impl<'a, 'm, M: Memory> Fault<'a, 'm, M> {
    /// # Safety
    ///
    /// The type invariants hold for `'a`.
    pub(super) unsafe fn new(vmf: *mut bindings::vm_fault, memory: &'m M) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            vmf,
            memory,
            _lock: PhantomData,
        }
    }

    /// The page that was touched.
    pub(crate) fn page(&self) -> VmaPage {
        self.page_at(self.address())
    }

    /// Whether the access was a store.
    pub(crate) fn is_write(&self) -> bool {
        // SAFETY: By the type invariants `vmf` is valid.
        let flags = unsafe { (*self.vmf).flags };

        flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0
    }

    /// Shows page `index` of the memory where the fault happened.
    ///
    /// # Errors
    ///
    /// [`FaultError::NoPage`] when there is no such page, or when the memory is read-only but the vma
    /// is not.
    pub(crate) fn install(self, index: usize) -> Result<Installed<'a>, FaultError> {
        self.check_access()?;
        // SAFETY: By the type invariants the vma is locked and its flags are such as demanded; that it
        // gives no more access than the memory was just checked. The answer is what the fault operation
        // returns.
        let outcome = unsafe { self.memory.answer(self.vmf, index) }?;

        Ok(Installed::with(outcome))
    }

    fn check_access(&self) -> Result<(), FaultError> {
        let read_only = self.memory.access() == Access::ReadOnly;

        if read_only && self.vma_flags() & flags::MAYWRITE != 0 {
            return Err(FaultError::NoPage);
        }
        Ok(())
    }

    pub(super) fn vma(&self) -> *mut bindings::vm_area_struct {
        // SAFETY: By the type invariants `vmf` is valid.
        unsafe { (*self.vmf).__bindgen_anon_1.vma }
    }

    fn vma_flags(&self) -> vm_flags_t {
        // SAFETY: By the type invariants the vma is valid and locked.
        unsafe { (*self.vma()).__bindgen_anon_2.vm_flags }
    }

    /// Addresses of the vma.
    pub(super) fn vma_range(&self) -> Range<usize> {
        // SAFETY: By the type invariants the vma is valid and locked.
        let range = unsafe { (*self.vma()).__bindgen_anon_1.__bindgen_anon_1 };

        range.vm_start..range.vm_end
    }

    /// First byte of the page that was touched.
    pub(super) fn address(&self) -> usize {
        // SAFETY: By the type invariants `vmf` is valid.
        unsafe { (*self.vmf).__bindgen_anon_1.address }
    }

    /// Offset of the page that was touched, in pages.
    pub(super) fn pgoff(&self) -> usize {
        // SAFETY: By the type invariants `vmf` is valid.
        unsafe { (*self.vmf).__bindgen_anon_1.pgoff }
    }

    /// The page of the vma at `address`, which lies in it.
    pub(super) fn page_at(&self, address: usize) -> VmaPage {
        let vma = self.vma_range();
        // Offsets follow addresses, in either direction.
        let pgoff = (self.pgoff() + (address >> PAGE_SHIFT)) - (self.address() >> PAGE_SHIFT);

        VmaPage::new(
            (address - vma.start) >> PAGE_SHIFT,
            pgoff,
            (vma.end - vma.start) >> PAGE_SHIFT,
        )
    }
}

impl<'a> Fault<'a, '_, Window> {
    /// As [`install`](Self::install), with caching turned off for this page whatever the vma says.
    ///
    /// # Errors
    ///
    /// As for [`install`](Self::install).
    pub(crate) fn install_uncached(self, index: usize) -> Result<Installed<'a>, FaultError> {
        self.check_access()?;
        let page = self.memory.span(index, 1).map_err(|_| FaultError::NoPage)?;
        // SAFETY: By the type invariants the vma is valid and locked.
        let prot = unsafe { (*self.vma()).vm_page_prot };
        // SAFETY: The function has no requirements.
        let prot = unsafe { helpers::mapwitness_pgprot_noncached(prot) };

        // SAFETY: We are in the vma's fault operation. By the type invariants its flags are such as
        // the function demands. The frame belongs to a window that may be shown to user space, with
        // the access that the vma gives, as checked above; `prot` differs in the cache mode only.
        let outcome = unsafe {
            bindings::vmf_insert_pfn_prot(self.vma(), self.address(), page.first_pfn(), prot)
        };
        inserted(outcome).map(Installed::with)
    }

    /// Shows page `source(page)` where the fault happened, and the same for the other pages of its
    /// [neighbourhood](AROUND_NPAGES) that can be shown.
    ///
    /// # Errors
    ///
    /// As for [`install`](Self::install), of the page that was touched.
    pub(crate) fn install_around(
        self,
        source: impl Fn(VmaPage) -> usize,
    ) -> Result<Installed<'a>, FaultError> {
        let touched = self.address();

        self.check_access()?;
        for address in self.neighbourhood().step_by(PAGE_SIZE) {
            if address != touched {
                // A neighbour is a favour: user space may still touch it itself.
                let _ = self.install_at(address, source(self.page_at(address)));
            }
        }
        self.install_at(touched, source(self.page()))
            .map(Installed::with)
    }

    /// The pages around the one that was touched, as addresses: those of its naturally aligned stretch of
    /// [`AROUND_NPAGES`] that lie in the vma.
    pub(super) fn neighbourhood(&self) -> Range<usize> {
        let len_bytes = AROUND_NPAGES << PAGE_SHIFT;
        let first = self.address() & !(len_bytes - 1);
        let vma = self.vma_range();

        first.max(vma.start)..(first + len_bytes).min(vma.end)
    }

    /// Shows page `index` of the memory at `address`, which lies in the vma.
    fn install_at(&self, address: usize, index: usize) -> Result<bindings::vm_fault_t, FaultError> {
        let page = self.memory.span(index, 1).map_err(|_| FaultError::NoPage)?;

        // SAFETY: We are in the vma's fault operation. By the type invariants its flags are such as
        // the function demands. The frame belongs to a window that may be shown to user space, with
        // the access that the vma gives: both callers have checked it.
        inserted(unsafe { bindings::vmf_insert_pfn(self.vma(), address, page.first_pfn()) })
    }
}

/// Pages that are brought in together by [`Fault::install_around`] and [`Around::install`].
pub(crate) const AROUND_NPAGES: usize = 16;

/// A read fault whose neighbours may be mapped with it.
///
/// # Invariants
///
/// Those of [`Fault`]; and the lowest level of page tables exists.
pub(crate) struct Around<'a, 'm, M>(pub(super) Fault<'a, 'm, M>);

impl<'a, 'm> Around<'a, 'm, Window> {
    /// As [`Fault::install_around`].
    pub(crate) fn install(self, source: impl Fn(VmaPage) -> usize) -> Option<Installed<'a>> {
        // By the type invariants no page table must be allocated, so nothing sleeps.
        self.0.install_around(source).ok()
    }
}

impl<'a, 'm, M: Memory> Around<'a, 'm, M> {
    /// [`None`] when there is no page table for the pages yet.
    ///
    /// # Safety
    ///
    /// The type invariants of [`Fault`] hold for `'a`.
    pub(super) unsafe fn new(vmf: *mut bindings::vm_fault, memory: &'m M) -> Option<Self> {
        // SAFETY: By the caller's promise `vmf` is valid, and the kernel has found the entry for it. The
        // vma is locked, so a table that is there stays.
        let has_table = unsafe { helpers::mapwitness_pmd_has_table((*vmf).pmd) };

        // SAFETY: By the caller's promise.
        let fault = unsafe { Fault::new(vmf, memory) };
        // INVARIANT: There is a table, if so.
        has_table.then_some(Self(fault))
    }
}

/// Pages of a huge one.
pub(crate) const HUGE_NPAGES: usize = 1 << (HUGE_SHIFT - PAGE_SHIFT);
const HUGE_SHIFT: usize = bindings::PMD_SHIFT as usize;

/// A fault that may be answered with a page of 2 MiB.
///
/// # Invariants
///
/// Those of [`Fault`]; and the fault is of the order of 2 MiB.
pub(crate) struct HugeFault<'a, 'm, M>(pub(super) Fault<'a, 'm, M>);

impl<'a, 'm, M: Memory> HugeFault<'a, 'm, M> {
    /// [`None`] when the fault is of another order.
    ///
    /// # Safety
    ///
    /// The type invariants of [`Fault`] hold for `'a`.
    pub(super) unsafe fn new(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
        memory: &'m M,
    ) -> Option<Self> {
        // SAFETY: By the caller's promise.
        let fault = unsafe { Fault::new(vmf, memory) };

        // INVARIANT: The order is that, if so.
        (1 << order == HUGE_NPAGES).then_some(Self(fault))
    }
}

impl<'a> HugeFault<'a, '_, Window> {
    /// Shows the window's pages from `source(page)` on as one huge page, `page` being the first page of the
    /// stretch of 2 MiB around the access.
    ///
    /// # Errors
    ///
    /// [`FaultError::Smaller`] when the stretch does not lie in the vma as a whole, its pages not in the
    /// window, or their first frame not at a multiple of 2 MiB; else as for [`Fault::install`].
    pub(crate) fn install(
        self,
        source: impl FnOnce(VmaPage) -> usize,
    ) -> Result<Installed<'a>, FaultError> {
        let Self(fault) = self;
        let first = fault.address() & !((1 << HUGE_SHIFT) - 1);
        let vma = fault.vma_range();

        fault.check_access()?;
        if first < vma.start || vma.end - first < 1 << HUGE_SHIFT {
            return Err(FaultError::Smaller);
        }
        let pages = fault
            .memory
            .span(source(fault.page_at(first)), HUGE_NPAGES)
            .map_err(|_| FaultError::Smaller)?;
        if pages.first_pfn() % HUGE_NPAGES != 0 {
            return Err(FaultError::Smaller);
        }

        // SAFETY: We are in the vma's huge fault operation. By the type invariants its flags are such as
        // the function demands. The whole stretch lies in the vma, and all its frames belong to a window
        // that may be shown to user space with the access that the vma gives, as just checked.
        let outcome = unsafe {
            helpers::mapwitness_vmf_insert_pfn_pmd(fault.vmf, pages.first_pfn(), fault.is_write())
        };
        match outcome {
            bindings::vm_fault_reason_VM_FAULT_FALLBACK => Err(FaultError::Smaller),
            outcome => inserted(outcome).map(Installed::with),
        }
    }
}

/// Proof that a [`Fault`] has its page.
#[must_use]
pub(crate) struct Installed<'a> {
    outcome: bindings::vm_fault_t,
    // Invariant in `'a`, so that no other fault's proof fits.
    _fault: PhantomData<fn(&'a ()) -> &'a ()>,
}

impl Installed<'_> {
    pub(super) fn with(outcome: bindings::vm_fault_t) -> Self {
        Self {
            outcome,
            _fault: PhantomData,
        }
    }

    /// What the fault operation returns.
    pub(super) fn outcome(self) -> bindings::vm_fault_t {
        self.outcome
    }
}
