// SPDX-License-Identifier: GPL-2.0

//! The steps from a vma that is being mapped to one that shows memory.
//!
//! See the [module above](super) for their order.

use super::{
    area::{BeingMapped, Insert, Remap},
    buffer::Buffer,
    fault::FaultOperations,
    helpers,
    memory::{Access, Frames, Memory},
    misc::MappableFile,
    window::Window, //
};
use kernel::{
    mm::{
        virt::{flags, vm_flags_t},
        Mm, //
    },
    prelude::*,
    sync::ArcBorrow, //
};

/// The memory that the file of a vma offers.
pub(crate) type Offered<V> = <<V as BeingMapped>::File as MappableFile>::Memory;

/// A vma in the hands of a driver's hook, nothing decided yet.
///
/// # Invariants
///
/// No page table entry has been installed in it.
pub(crate) struct VmaSetup<V> {
    pub(super) vma: V,
}

impl<V: BeingMapped> VmaSetup<V> {
    /// # Safety
    ///
    /// To be called once for a vma.
    pub(super) unsafe fn new(vma: V) -> Self {
        // INVARIANT: By the caller's promise nobody has configured the vma yet.
        Self { vma }
    }

    /// The file that is being mapped.
    pub(crate) fn file(&self) -> ArcBorrow<'_, V::File> {
        self.vma.file()
    }

    /// Refuses copy-on-write mappings.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a `MAP_PRIVATE` mapping.
    pub(crate) fn shared_only(self) -> Result<SharedVma<V>> {
        // `VM_SHARED` is not what to look at: the kernel takes it away from a `MAP_SHARED`
        // mapping of a file that was opened for reading only.
        if self.vma.flags() & flags::MAYSHARE == 0 {
            return Err(EINVAL);
        }
        // INVARIANT: `VM_MAYSHARE` is set.
        Ok(SharedVma { vma: self.vma })
    }
}

/// A [`VmaSetup`] that is not copy-on-write.
///
/// # Invariants
///
/// Those of [`VmaSetup`]; and `VM_MAYSHARE` is set.
pub(crate) struct SharedVma<V> {
    pub(super) vma: V,
}

impl<V: BeingMapped> SharedVma<V> {
    /// Makes sure that nothing can be executed in this vma, now or after an `mprotect()`.
    ///
    /// # Errors
    ///
    /// `EACCES` when `PROT_EXEC` was asked for.
    pub(crate) fn deny_exec(self) -> Result<Self> {
        self.deny(flags::EXEC, flags::MAYEXEC)?;
        Ok(self)
    }

    /// Ties this vma to the pages of the file's memory that its offset and length name.
    ///
    /// Over read-only memory the vma can never become writable from here on.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the vma reaches beyond the memory; `EACCES` when `PROT_WRITE` was asked for
    /// read-only memory.
    pub(crate) fn claim(self) -> Result<ClaimedVma<V>> {
        let first = self.vma.pgoff();

        self.claim_from(first)
    }

    /// As [`claim`](Self::claim), for a driver whose pages are not counted from offset 0: the vma is tied
    /// to the pages from `first` on, whatever its offset.
    ///
    /// # Errors
    ///
    /// As for [`claim`](Self::claim).
    pub(crate) fn claim_from(self, first: usize) -> Result<ClaimedVma<V>> {
        let npages = self.vma.npages();
        let access = {
            let file = self.vma.file();
            let memory = file.offers();

            memory.span(first, npages)?;
            memory.access()
        };
        if access == Access::ReadOnly {
            self.deny(flags::WRITE, flags::MAYWRITE)?;
        }

        let shown = Offered::<V>::VMA_FLAGS | flags::DONTEXPAND | flags::DONTDUMP;
        // SAFETY: The flags fit each other: the vma is empty and not copy-on-write, as `VM_PFNMAP` asks,
        // and a kind of memory never asks for both `VM_PFNMAP` and `VM_MIXEDMAP`.
        unsafe { self.vma.change_flags(shown, 0) };

        // INVARIANT: The flags were just set; `VM_MAYWRITE` is gone over read-only memory; the pages
        // were just found inside the memory, and are as many as the vma's.
        Ok(ClaimedVma {
            vma: self.vma,
            first,
        })
    }

    /// Takes `may` away, unless its right is in use already.
    fn deny(&self, right: vm_flags_t, may: vm_flags_t) -> Result {
        if self.vma.flags() & right != 0 {
            return Err(EACCES);
        }
        // SAFETY: A right that is not given can be refused for ever.
        unsafe { self.vma.change_flags(0, may) };
        Ok(())
    }
}

/// An empty vma that may show pages of its file's [`Memory`].
///
/// # Invariants
///
/// - Those of [`SharedVma`]; and the flags that this kind of memory asks for are set, as are
///   `VM_DONTEXPAND` and `VM_DONTDUMP`.
/// - The memory has as many pages from `first` on as the vma has.
/// - If the memory is read-only, then neither `VM_WRITE` nor `VM_MAYWRITE` is set.
pub(crate) struct ClaimedVma<V> {
    pub(super) vma: V,
    pub(super) first: usize,
}

impl<V: BeingMapped> ClaimedVma<V> {
    /// The address space that it is mapped into.
    pub(crate) fn mm(&self) -> &Mm {
        self.vma.mm()
    }

