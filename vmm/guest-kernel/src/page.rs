//! `struct page`: what the kernel notes of one frame.

use std::sync::Arc;

use addr::{Gfn, Gva};

use crate::error::ViewError;
use crate::facts::KernelFacts;
use crate::memory::KernelMemory;

/// `_mapcount` holds a type in its upper byte instead, from this value on
/// (`PGTY_buddy` of include/linux/page-flags.h; below it a count would have
/// overflowed).
const FIRST_TYPE: u32 = 0xf000_0000;

/// A `struct page` as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageView {
    /// The frame that it is for.
    pub gfn: Gfn,
    /// Where the structure lies.
    pub at: Gva,
    /// `_refcount`: how many hold the page. The page is free at 0. Of a tail page it
    /// is 0; its head has the count.
    pub refcount: i32,
    /// `_mapcount`, or a page type, as it stands there.
    pub raw_mapcount: u32,
    /// `flags`: bits with names, and above them the page's zone and the like.
    pub flags: u64,
    /// `mapping`: the address space that it belongs to, or its anon_vma with bit 0 set.
    pub mapping: u64,
    /// The frame of its head, when it is a tail page of a compound one.
    pub head: Option<Gfn>,
    names: Arc<[(String, u64)]>,
}

impl PageView {
    pub(crate) fn read<M: KernelMemory>(
        memory: &M,
        facts: &KernelFacts,
        vmemmap: u64,
        gfn: Gfn,
    ) -> Result<Self, ViewError> {
        let layout = &facts.layout.page;
        let at = page_address(vmemmap, layout.size, gfn).ok_or(ViewError::Nonsense {
            what: "the address of a struct page",
            value: gfn.raw(),
        })?;
        let read = |what, field| memory.field(what, at, field);
        let compound = read("page.compound_info", layout.compound)?;
        Ok(Self {
            gfn,
            at: Gva::new(at),
            refcount: low_half(read("page._refcount", layout.refcount)?).cast_signed(),
            raw_mapcount: low_half(read("page._mapcount", layout.mapcount)?),
            flags: read("page.flags", layout.flags)?,
            mapping: read("page.mapping", layout.mapping)?,
            head: head(vmemmap, layout.size, at, compound),
            names: Arc::clone(&facts.page_flags),
        })
    }

    /// In how many page tables the page is mapped, as the kernel counts it: only for
    /// pages that can be mapped into user space by it, never for a driver's PFN
    /// mapping. 0 when the field holds a type.
    pub fn mapcount(&self) -> u32 {
        match self.raw_mapcount {
            FIRST_TYPE..=u32::MAX => 0,
            // It starts at -1.
            count => count.wrapping_add(1),
        }
    }

    /// Whether the flag `name` is set, such as `reserved` for `PG_reserved`.
    ///
    /// # Panics
    /// When this kernel has no flag of that name: the question cannot be answered.
    pub fn has(&self, name: &str) -> bool {
        let known = self.names.iter().find(|(known, _)| known == name);
        match known {
            Some((_, bit)) => self.bit(*bit),
            None => panic!("this kernel has no page flag PG_{name}"),
        }
    }

    /// Names of the flags that are set, without `PG_`. A bit that has several is
    /// listed by each.
    pub fn flag_names(&self) -> Vec<&str> {
        let set = self.names.iter().filter(|(_, bit)| self.bit(*bit));
        set.map(|(name, _)| name.as_str()).collect()
    }

    fn bit(&self, number: u64) -> bool {
        let mask = u32::try_from(number)
            .ok()
            .and_then(|n| 1_u64.checked_shl(n));
        mask.is_some_and(|mask| self.flags & mask != 0)
    }
}

/// Where the `struct page` of a frame lies (`pfn_to_page`).
pub(crate) fn page_address(vmemmap: u64, size: u64, gfn: Gfn) -> Option<u64> {
    vmemmap.checked_add(gfn.raw().checked_mul(size)?)
}

/// The frame whose `struct page` lies there (`page_to_pfn`).
pub(crate) fn page_gfn(vmemmap: u64, size: u64, page: u64) -> Option<Gfn> {
    let offset = page.checked_sub(vmemmap)?;
    let exact = offset.checked_rem(size)? == 0;
    exact.then(|| Gfn::new(offset / size))
}

/// The head of a tail page: bit 0 of `compound` says that it is one. The rest is the
/// head's address or, in kernels that let it stand for many, the mask which leads there.
fn head(vmemmap: u64, size: u64, at: u64, compound: u64) -> Option<Gfn> {
    if compound & 1 == 0 {
        return None;
    }
    let direct = page_gfn(vmemmap, size, compound & !1);
    direct
        .filter(|_| compound & !1 <= at)
        .or_else(|| page_gfn(vmemmap, size, at & compound))
}

/// A field of 4 bytes is read as such.
fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}
