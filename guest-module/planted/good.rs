// SPDX-License-Identifier: GPL-2.0

//! Every decision as it should be.

use crate::{
    mm::{
        Around, BeingMapped, ClaimedVma, Fault, FaultError, FileMapping, HugeFault, Installed, VmaPage,
        VmaSetup, Window,
    },
    strategy::{DeviceFile, Strategy},
};
use kernel::{device::Device, prelude::*};

/// A good driver has nothing to choose.
pub(crate) fn check(_dev: &Device) -> Result {
    Ok(())
}

/// The page of the memory that `page` of a mapping is to show.
pub(crate) fn source_page(page: VmaPage) -> usize {
    page.offered()
}

/// As [`source_page`], for the neighbours of a page that was touched.
pub(crate) fn around_page(page: VmaPage) -> usize {
    page.offered()
}

/// Checks a vma and ties it to the memory of its file; the order is that of the README.
pub(crate) fn set_up<S, V>(vma: VmaSetup<V>) -> Result<ClaimedVma<V>>
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    vma.shared_only()?.deny_exec()?.claim()
}

/// Completes a vma that has been set up.
pub(crate) fn map<S, V>(vma: ClaimedVma<V>) -> Result<V::Done>
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    S::map(vma)
}

/// Answers a fault of a single page.
pub(crate) fn answer<'a>(fault: Fault<'a, '_, Window>) -> Result<Installed<'a>, FaultError> {
    let source = source_page(fault.page());

    fault.install(source)
}

/// Answers a fault with a page and its neighbours.
pub(crate) fn answer_around<'a>(
    fault: Fault<'a, '_, Window>,
) -> Result<Installed<'a>, FaultError> {
    fault.install_around(around_page)
}

/// As [`answer_around`], for a load where there is a page table.
pub(crate) fn answer_read_around<'a>(around: Around<'a, '_, Window>) -> Option<Installed<'a>> {
    around.install(around_page)
}

/// Answers a fault of 2 MiB.
pub(crate) fn answer_huge<'a>(
    fault: HugeFault<'a, '_, Window>,
) -> Result<Installed<'a>, FaultError> {
    fault.install(source_page)
}

/// Removes all entries of a file.
pub(crate) fn zap(_nth: usize, mapping: &FileMapping) {
    mapping.unmap_all();
}

/// Whether faults are answered, given whether they may be.
pub(crate) fn answers(may_show: bool) -> bool {
    may_show
}

/// Whether new mappings are refused with `error`.
pub(crate) fn refuses(error: Error) -> Result {
    Err(error)
}

/// Whether entries go when the memory is revoked.
pub(crate) fn zaps_at_revoke() -> bool {
    true
}

/// Whether entries of a window go when the driver is unbound.
pub(crate) fn zaps_at_unbind() -> bool {
    true
}

/// Whether a revocation can be ended.
pub(crate) fn restores() -> bool {
    true
}

/// Number of the page that the device is told to be page `page` of a buffer of `npages`.
pub(crate) fn told_page(page: usize, _npages: usize) -> usize {
    page
}

/// Whether the device is told to forget the pages of buffers.
pub(crate) fn takes_back() -> bool {
    true
}
