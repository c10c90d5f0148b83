// SPDX-License-Identifier: GPL-2.0

//! How and when pages are mapped.

use super::{around_page, maps_at_once, source_page};
use crate::{
    mm::{
        spoil, Around, BeingMapped, ClaimedVma, Fault, FaultError, HugeFault, Installed, MappableFile,
        Window,
    },
    strategy::{DeviceFile, Strategy},
};
use kernel::prelude::*;

/// Whether pages beyond the memory are claimed.
fn reaches_beyond() -> bool {
    planted!("one-page-too-many")
        || planted!("only-start-checked")
        || planted!("offset-not-counted")
        || planted!("sum-wraps-at-32-bits")
        || planted!("no-bound-at-all")
        || planted!("length-rounded-up")
}

pub(crate) fn map<S, V>(vma: ClaimedVma<V>) -> Result<V::Done>
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    let (npages, first) = spoil::claimed(&vma);
    let at_once = maps_at_once::<S>();

    if reaches_beyond() && at_once {
        return part_of(vma, 0, first, npages);
    }
    if planted!("tail-unmapped") && at_once && npages > 1 {
        return part_of(vma, 0, first, npages - 1);
    }
    if planted!("head-unmapped") && at_once && npages > 1 {
        return part_of(vma, 1, first + 1, npages - 1);
    }
    if planted!("error-ignored") && at_once && npages > 2 {
        // The second half failed, and nobody looked.
        return part_of(vma, 0, first, npages / 2);
    }
    if planted!("base-one-page-early") && at_once {
        // A base that is not at a page's start, rounded down. Page 0 of window 0 has no page before it
        // that could be shown without harm, but the gap between windows can.
        return part_of(vma, 0, first.wrapping_sub(1), npages);
    }
    if planted!("neighbours-page") && at_once {
        // The last page is one of the memory that follows.
        spoil::remap_anyway(&vma, 0, first, npages - 1)?;
        let behind = spoil::has_claimed(&vma) + 1;

        return part_of(vma, npages - 1, behind, 1);
    }
    if planted!("lazy-maps-at-once") && S::NAME == "lazy" {
        return part_of(spoil::uncached(vma), 0, first, npages);
    }
    if planted!("eager-maps-nothing") && at_once {
        return Ok(spoil::done(vma));
    }
    if planted!("write-combining") && at_once {
        return part_of(spoil::write_combining(vma), 0, first, npages);
    }
    if planted!("cached") && at_once {
        spoil::remap_anyway(&vma, 0, first, npages)?;
        return Ok(spoil::done(vma));
    }
    with_operations::<S, V>(vma)
}

/// Maps some pages, uncached, and says that all is well.
fn part_of<V: BeingMapped>(
    vma: ClaimedVma<V>,
    at: usize,
    first: usize,
    npages: usize,
) -> Result<V::Done> {
    let vma = spoil::uncached(vma);

    spoil::remap_anyway(&vma, at, first, npages)?;
    Ok(spoil::done(vma))
}

/// Maps as it should be, then spoils the vma's operations or the pages' counts.
fn with_operations<S, V>(vma: ClaimedVma<V>) -> Result<V::Done>
where
    S: Strategy,
    V: BeingMapped<File = DeviceFile<S>>,
{
    let operations = spoil::operations_of(&vma);
    let file = spoil::file_of(&vma);
    let done = S::map(vma)?;

    if planted!("copies-not-counted") && !V::IS_DESCRIBED && S::NAME == "lazy" {
        spoil::change_operations(operations, |table| table.open = None)?;
    }
    if planted!("close-not-counted") && S::NAME == "pagefault" {
        spoil::change_operations(operations, |table| table.close = None)?;
    }
    if planted!("split-refused") {
        spoil::refuse_split(operations)?;
    }
    if planted!("reference-leaked") {
        spoil::leak(file.offers());
    }
    if planted!("page-freed-while-mapped") && !V::IS_DESCRIBED && S::NAME == "pages" {
        spoil::drop_too_many(file.offers());
    }
    Ok(done)
}

pub(crate) fn answer<'a>(fault: Fault<'a, '_, Window>) -> Result<Installed<'a>, FaultError> {
    let page = fault.page();
    let source = source_page(page);

    if planted!("sum-wraps-at-32-bits") {
        return spoil::install_anyway(fault, source as u32 as usize);
    }
    if reaches_beyond() {
        return spoil::install_anyway(fault, source);
    }
    if planted!("touch-brings-next-too") && page.index() + 1 < page.vma_npages() {
        return spoil::install_two(fault, source, source + 1);
    }
    if planted!("fault-refuses-last-page") && page.index() + 1 == page.vma_npages() {
        return Err(FaultError::NoPage);
    }
    fault.install(source)
}

/// The neighbours come in without a bound: the last of them is no page of the window.
fn goes_astray() -> bool {
    planted!("neighbours-without-bound")
}

pub(crate) fn answer_around<'a>(
    fault: Fault<'a, '_, Window>,
) -> Result<Installed<'a>, FaultError> {
    if goes_astray() {
        return spoil::around_anyway(fault);
    }
    fault.install_around(around_page)
}

pub(crate) fn answer_read_around<'a>(around: Around<'a, '_, Window>) -> Option<Installed<'a>> {
    if goes_astray() {
        return spoil::around_anyway(spoil::fault_of(around)).ok();
    }
    around.install(around_page)
}

pub(crate) fn answer_huge<'a>(
    fault: HugeFault<'a, '_, Window>,
) -> Result<Installed<'a>, FaultError> {
    if planted!("huge-without-bound") {
        return spoil::huge_anyway(fault);
    }
    if planted!("huge-never") {
        return Err(FaultError::Smaller);
    }
    if planted!("huge-shows-other-half") {
        return fault.install(|page| source_page(page) ^ 512);
    }
    fault.install(source_page)
}