    /// Maps nothing now; `T` is asked for each page on the first access to it.
    ///
    /// The vma and its descendants (by `fork()`, split or `mremap()`) own a reference to one `T` each,
    /// which is [made](FaultOperations::of) when nothing can go wrong any more.
    ///
    /// # Errors
    ///
    /// What making it says.
    pub(crate) fn map_on_fault<T>(self) -> Result<V::Done>
    where
        T: FaultOperations<File = V::File, Memory = Offered<V>>,
    {
        // SAFETY: By the type invariants the vma is not copy-on-write and has the flags of `T`'s kind of
        // memory.
        unsafe { self.vma.set_operations::<T>() }?;
        // SAFETY: The operations will bring in all pages.
        Ok(unsafe { self.vma.done() })
    }
}

impl<V: BeingMapped> ClaimedVma<V>
where
    V::File: MappableFile<Memory = Window>,
{
    /// Has the pages mapped without caching (UC- on x86, where a write-combining MTRR wins).
    pub(crate) fn uncached(self) -> Self {
        // SAFETY: The function has no requirements.
        self.with_prot(|prot| unsafe { helpers::mapwitness_pgprot_noncached(prot) })
    }

    /// Has stores to the pages combined (WC).
    // For drivers of frame buffers and the like.
    #[allow(dead_code)]
    pub(crate) fn write_combining(self) -> Self {
        // SAFETY: The function has no requirements.
        self.with_prot(|prot| unsafe { helpers::mapwitness_pgprot_writecombine(prot) })
    }

    fn with_prot(
        self,
        change: impl FnOnce(kernel::bindings::pgprot_t) -> kernel::bindings::pgprot_t,
    ) -> Self {
        let prot = change(self.vma.page_prot());

        // SAFETY: Both callers change the cache mode only, so the access is still the vma's.
        unsafe { self.vma.set_page_prot(prot) };
        self
    }

    /// Maps all pages now, each page of the vma showing the window's page `source(page)`.
    ///
    /// With [`VmaPage::offered`] as the source this is the mapping that user space asked for; a driver may
    /// show its pages in another order, in an `mmap` hook. (A description has room for one stretch.)
    ///
    /// # Errors
    ///
    /// `EINVAL` when `source` names a page beyond the window, or pages that a description has no room for;
    /// else what the kernel's function says.
    pub(crate) fn remap_with(
        self,
        call: Remap,
        source: impl Fn(VmaPage) -> usize,
    ) -> Result<V::Done> {
        let npages = self.vma.npages();
        let source = |index| {
            source(VmaPage {
                index,
                // Inside the window, by the type invariants.
                offered: self.first + index,
                npages,
            })
        };
        let mut done = 0;

        // One call for each stretch of neighbours. Only a vma that is mapped by a single call has
        // its memory type tracked as a whole by the architecture.
        while done < npages {
            let first = source(done);
            let run = (1..npages - done)
                .find(|&next| Some(source(done + next)) != first.checked_add(next))
                .unwrap_or(npages - done);
            let file = self.vma.file();
            let pages = file.offers().span(first, run)?;

            // SAFETY: Each page of the vma is visited once, and it was empty. By the type invariants its
            // flags are a window's, and say no `VM_WRITE` if that is read-only.
            unsafe { self.vma.remap(call, done, pages) }?;
            done += run;
        }
        // SAFETY: All pages have been arranged for.
        Ok(unsafe { self.vma.done() })
    }

    /// Maps all pages now, by the kernel's function that checks and counts for itself
    /// (`vm_iomap_memory()`): the window's pages from the vma's offset on.
    ///
    /// # Errors
    ///
    /// What that function says.
    pub(crate) fn iomap(self) -> Result<V::Done> {
        // SAFETY: The vma is empty, and by the type invariants its flags are a window's and say no
        // `VM_WRITE` if that is read-only.
        unsafe { self.vma.iomap(self.vma.file().offers()) }?;
        // SAFETY: All pages have been arranged for.
        Ok(unsafe { self.vma.done() })
    }
}

impl<V: BeingMapped> ClaimedVma<V>
where
    V::File: MappableFile<Memory = Buffer>,
{
    /// Maps all pages now. Each entry takes a reference on its page, and gives it back when it goes.
    ///
    /// # Errors
    ///
    /// What the kernel's function says. Pages that were inserted before an error go with the vma.
    pub(crate) fn insert(self, call: Insert) -> Result<V::Done> {
        let file = self.vma.file();
        let pages = file.offers().span(self.first, self.vma.npages())?;

        // SAFETY: The vma is empty, and by the type invariants its flags are a buffer's. The file owns
        // its memory.
        unsafe { self.vma.insert(call, pages) }?;
        // SAFETY: All pages have been arranged for.
        Ok(unsafe { self.vma.done() })
    }
}

/// A page of a vma.
#[derive(Clone, Copy)]
pub(crate) struct VmaPage {
    index: usize,
    offered: usize,
    npages: usize,
}

// A driver needs one or the other, depending on the order in which it shows its pages.
#[allow(dead_code)]
impl VmaPage {
    pub(super) fn new(index: usize, offered: usize, npages: usize) -> Self {
        Self {
            index,
            offered,
            npages,
        }
    }

    /// Number of pages of the vma that lie before it.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Number of pages of the vma.
    pub(crate) fn vma_npages(self) -> usize {
        self.npages
    }

    /// The page of the memory that user space asked for here: in a mapping that was
    /// [claimed](SharedVma::claim) by its offset, the page's offset in the file.
    pub(crate) fn offered(self) -> usize {
        self.offered
    }
}
