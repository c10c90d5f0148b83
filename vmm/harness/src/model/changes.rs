//! The system calls that change an address space, as Linux carries them out on areas
//! of raw frames (`VM_PFNMAP`), of a driver's RAM (`VM_MIXEDMAP`), and on addresses that
//! are only taken.
//!
//! What is done before a call fails stays done, here as there.

use std::ops::Range;

use addr::{Gva, PAGE_SIZE};
use wire::{Advice, Prot, Sharing};

use super::Device;
use super::fault::Touch;
use super::space::{Area, Errno, Shows, Space};

const PAGE_LEN: usize = 4096;

/// Arguments of mremap(2).
#[derive(Clone, Debug)]
pub(super) struct Remapping {
    /// The old mapping.
    pub(super) old: Range<u64>,
    /// Length of the new one.
    pub(super) new_len_bytes: u64,
    /// `MREMAP_MAYMOVE`.
    pub(super) may_move: bool,
    /// `MREMAP_FIXED`.
    pub(super) fixed: Option<u64>,
}

impl Space {
    /// munmap(2).
    pub(super) fn unmap(&mut self, range: &Range<u64>) -> Result<(), Errno> {
        self.take(range).map(drop)
    }

    /// mprotect(2), `do_mprotect_pkey` of mm/mprotect.c: from area to area, up to the
    /// first that may not have these rights or the first hole.
    pub(super) fn protect(&mut self, range: &Range<u64>, prot: Prot) -> Result<(), Errno> {
        let mut next = range.start;
        while next < range.end {
            let Some((start, area)) = self.area_at(Gva::new(next)) else {
                return Err(libc::ENOMEM);
            };
            if !allows(area.may, prot) {
                return Err(libc::EACCES);
            }
            let end = (start.raw() + area.npages * PAGE_SIZE).min(range.end);
            // An area that has these rights already is not split.
            if area.prot != prot {
                self.change(&(next..end), |area| area.prot = prot)?;
            }
            next = end;
        }
        Ok(())
    }

