// SPDX-License-Identifier: GPL-2.0

//! mspec: special memory of SGI's SN machines, as `drivers/char/mspec.c` handed it out until ia64 went.
//!
//! Every mapping is a region of pages of its own. `mmap`, in this order:
//!
//! 1. an offset: `EINVAL`
//! 2. not `VM_SHARED`: `EINVAL`, also for `MAP_SHARED` of a file opened for reading only, from which the
//!    kernel takes that flag
//! 3. not writable: `EPERM`
//! 4. no memory for the region's list of pages: `ENOMEM`
//!
//! Nothing is mapped then. A page is allocated when it is first touched, and stays the region's: every
//! vma that comes from the mapping, by `fork()` or by a split, shows the same. Who allocates a page
//! and finds that another has been quicker frees his own and takes the other's. When the last vma closes,
//! every page is cleared and freed; a partial `munmap` frees nothing.
//!
//! Where the original's arithmetic could harm the kernel, this one refuses: it has the list's size in an
//! `int`, which wraps for a mapping of 2 TiB, and no bounds check when it looks into the list.

use super::{
    abi,
    node::Persona, //
};
use crate::mm::{FaultError, PlainFaults, PlainMapped, PlainPage, PlainVma, RamPage};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    fs::File,
    mm::virt::flags,
    new_mutex,
    page::{Page, PAGE_SIZE},
    prelude::*,
    sync::{
        atomic::{Atomic, AtomicFlag, Full, Relaxed},
        Arc, Mutex, //
    },
    uaccess::UserSlice, //
};

/// How the pages are cached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Like all RAM.
    Cached,
    /// Not.
    Uncached,
}

pub(super) struct Mspec {
    kind: Kind,
    counts: Arc<Counts>,
}

/// What all regions of a file come to.
struct Counts {
    regions: Atomic<u64>,
    allocated: Atomic<u64>,
    freed: Atomic<u64>,
    /// Whether the next fault is to lose its race.
    lose: AtomicFlag,
}

impl Mspec {
    /// No region yet.
    pub(super) fn new(kind: Kind) -> Result<Arc<Self>> {
        let counts = Counts {
            regions: Atomic::new(0),
            allocated: Atomic::new(0),
            freed: Atomic::new(0),
            lose: AtomicFlag::new(false),
        };
        let counts = Arc::new(counts, GFP_KERNEL)?;

        Ok(Arc::new(Self { kind, counts }, GFP_KERNEL)?)
    }
}

impl Persona for Mspec {
    type File = ();

    fn open(self: &Arc<Self>, _: &File) -> Result {
        Ok(())
    }

