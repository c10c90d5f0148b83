// SPDX-License-Identifier: GPL-2.0

//! A vma while it is being mapped, through either hook of `file_operations`.

use super::{
    buffer::Buffer,
    fault::FaultOperations,
    helpers,
    memory::Span,
    misc::MappableFile,
    vm_ops::VmOperations,
    window::Window, //
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    error::to_result,
    mm::{
        virt::{vm_flags_t, VmaNew},
        Mm, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::ArcBorrow,
    types::ForeignOwnable, //
};

/// A vma that a hook is setting up: [`NewVma`] or [`VmaDesc`].
///
/// The trait is sealed: what it takes to implement it cannot be named outside this module.
pub(crate) trait BeingMapped: RawArea {
    /// What the mapped file has as its private data, in an `Arc`.
    type File: MappableFile;

    /// Proof that the set-up came to its end; the hook must return it.
    type Done;

    /// Whether it is only described yet.
    #[cfg(not(mapwitness_variant = "good"))]
    const IS_DESCRIBED: bool;

    /// The file that is being mapped.
    fn file(&self) -> ArcBorrow<'_, Self::File>;

    /// The address space.
    fn mm(&self) -> &Mm;

    /// First address.
    fn start(&self) -> usize;

    /// Address behind the last byte.
    fn end(&self) -> usize;

    /// Offset in the file, in pages.
    fn pgoff(&self) -> usize;

    /// The flags.
    fn flags(&self) -> vm_flags_t;

    /// Number of pages.
    fn npages(&self) -> usize {
        // A vma's end is never below its start.
        (self.end() - self.start()) >> PAGE_SHIFT
    }

    /// Ends the set-up.
    ///
    /// # Safety
    ///
    /// All that the vma is to show has been arranged for.
    unsafe fn done(self) -> Self::Done;

    /// Has faults answered by `T`.
    ///
    /// # Safety
    ///
    /// The vma is not copy-on-write, and its flags are those that [`Fault`](super::Fault) demands for `T`.
    unsafe fn set_operations<T: FaultOperations<File = Self::File>>(&self) -> Result;
}

/// Which of the kernel's functions shows device memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remap {
    /// `remap_pfn_range()`.
    Pfn,
    /// `io_remap_pfn_range()`.
    Io,
}

/// Which of the kernel's functions shows pages of RAM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insert {
    /// `vm_insert_page()`, once for each page.
    Each,
    /// `vm_map_pages()`, all at once.
    All,
}

/// The unsafe half of [`BeingMapped`].
///
/// All functions demand that the vma is being set up by the caller alone.
pub(crate) trait RawArea {
    /// Changes the flags.
    ///
    /// # Safety
    ///
    /// The flags must fit each other and what the vma shows already.
    unsafe fn change_flags(&self, set: vm_flags_t, clear: vm_flags_t);

    /// Where its operations stand.
    #[cfg(not(mapwitness_variant = "good"))]
    fn operations(&self) -> *mut *const bindings::vm_operations_struct;

    /// Page protection that new entries get.
    fn page_prot(&self) -> bindings::pgprot_t;

    /// Changes it.
    ///
    /// # Safety
    ///
    /// It gives no more access than the vma's flags.
    unsafe fn set_page_prot(&self, prot: bindings::pgprot_t);

