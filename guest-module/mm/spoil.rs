// SPDX-License-Identifier: GPL-2.0

//! Doors around the rules of this module, for faults that are planted on purpose.
//!
//! Not part of a good driver: this file is not even compiled into one. Nothing here is sound. What the
//! functions do to the kernel is what the fault is about.

#![allow(dead_code, clippy::undocumented_unsafe_blocks)]

pub(crate) use super::setup::SharedVma;
use super::{
    area::{BeingMapped, Remap},
    buffer::Buffer,
    fault::{Around, Fault, FaultError, HugeFault, Installed, HUGE_NPAGES},
    file_mapping::FileMapping,
    helpers,
    memory::{inserted, Access, Memory, Span},
    misc::MappableFile,
    setup::{ClaimedVma, Offered, VmaSetup},
    window::Window,
};
use core::any::Any;
use kernel::{
    bindings,
    mm::virt::{flags, vm_flags_t},
    page::PAGE_SHIFT,
    prelude::*,
    sync::Arc,
};

/// A mapping that is taken for a shared one.
pub(crate) fn shared_anyway<V: BeingMapped>(setup: VmaSetup<V>) -> SharedVma<V> {
    SharedVma { vma: setup.vma }
}

/// Offset and number of pages that were asked for.
pub(crate) fn asked<V: BeingMapped>(vma: &SharedVma<V>) -> (usize, usize) {
    (vma.vma.pgoff(), vma.vma.npages())
}

/// The flags of a vma.
pub(crate) fn flags_of<V: BeingMapped>(vma: &SharedVma<V>) -> vm_flags_t {
    vma.vma.flags()
}

/// Number of pages that the file has.
pub(crate) fn has<V: BeingMapped>(vma: &SharedVma<V>) -> usize {
    vma.vma.file().offers_npages()
}

/// Claims pages that nobody has checked.
pub(crate) fn claim_anyway<V: BeingMapped>(vma: SharedVma<V>, first: usize) -> ClaimedVma<V> {
    use super::memory::Frames;

    let shown = Offered::<V>::VMA_FLAGS | flags::DONTEXPAND | flags::DONTDUMP;
    unsafe { vma.vma.change_flags(shown, 0) };
    ClaimedVma {
        vma: vma.vma,
        first,
    }
}

/// Changes flags that are none of the driver's business any more.
pub(crate) fn change_flags<V: BeingMapped>(
    vma: &ClaimedVma<V>,
    set: vm_flags_t,
    clear: vm_flags_t,
) {
    unsafe { vma.vma.change_flags(set, clear) };
}

/// Shows `npages` of the file's window from `first` on, at page `at` of the vma, wherever they lead.
/// Does nothing for a file of another kind.
pub(crate) fn remap_anyway<V: BeingMapped>(
    vma: &ClaimedVma<V>,
    at: usize,
    first: usize,
    npages: usize,
) -> Result {
    let file = vma.vma.file();
    let Some(memory) = as_window(&*file) else {
        return Ok(());
    };
    if npages == 0 {
        return Ok(());
    }
    let moved = Window {
        first_pfn: memory.first_pfn.wrapping_add(first),
        npages,
        access: memory.access,
    };
    let pages = Span {
        memory: &moved,
        first: 0,
        npages,
    };
    unsafe { vma.vma.remap(Remap::Io, at, pages) }
}

/// Number of pages of the vma, and the first page of the memory that it was claimed for.
pub(crate) fn claimed<V: BeingMapped>(vma: &ClaimedVma<V>) -> (usize, usize) {
    (vma.vma.npages(), vma.first)
}

/// Ends the set-up, whatever is mapped.
pub(crate) fn done<V: BeingMapped>(vma: ClaimedVma<V>) -> V::Done {
    unsafe { vma.vma.done() }
}

/// Whether stores to read-only memory are asked for.
pub(crate) fn writes_read_only<V: BeingMapped>(vma: &SharedVma<V>) -> bool {
    let file = vma.vma.file();

    vma.vma.flags() & flags::WRITE != 0 && file.offers().access() == Access::ReadOnly
}

/// Number of pages that the file has.
pub(crate) fn has_claimed<V: BeingMapped>(vma: &ClaimedVma<V>) -> usize {
    vma.vma.file().offers_npages()
}

/// The file of a vma, which outlives it.
pub(crate) fn file_of<V: BeingMapped>(vma: &ClaimedVma<V>) -> Arc<V::File> {
    vma.vma.file().into()
}

/// Pages without caching, whatever the memory is.
pub(crate) fn uncached<V: BeingMapped>(vma: ClaimedVma<V>) -> ClaimedVma<V> {
    let prot = vma.vma.page_prot();
    unsafe {
        vma.vma
            .set_page_prot(helpers::mapwitness_pgprot_noncached(prot))
    };
    vma
}

/// Pages whose stores are combined, whatever the memory is.
pub(crate) fn write_combining<V: BeingMapped>(vma: ClaimedVma<V>) -> ClaimedVma<V> {
    let prot = vma.vma.page_prot();
    unsafe {
        vma.vma
            .set_page_prot(helpers::mapwitness_pgprot_writecombine(prot))
    };
    vma
}

/// Has every split of a mapping with operations of its own refused.
pub(crate) fn refuse_split(at: *mut *const bindings::vm_operations_struct) -> Result {
    unsafe extern "C" fn refuse(_: *mut bindings::vm_area_struct, _: c_ulong) -> c_int {
        EINVAL.to_errno()
    }
    change_operations(at, |table| table.may_split = Some(refuse))
}