    /// madvise(2), `madvise_walk_vmas` of mm/madvise.c: from area to area, over holes,
    /// which are told at the end, up to the first that refuses.
    pub(super) fn advise(
        &mut self,
        device: &Device,
        range: &Range<u64>,
        advice: Advice,
    ) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            return self.populate(device, range, advice == Advice::PopulateWrite);
        }
        let mut result = Ok(());
        let mut next = range.start;
        let pieces: Vec<_> = self
            .in_range(range)
            .map(|(area, _)| area.start.max(range.start)..area.end.min(range.end))
            .collect();
        for piece in pieces {
            if piece.start > next {
                result = Err(libc::ENOMEM);
            }
            next = piece.end;
            self.advise_area(&piece, advice)?;
        }
        if next < range.end {
            result = Err(libc::ENOMEM);
        }
        result
    }

    /// `madvise_vma_behavior` and what it calls.
    fn advise_area(&mut self, piece: &Range<u64>, advice: Advice) -> Result<(), Errno> {
        let Some((_, area)) = self.area_at(Gva::new(piece.start)) else {
            return Ok(());
        };
        let is_special = matches!(area.shows, Shows::File(_));
        let inherited = match advice {
            // VM_SPECIAL may be kept from children for good only.
            Advice::DoFork if is_special => return Err(libc::EINVAL),
            Advice::DontNeed => return self.drop_entries(piece),
            Advice::DoFork => true,
            Advice::DontFork => false,
            Advice::PopulateRead | Advice::PopulateWrite => return Ok(()),
        };
        if area.inherited != inherited {
            self.change(piece, |area| area.inherited = inherited)?;
        }
        Ok(())
    }

    /// Entries of `VM_PFNMAP` areas are never dropped (`madvise_dontneed_free_valid_vma`);
    /// others are, within an area that stays as it is.
    fn drop_entries(&mut self, piece: &Range<u64>) -> Result<(), Errno> {
        for gva in piece.clone().step_by(PAGE_LEN) {
            let Some((area, page)) = self.page_mut(Gva::new(gva)) else {
                continue;
            };
            match &mut area.shows {
                Shows::Nothing => {}
                Shows::File(pages) if pages.is_pfn_map() => return Err(libc::EINVAL),
                Shows::File(pages) => pages.set(page, false),
            }
        }
        Ok(())
    }

    /// Whether there are addresses in `range` that were only taken, and may be used: memory
    /// comes there when it is touched.
    pub(super) fn has_memory_in(&self, range: &Range<u64>) -> bool {
        self.in_range(range).any(|(piece, _)| {
            let area = self.area_at(Gva::new(piece.start));
            area.is_some_and(|(_, area)| {
                matches!(area.shows, Shows::Nothing) && area.prot != Prot::NONE
            })
        })
    }

    /// Neither raw frames nor addresses without the right can be populated
    /// (`check_vma_flags` of mm/gup.c; `__get_user_pages` makes it EINVAL). Others come in
    /// by a fault for each page; one that is refused ends it (`madvise_populate`).
    fn populate(
        &mut self,
        device: &Device,
        range: &Range<u64>,
        is_store: bool,
    ) -> Result<(), Errno> {
        for gva in range.clone().step_by(PAGE_LEN).map(Gva::new) {
            let (_, area) = self.area_at(gva).ok_or(libc::ENOMEM)?;
            if !matches!(&area.shows, Shows::File(pages) if pages.comes_in_for_others()) {
                return Err(libc::EINVAL);
            }
            match self.touch(device, gva, is_store) {
                Touch::Page(_) => {}
                Touch::Denied => return Err(libc::EINVAL),
                Touch::NoPage => return Err(libc::EFAULT),
                // None of a file without entries of 2 MiB.
                Touch::Nothing | Touch::Unclear => return Err(libc::ENOMEM),
            }
        }
        Ok(())
    }

    /// Whether addresses that were only taken would become more.
    pub(super) fn grows_what_was_reserved(&self, call: &Remapping) -> bool {
        let area = self.area_at(Gva::new(call.old.start));
        let is_reserved = area.is_some_and(|(_, area)| matches!(area.shows, Shows::Nothing));
        is_reserved && call.new_len_bytes > call.old.end - call.old.start
    }

    /// mremap(2), `do_mremap` of mm/mremap.c. Gives the new address.
    pub(super) fn remap(&mut self, call: &Remapping) -> Result<Gva, Errno> {
        let Remapping {
            ref old,
            new_len_bytes,
            ..
        } = *call;
        let old_len_bytes = old.end - old.start;
        if new_len_bytes == 0 {
            return Err(libc::EINVAL);
        }
        if let Some(target) = call.fixed {
            let overlaps = old.end > target && target + new_len_bytes > old.start;
            if !call.may_move || overlaps {
                return Err(libc::EINVAL);
            }
            if old_len_bytes == new_len_bytes {
                return self.remap_move(old, target);
            }
        }
        self.may_be_remapped(old, new_len_bytes, call.fixed.is_some())?;
        // Only a shrinking one, or one that stays as it is, comes to here.
        let kept = old.start..old.start + new_len_bytes;
        let Some(target) = call.fixed else {
            self.unmap(&(kept.end..old.end.max(kept.end)))?;
            return Ok(Gva::new(old.start));
        };
        self.unmap(&(target..target + new_len_bytes))?;
        self.unmap(&(kept.end..old.end))?;
        self.shift(&kept, target)?;
        Ok(Gva::new(target))
    }

    /// `check_prep_vma` of mm/mremap.c.
    fn may_be_remapped(
        &self,
        old: &Range<u64>,
        new_len_bytes: u64,
        is_moved: bool,
    ) -> Result<(), Errno> {
        let (start, area) = self.area_at(Gva::new(old.start)).ok_or(libc::EFAULT)?;
        let old_len_bytes = old.end - old.start;
        let grows = new_len_bytes > old_len_bytes;
        if !is_moved && !grows {
            return Ok(());
        }
        let is_shared = match &area.shows {
            Shows::Nothing => false,
            Shows::File(pages) => pages.sharing == Sharing::Shared,
        };
        if old.is_empty() && !is_shared {
            return Err(libc::EINVAL);
        }
        let end = start.raw() + area.npages * PAGE_SIZE;
        if old_len_bytes.min(new_len_bytes) > end - old.start {
            return Err(libc::EFAULT);
        }
        match &area.shows {
            // VM_DONTEXPAND and VM_PFNMAP never grow. What shows nothing does, or does not
            // for want of space; see `grows_what_was_reserved`.
            Shows::File(pages) if grows => Err(pages.file.growth.raw()),
            Shows::File(_) | Shows::Nothing => Ok(()),
        }
    }

    /// `remap_move` of mm/mremap.c: every area of the range moves, and the holes
    /// between them stay as wide.
    fn remap_move(&mut self, old: &Range<u64>, target: u64) -> Result<Gva, Errno> {
        let pieces: Vec<_> = self
            .in_range(old)
            .map(|(area, _)| area.start.max(old.start)..area.end.min(old.end))
            .collect();
        if pieces.first().is_none_or(|first| first.start > old.start) {
            return Err(libc::EFAULT);
        }
        for piece in pieces {
            let to = target + (piece.start - old.start);
            self.unmap(&(to..to + (piece.end - piece.start)))?;
            self.shift(&piece, to)?;
        }
        Ok(Gva::new(target))
    }

    /// Moves what is in `from`, with its entries (`move_page_tables`), to where nothing
    /// is.
    fn shift(&mut self, from: &Range<u64>, to: u64) -> Result<(), Errno> {
        for (start, mut area) in self.take(from)? {
            if let Shows::File(pages) = &mut area.shows {
                pages.move_by(to.abs_diff(from.start));
            }
            self.insert(Gva::new(to + (start - from.start)), area);
        }
        Ok(())
    }

    fn change(&mut self, range: &Range<u64>, change: impl Fn(&mut Area)) -> Result<(), Errno> {
        for start in self.split(range)? {
            if let Some(area) = self.area_mut(start) {
                change(area);
            }
        }
        Ok(())
    }
}

/// Whether `prot` asks for no more than `may`.
pub(super) const fn allows(may: Prot, prot: Prot) -> bool {
    (may.read || !prot.read) && (may.write || !prot.write) && (may.exec || !prot.exec)
}