    /// Shows `pages` from page `at` of the vma on.
    ///
    /// # Safety
    ///
    /// The range lies within the vma and is empty; the vma's flags are those of a [`Window`], and give no
    /// more access than the window.
    unsafe fn remap(&self, call: Remap, at: usize, pages: Span<'_, Window>) -> Result;

    /// Shows the pages of `window` from the vma's offset on, by the kernel's function that counts for itself.
    ///
    /// # Safety
    ///
    /// As for [`RawArea::remap`], for the whole vma.
    unsafe fn iomap(&self, window: &Window) -> Result;

    /// Shows `pages`, which fill the vma and begin at its offset.
    ///
    /// # Safety
    ///
    /// The vma is empty, and its flags are those of a [`Buffer`], which the file that is being mapped
    /// keeps for as long as itself.
    unsafe fn insert(&self, call: Insert, pages: Span<'_, Buffer>) -> Result;
}

/// A vma in an `f_op->mmap()` hook.
///
/// # Invariants
///
/// - For the duration of `'a`, the vma is undergoing initialization in an `f_op->mmap()` hook of a file
///   whose private data is `file`. Nobody else configures it.
pub(crate) struct NewVma<'a, F> {
    vma: &'a VmaNew,
    file: ArcBorrow<'a, F>,
}

impl<'a, F: MappableFile> NewVma<'a, F> {
    /// # Safety
    ///
    /// The type invariants hold for `'a`.
    pub(super) unsafe fn new(vma: &'a VmaNew, file: ArcBorrow<'a, F>) -> Self {
        // INVARIANT: By the caller's promise.
        Self { vma, file }
    }

    fn raw(&self) -> *mut bindings::vm_area_struct {
        self.vma.as_ptr()
    }
}

impl<'a, F: MappableFile> BeingMapped for NewVma<'a, F> {
    type File = F;
    type Done = Mapped<'a>;

    #[cfg(not(mapwitness_variant = "good"))]
    const IS_DESCRIBED: bool = false;

    fn file(&self) -> ArcBorrow<'_, F> {
        self.file
    }

    fn mm(&self) -> &Mm {
        self.vma.mm()
    }

    fn start(&self) -> usize {
        self.vma.start()
    }

    fn end(&self) -> usize {
        self.vma.end()
    }

    fn pgoff(&self) -> usize {
        // SAFETY: By the type invariants the vma is valid, and being set up by us alone.
        unsafe { (*self.raw()).vm_pgoff }
    }

    fn flags(&self) -> vm_flags_t {
        self.vma.flags()
    }

    unsafe fn done(self) -> Mapped<'a> {
        Mapped { _vma: PhantomData }
    }

    unsafe fn set_operations<T: FaultOperations<File = F>>(&self) -> Result {
        let operations = T::of(self.file)?;

        // SAFETY: By the type invariants the vma is being set up by us alone, and its private data
        // is ours to choose. The vma now owns the reference.
        unsafe { (*self.raw()).vm_private_data = operations.into_foreign() };
        // SAFETY: As above. The operations live as long as this module, which the vma's file keeps
        // loaded; the private data is what those for `T` need; the caller promises the rest.
        unsafe { (*self.raw()).vm_ops = VmOperations::<T>::of_mmap() };
        Ok(())
    }
}