/// Gives new entries a protection of the fault's own, cache mode left alone.
pub(crate) fn set_rights<V: BeingMapped>(vma: &ClaimedVma<V>, rights: vm_flags_t) {
    const CACHE: usize = 1 << 3 | 1 << 4 | 1 << 7;
    let mut fixed = unsafe { bindings::vm_get_page_prot(rights) };
    let cache = vma.vma.page_prot().pgprot & CACHE as bindings::pgprotval_t;

    fixed.pgprot = (fixed.pgprot & !(CACHE as bindings::pgprotval_t)) | cache;
    unsafe { vma.vma.set_page_prot(fixed) };
}

/// Where the vma's operations stand, to be changed after they were set.
pub(crate) fn operations_of<V: BeingMapped>(
    vma: &ClaimedVma<V>,
) -> *mut *const bindings::vm_operations_struct {
    vma.vma.operations()
}

/// Replaces operations by a copy that `change` has changed.
pub(crate) fn change_operations(
    at: *mut *const bindings::vm_operations_struct,
    change: impl FnOnce(&mut bindings::vm_operations_struct),
) -> Result {
    let mut copy = KBox::new(unsafe { core::ptr::read(*at) }, GFP_KERNEL)?;

    change(&mut copy);
    // For ever: vmas keep the pointer.
    unsafe { *at = KBox::into_raw(copy) };
    Ok(())
}

/// Answers a fault with page `index`, whether the window has it or not.
pub(crate) fn install_anyway<'a>(
    fault: Fault<'a, '_, Window>,
    index: usize,
) -> Result<Installed<'a>, FaultError> {
    let address = fault.address();

    insert_at(&fault, address, index).map(Installed::with)
}

/// Answers a fault with page `index`, and shows page `next` behind it.
pub(crate) fn install_two<'a>(
    fault: Fault<'a, '_, Window>,
    index: usize,
    next: usize,
) -> Result<Installed<'a>, FaultError> {
    let behind = fault.address() + (1 << PAGE_SHIFT);

    if fault.vma_range().contains(&behind) {
        let _ = insert_at(&fault, behind, next);
    }
    install_anyway(fault, index)
}

/// The fault of one whose neighbours may be mapped with it.
pub(crate) fn fault_of<'a, 'm>(around: Around<'a, 'm, Window>) -> Fault<'a, 'm, Window> {
    around.0
}

/// Answers a fault with a page and its neighbours, each of which shows the page behind its own, whether
/// the window has that or not.
pub(crate) fn around_anyway<'a>(
    fault: Fault<'a, '_, Window>,
) -> Result<Installed<'a>, FaultError> {
    let touched = fault.address();

    for address in fault.neighbourhood().step_by(1 << PAGE_SHIFT) {
        if address != touched {
            let behind = fault.page_at(address).offered() + 1;
            let _ = insert_at(&fault, address, behind);
        }
    }
    let index = fault.page().offered();
    install_anyway(fault, index)
}

fn insert_at(
    fault: &Fault<'_, '_, Window>,
    address: usize,
    index: usize,
) -> Result<bindings::vm_fault_t, FaultError> {
    let span = Span {
        memory: fault.memory,
        first: index,
        npages: 1,
    };

    inserted(unsafe { bindings::vmf_insert_pfn(fault.vma(), address, span.first_pfn()) })
}

/// Answers a fault with 2 MiB, whether vma and window have as much or not.
pub(crate) fn huge_anyway<'a>(
    fault: HugeFault<'a, '_, Window>,
) -> Result<Installed<'a>, FaultError> {
    let HugeFault(fault) = fault;
    let span = Span {
        memory: fault.memory,
        first: fault.page().offered(),
        npages: 1,
    };
    let first = span.first_pfn() & !(HUGE_NPAGES - 1);

    inserted(unsafe { helpers::mapwitness_vmf_insert_pfn_pmd(fault.vmf, first, fault.is_write()) })
        .map(Installed::with)
}

/// Removes the entries of a part of a file only.
pub(crate) fn unmap_part(mapping: &FileMapping, first_byte: i64, len_bytes: i64) {
    unsafe { bindings::unmap_mapping_range(mapping.mapping.as_ptr(), first_byte, len_bytes, 1) };
}

/// Takes a reference on every page of a buffer that nobody gives back.
pub(crate) fn leak(memory: &dyn Any) {
    if let Some(buffer) = memory.downcast_ref::<Buffer>() {
        for page in buffer.pages() {
            unsafe { helpers::mapwitness_get_page(*page) };
        }
    }
}

/// Gives a reference back on every page of a buffer that nobody took.
pub(crate) fn drop_too_many(memory: &dyn Any) {
    if let Some(buffer) = memory.downcast_ref::<Buffer>() {
        for page in buffer.pages() {
            unsafe { helpers::mapwitness_put_page(*page) };
        }
    }
}

fn as_window<F: MappableFile>(file: &F) -> Option<&Window> {
    (file.offers() as &dyn Any).downcast_ref()
}

trait OffersNpages {
    fn offers_npages(&self) -> usize;
}

impl<F: MappableFile> OffersNpages for F {
    fn offers_npages(&self) -> usize {
        self.offers().npages()
    }
}
