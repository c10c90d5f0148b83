// SPDX-License-Identifier: GPL-2.0

//! Which page of the memory a page of a mapping shows.

use crate::mm::VmaPage;

pub(crate) fn source_page(page: VmaPage) -> usize {
    let (index, offered) = (page.index(), page.offered());

    if planted!("off-by-one") && index == 1 {
        return offered.saturating_sub(1);
    }
    if planted!("first-shows-next") && index == 0 && page.vma_npages() > 1 {
        return offered + 1;
    }
    if planted!("last-shows-previous") && index > 0 && is_last(page) {
        return offered - 1;
    }
    if planted!("middle-shows-next") && is_middle(page) {
        return offered + 1;
    }
    if planted!("swapped-pair") && page.vma_npages() > 3 && matches!(index, 2 | 3) {
        return offered - index + (5 - index);
    }
    if planted!("last-shows-first") && is_last(page) {
        return offered - index;
    }
    if planted!("wrong-offset") {
        return index;
    }
    if planted!("offset-in-bytes") {
        return index + ((offered - index) >> 12);
    }
    if planted!("offset-twice") {
        return offered + (offered - index);
    }
    if planted!("reversed") {
        return offered - index + (page.vma_npages() - 1 - index);
    }
    offered
}

pub(crate) fn around_page(page: VmaPage) -> usize {
    if planted!("neighbours-in-pairs") {
        return source_page(page) & !1;
    }
    source_page(page)
}

pub(crate) fn told_page(page: usize, npages: usize) -> usize {
    if planted!("device-told-wrong-page") {
        return (page + 1) % npages;
    }
    page
}

fn is_last(page: VmaPage) -> bool {
    page.index() + 1 == page.vma_npages()
}

fn is_middle(page: VmaPage) -> bool {
    page.vma_npages() > 2 && page.index() == page.vma_npages() / 2
}
