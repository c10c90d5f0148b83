// SPDX-License-Identifier: GPL-2.0

//! Which page of the memory a page of a mapping shows.

use crate::mm::VmaPage;

pub(crate) fn source_page(page: VmaPage) -> usize {
    let (index, offered) = (page.index(), page.offered());

    if cfg!(mapwitness_variant = "off-by-one") && index == 1 {
        return offered.saturating_sub(1);
    }
    if cfg!(mapwitness_variant = "first-shows-next") && index == 0 && page.vma_npages() > 1 {
        return offered + 1;
    }
    if cfg!(mapwitness_variant = "last-shows-previous") && index > 0 && is_last(page) {
        return offered - 1;
    }
    if cfg!(mapwitness_variant = "middle-shows-next") && is_middle(page) {
        return offered + 1;
    }
    if cfg!(mapwitness_variant = "swapped-pair") && page.vma_npages() > 3 && matches!(index, 2 | 3)
    {
        return offered - index + (5 - index);
    }
    if cfg!(mapwitness_variant = "last-shows-first") && is_last(page) {
        return offered - index;
    }
    if cfg!(mapwitness_variant = "wrong-offset") {
        return index;
    }
    if cfg!(mapwitness_variant = "offset-in-bytes") {
        return index + ((offered - index) >> 12);
    }
    if cfg!(mapwitness_variant = "offset-twice") {
        return offered + (offered - index);
    }
    if cfg!(mapwitness_variant = "reversed") {
        return offered - index + (page.vma_npages() - 1 - index);
    }
    offered
}

pub(crate) fn around_page(page: VmaPage) -> usize {
    if cfg!(mapwitness_variant = "neighbours-in-pairs") {
        return source_page(page) & !1;
    }
    source_page(page)
}

pub(crate) fn told_page(page: usize, npages: usize) -> usize {
    if cfg!(mapwitness_variant = "device-told-wrong-page") {
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