impl<F: MappableFile> RawArea for NewVma<'_, F> {
    unsafe fn change_flags(&self, set: vm_flags_t, clear: vm_flags_t) {
        // SAFETY: The vma is being set up, with the mmap lock held for writing. The caller vouches for
        // the flags; no `VmaMixedMap` of it exists, as nobody else configures it.
        unsafe { helpers::mapwitness_vm_flags_mod(self.raw(), set, clear) };
    }

    #[cfg(not(mapwitness_variant = "good"))]
    fn operations(&self) -> *mut *const bindings::vm_operations_struct {
        // SAFETY: By the type invariants the vma is valid.
        unsafe { &raw mut (*self.raw()).vm_ops }
    }

    fn page_prot(&self) -> bindings::pgprot_t {
        // SAFETY: By the type invariants the vma is valid, and being set up by us alone.
        unsafe { (*self.raw()).vm_page_prot }
    }

    unsafe fn set_page_prot(&self, prot: bindings::pgprot_t) {
        // SAFETY: By the type invariants the vma is being set up by us alone.
        unsafe { (*self.raw()).vm_page_prot = prot };
    }

    unsafe fn remap(&self, call: Remap, at: usize, pages: Span<'_, Window>) -> Result {
        let remap = match call {
            Remap::Pfn => bindings::remap_pfn_range,
            Remap::Io => helpers::mapwitness_io_remap_pfn_range,
        };
        let address = self.start() + (at << PAGE_SHIFT);
        let prot = self.page_prot();

        // SAFETY: The vma is being set up with the mmap lock held for writing. By the caller's promises
        // it is no copy-on-write mapping, so that its page offset is left alone; the range lies within
        // it and is empty; the frames may be shown with the access that the vma gives.
        to_result(unsafe {
            remap(
                self.raw(),
                address,
                pages.first_pfn(),
                pages.len_bytes(),
                prot,
            )
        })
    }

    unsafe fn iomap(&self, window: &Window) -> Result {
        // SAFETY: As for `remap`.
        to_result(unsafe {
            bindings::vm_iomap_memory(self.raw(), window.start(), window.len_bytes())
        })
    }

    unsafe fn insert(&self, call: Insert, pages: Span<'_, Buffer>) -> Result {
        match call {
            Insert::Each => {
                for (index, page) in pages.pages().iter().enumerate() {
                    let address = self.start() + (index << PAGE_SHIFT);

                    // SAFETY: The vma is being set up with the mmap lock held for writing, and by the
                    // caller's promise has the flags for it. The buffer owns the page.
                    to_result(unsafe { bindings::vm_insert_page(self.raw(), address, *page) })?;
                }
                Ok(())
            }
            Insert::All => {
                let all = pages.memory().pages();

                // SAFETY: As above. The function only reads the array, and counts the offset itself.
                to_result(unsafe {
                    bindings::vm_map_pages(self.raw(), all.as_ptr().cast_mut(), all.len())
                })
            }
        }
    }
}

/// A vma in an `f_op->mmap_prepare()` hook, where it is only a description.
///
/// What is asked for here happens after the hook has returned, unless the mapping fails before: so nothing
/// that must be undone may be done.
///
/// # Invariants
///
/// For the duration of `'a`, `desc` describes, in an `f_op->mmap_prepare()` hook, a mapping of a file whose
/// private data is `file`. Nobody else uses it.
pub(crate) struct VmaDesc<'a, F> {
    desc: NonNull<bindings::vm_area_desc>,
    file: ArcBorrow<'a, F>,
}

impl<'a, F: MappableFile> VmaDesc<'a, F> {
    /// # Safety
    ///
    /// The type invariants hold for `'a`.
    pub(super) unsafe fn new(
        desc: NonNull<bindings::vm_area_desc>,
        file: ArcBorrow<'a, F>,
    ) -> Self {
        // INVARIANT: By the caller's promise.
        Self { desc, file }
    }

    fn raw(&self) -> *mut bindings::vm_area_desc {
        self.desc.as_ptr()
    }

    /// For reading only: no reference to it is alive across a change.
    fn desc(&self) -> &bindings::vm_area_desc {
        // SAFETY: By the type invariants the description is valid and ours alone.
        unsafe { self.desc.as_ref() }
    }

    /// A description has room for one action.
    fn no_action_yet(&self) -> Result {
        match self.desc().action.type_ {
            bindings::mmap_action_type_MMAP_NOTHING => Ok(()),
            _ => Err(EINVAL),
        }
    }
}

impl<'a, F: MappableFile> BeingMapped for VmaDesc<'a, F> {
    type File = F;
    type Done = Prepared<'a>;

    #[cfg(not(mapwitness_variant = "good"))]
    const IS_DESCRIBED: bool = true;