    fn mmap<'a>(self: &Arc<Self>, (): &(), vma: PlainVma<'a>) -> Result<PlainMapped<'a>> {
        if vma.pgoff() != 0 {
            return Err(EINVAL);
        }
        if vma.flags() & flags::SHARED == 0 {
            return Err(EINVAL);
        }
        if vma.flags() & flags::WRITE == 0 {
            return Err(EPERM);
        }
        let region = Region::new(self, vma.len_bytes() / PAGE_SIZE)?;

        if self.kind == Kind::Uncached {
            vma.set_noncached();
        }
        Ok(vma.on_fault(region))
    }

    fn ioctl(&self, (): &(), command: u32, argument: UserSlice) -> Result {
        let counts = &self.counts;

        match command {
            abi::MSPEC_LOSE_RACE => counts.lose.store(true, Relaxed),
            abi::MSPEC_COUNTS => {
                let (allocated, freed) = (counts.allocated.load(Relaxed), counts.freed.load(Relaxed));
                let mut writer = argument.writer();

                writer.write(&counts.regions.load(Relaxed))?;
                writer.write(&allocated.wrapping_sub(freed))?;
                writer.write(&allocated)?;
                writer.write(&freed)?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(())
    }
}

/// The pages of one mapping and all vmas that come from it, each of which owns a reference.
#[pin_data(PinnedDrop)]
struct Region {
    kind: Kind,
    counts: Arc<Counts>,
    /// A page for each of the mapping, once it has been touched. None is ever replaced.
    #[pin]
    pages: Mutex<VVec<Option<Page>>>,
}

impl Region {
    fn new(mspec: &Mspec, npages: usize) -> Result<Arc<Self>> {
        let mut pages = VVec::with_capacity(npages, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..npages {
            pages.push(None, GFP_KERNEL)?;
        }
        let counts = mspec.counts.clone();
        let region = Arc::pin_init(
            pin_init!(Self {
                kind: mspec.kind,
                counts,
                pages <- new_mutex!(pages),
            }),
            GFP_KERNEL,
        )?;

        region.counts.regions.fetch_add(1, Relaxed);
        Ok(region)
    }

    /// Page `index`, if it has been touched.
    fn page(&self, index: usize) -> Result<Option<RamPage>, FaultError> {
        let pages = self.pages.lock();
        let page = pages.get(index).ok_or(FaultError::NoPage)?;

        Ok(page.as_ref().and_then(RamPage::of))
    }

    fn allocate(&self) -> Result<Page, FaultError> {
        let page = Page::alloc_page(GFP_KERNEL | __GFP_ZERO).map_err(|_| FaultError::OutOfMemory)?;

        if self.kind == Kind::Uncached {
            let uncached = RamPage::of(&page).ok_or(FaultError::OutOfMemory)?;
            // SAFETY: The page was just allocated, and nobody else knows it.
            unsafe { uncached.set_uncached(true) }.map_err(|_| FaultError::OutOfMemory)?;
        }
        self.counts.allocated.fetch_add(1, Full);
        Ok(page)
    }

    /// Gives a page back that nothing maps any more.
    fn free(&self, page: Page) {
        if let (Kind::Uncached, Some(uncached)) = (self.kind, RamPage::of(&page)) {
            // SAFETY: The page is allocated, and nothing maps it any more. A page that stayed uncached
            // would only be slow.
            let _ = unsafe { uncached.set_uncached(false) };
        }
        drop(page);
        self.counts.freed.fetch_add(1, Full);
    }

    /// Makes `page` the region's page `index`, unless it has one: then `page` is freed.
    fn offer(&self, index: usize, page: Page) -> Result<Option<RamPage>, FaultError> {
        let loser = {
            let mut pages = self.pages.lock();

            match pages.get_mut(index) {
                Some(place @ None) => {
                    *place = Some(page);
                    None
                }
                _ => Some(page),
            }
        };
        if let Some(loser) = loser {
            self.free(loser);
        }
        self.page(index)
    }
}

// SAFETY: A page of a region is freed by its `drop` and nowhere else: `offer` frees only what the region
// has not taken.
unsafe impl PlainFaults for Region {
    fn fault(&self, _index: usize, pgoff: usize) -> Result<PlainPage<'_>, FaultError> {
        let page = match self.page(pgoff)? {
            Some(page) => Some(page),
            None => {
                let own = self.allocate()?;

                if self.counts.lose.xchg(false, Full) {
                    let quicker = self.allocate()?;
                    self.offer(pgoff, quicker)?;
                }
                self.offer(pgoff, own)?
            }
        };
        page.map(PlainPage::Ram).ok_or(FaultError::NoPage)
    }
}

#[pinned_drop]
impl PinnedDrop for Region {
    fn drop(self: Pin<&mut Self>) {
        let pages = core::mem::replace(&mut *self.pages.lock(), VVec::new());

        for page in pages.into_iter().flatten() {
            // SAFETY: The last vma that could show the page is closed: nobody reads or writes it.
            // It is as long as a page.
            let _ = unsafe { page.fill_zero_raw(0, PAGE_SIZE) };
            self.free(page);
        }
        self.counts.regions.fetch_sub(1, Relaxed);
    }
}
