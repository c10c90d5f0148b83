//! Facts of a kernel that does not exist, small enough to write its memory by hand.

use std::sync::Arc;

use btf::{Array, Field};

use crate::facts::{
    KernelFacts, Layout, MapleLayout, MmLayout, ModuleLayout, PageLayout, Symbols, TaskLayout,
    VmaLayout,
};

pub(crate) const INIT_TASK: u64 = 0x1_0000;
pub(crate) const MODULES: u64 = 0x6_0000;
pub(crate) const LEAF: u64 = 1;
pub(crate) const RANGE: u64 = 2;
pub(crate) const ARANGE: u64 = 3;

/// Nodes of a tree of areas, with fewer slots than any kernel's.
pub(crate) fn maple_layout() -> MapleLayout {
    MapleLayout {
        range_pivots: Array::of_words(8, 3),
        range_slots: Array::of_words(0x40, 4),
        arange_pivots: Array::of_words(8, 2),
        arange_slots: Array::of_words(0x40, 3),
        leaf_64: LEAF,
        range_64: RANGE,
        arange_64: ARANGE,
    }
}

/// Each member in a word of its own, at another offset than in any kernel.
pub(crate) fn facts() -> KernelFacts {
    let field = |place: u64| Field::word(place * 8);
    KernelFacts {
        layout: Layout {
            task: TaskLayout {
                next: field(7),
                tgid: field(1),
                mm: field(3),
                comm: Array::of_words(0x80, 2),
            },
            mm: MmLayout {
                pgd: field(2),
                map_count: field(4),
                maple_root: field(5),
            },
            vma: VmaLayout {
                start: field(1),
                end: field(2),
                mm: field(3),
                page_prot: field(4),
                flags: field(5),
                pgoff: field(6),
                file: field(7),
                ops: field(8),
                private_data: field(9),
            },
            page: PageLayout {
                size: 0x80,
                flags: field(0),
                refcount: field(1),
                mapcount: field(2),
                compound: field(3),
                mapping: field(4),
            },
            maple: maple_layout(),
            module: ModuleLayout {
                next: field(3),
                name: 0x40,
                text_base: field(1),
                text_size: field(2),
                refcnt: field(4),
            },
        },
        symbols: Symbols {
            init_task: INIT_TASK,
            modules: MODULES,
            page_offset_base: 0,
            vmalloc_base: 0,
            vmemmap_base: 0,
        },
        vm_flags: Arc::from([("READ".to_owned(), 1), ("WRITE".to_owned(), 2)]),
        page_flags: Arc::from([("locked".to_owned(), 0), ("reserved".to_owned(), 13)]),
    }
}