    fn file(&self) -> ArcBorrow<'_, F> {
        self.file
    }

    fn mm(&self) -> &Mm {
        // SAFETY: The address space stays at least as long as the description.
        unsafe { Mm::from_raw(self.desc().mm) }
    }

    fn start(&self) -> usize {
        self.desc().start
    }

    fn end(&self) -> usize {
        self.desc().end
    }

    fn pgoff(&self) -> usize {
        self.desc().pgoff
    }

    fn flags(&self) -> vm_flags_t {
        self.desc().vma_flags.__vma_flags[0]
    }

    unsafe fn done(self) -> Prepared<'a> {
        Prepared { _vma: PhantomData }
    }

    unsafe fn set_operations<T: FaultOperations<File = F>>(&self) -> Result {
        // The mapping may fail yet, or be merged: `vm_ops->mapped` fills this in.
        // SAFETY: By the type invariants the description is valid and ours alone.
        unsafe { (*self.raw()).private_data = core::ptr::null_mut() };
        // SAFETY: As above. The operations live as long as this module, which the file keeps loaded; the
        // caller promises the rest.
        unsafe { (*self.raw()).vm_ops = VmOperations::<T>::of_mmap_prepare() };
        Ok(())
    }
}

impl<F: MappableFile> RawArea for VmaDesc<'_, F> {
    unsafe fn change_flags(&self, set: vm_flags_t, clear: vm_flags_t) {
        let flags = (self.flags() | set) & !clear;

        // SAFETY: By the type invariants the description is valid and ours alone.
        unsafe { (*self.raw()).vma_flags.__vma_flags[0] = flags };
    }

    #[cfg(not(mapwitness_variant = "good"))]
    fn operations(&self) -> *mut *const bindings::vm_operations_struct {
        // SAFETY: By the type invariants the description is valid.
        unsafe { &raw mut (*self.raw()).vm_ops }
    }

    fn page_prot(&self) -> bindings::pgprot_t {
        self.desc().page_prot
    }

    unsafe fn set_page_prot(&self, prot: bindings::pgprot_t) {
        // SAFETY: By the type invariants the description is valid and ours alone.
        unsafe { (*self.raw()).page_prot = prot };
    }

    unsafe fn remap(&self, call: Remap, at: usize, pages: Span<'_, Window>) -> Result {
        self.no_action_yet()?;

        let action = match call {
            Remap::Pfn => helpers::mapwitness_mmap_action_remap,
            Remap::Io => helpers::mapwitness_mmap_action_ioremap,
        };
        let address = self.start() + (at << PAGE_SHIFT);

        // SAFETY: By the type invariants the description is valid and ours alone. By the caller's
        // promises the range lies within the vma and is empty, and the frames may be shown with the
        // access that the vma gives.
        unsafe { action(self.raw(), address, pages.first_pfn(), pages.len_bytes()) };
        Ok(())
    }

    unsafe fn iomap(&self, window: &Window) -> Result {
        self.no_action_yet()?;

        // SAFETY: As for `remap`.
        unsafe {
            helpers::mapwitness_mmap_action_simple_ioremap(
                self.raw(),
                window.start(),
                window.len_bytes(),
            )
        };
        Ok(())
    }

    unsafe fn insert(&self, _call: Insert, pages: Span<'_, Buffer>) -> Result {
        self.no_action_yet()?;

        let pages = pages.pages();

        // SAFETY: By the type invariants the description is valid and ours alone. The array belongs to
        // a buffer that by the caller's promise stays as long as the file, which the mapping keeps open
        // until the action is over; the action only reads it.
        unsafe {
            helpers::mapwitness_mmap_action_map_kernel_pages(
                self.raw(),
                self.start(),
                pages.as_ptr().cast_mut(),
                pages.len(),
            )
        };
        Ok(())
    }
}

/// Proof that a vma has been set up to its end.
///
/// `'a` names the one vma that it speaks of.
#[must_use]
pub(crate) struct Mapped<'a> {
    // Invariant in `'a`, so that no other vma's proof fits.
    _vma: PhantomData<fn(&'a ()) -> &'a ()>,
}

/// Proof that a mapping has been described to its end.
///
/// `'a` names the one description that it speaks of.
#[must_use]
pub(crate) struct Prepared<'a> {
    // Invariant in `'a`, so that no other description's proof fits.
    _vma: PhantomData<fn(&'a ()) -> &'a ()>,
}
