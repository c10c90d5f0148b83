//! Contents of guest memory, and which of its pages may have changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use addr::PAGE_SIZE;
use kvm_ioctls::VmFd;
use rustix::fs::{SeekFrom, seek};
use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

use super::present;
use crate::error::VmError;
use crate::saved::Run;
use crate::slots::{Region, Slots};
use crate::window::Window;

const PAGE_LEN: usize = 4096;
const _: () = assert!(PAGE_LEN as u64 == PAGE_SIZE);
const ZEROES: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// The memory behind one memslot. Pages that hold nothing but zeroes because nobody
/// ever touched them take no room.
pub(crate) struct SavedRegion {
    /// For each page where it is in `pages`; `None` for a page of zeroes.
    index: Vec<Option<u32>>,
    pages: Vec<[u8; PAGE_LEN]>,
}

impl SavedRegion {
    /// `from_file` are pages of the region that a file holds.
    pub(crate) fn of(region: &Region, from_file: &[Run]) -> Result<Self, VmError> {
        let npages = usize::try_from(region.len() / PAGE_SIZE)
            .map_err(|_| VmError::Config("a memslot larger than the address space".into()))?;
        let mut saved = Self {
            index: vec![None; npages],
            pages: Vec::new(),
        };
        match region.file_offset() {
            // Looking at a page that a file does not have would give it one.
            Some(backing) => saved.take_file(backing.file()).map_err(reading)?,
            None if region.get_mmap().flags() & libc::MAP_PRIVATE != 0 => {
                for page in present::pages(region, from_file).map_err(reading)? {
                    let bytes = read_page(region, page)?;
                    // Pages that hold nothing take no room.
                    if bytes != ZEROES {
                        saved.take(page, bytes);
                    }
                }
            }
            None => {
                for page in 0..npages {
                    let bytes = read_page(region, page)?;
                    saved.take(page, bytes);
                }
            }
        }
        Ok(saved)
    }

    fn take(&mut self, page: usize, bytes: [u8; PAGE_LEN]) {
        if let (Some(index), Ok(place)) =
            (self.index.get_mut(page), u32::try_from(self.pages.len()))
        {
            *index = Some(place);
            self.pages.push(bytes);
        }
    }

    /// Takes the pages that a memfd holds (lseek(2), SEEK_DATA).
    fn take_file(&mut self, file: &File) -> io::Result<()> {
        let end = self.index.len() as u64 * PAGE_SIZE;
        let mut at = 0;
        while at < end {
            let start = match seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let hole = seek(file, SeekFrom::Hole(start))?;
            for page in start / PAGE_SIZE..hole.div_ceil(PAGE_SIZE) {
                let mut bytes = ZEROES;
                file.read_exact_at(&mut bytes, page * PAGE_SIZE)?;
                let page = usize::try_from(page).map_err(io::Error::other)?;
                self.take(page, bytes);
            }
            at = hole.max(at + PAGE_SIZE);
        }
        Ok(())
    }

    /// Pages that hold something else than zeroes, in order.
    pub(crate) fn filled(&self) -> impl Iterator<Item = u32> {
        let numbers = (0..).zip(&self.index);
        let kept = numbers.filter_map(|(page, place)| place.map(|place| (page, place)));
        kept.filter(|(_, place)| {
            let page = self.pages.get(*place as usize);
            page.is_some_and(|bytes| *bytes != ZEROES)
        })
        .map(|(page, _)| page)
    }

    /// What page `page` of the region holds.
    pub(crate) fn page(&self, page: usize) -> &[u8; PAGE_LEN] {
        let place = self.index.get(page).copied().flatten();
        place
            .and_then(|place| self.pages.get(place as usize))
            .unwrap_or(&ZEROES)
    }

    /// Gives page `page` of the region its contents back.
    pub(super) fn restore(&self, region: &Region, page: usize) -> Result<(), VmError> {
        region
            .write_slice(self.page(page), at(page))
            .map_err(|_| outside(region, page))
    }

    /// Pages of the region that hold something else.
    pub(super) fn differing_pages(&self, region: &Region) -> Result<Vec<usize>, VmError> {
        let mut differing = Vec::new();
        for page in 0..self.index.len() {
            if read_page(region, page)? != *self.page(page) {
                differing.push(page);
            }
        }
        Ok(differing)
    }

    /// Bytes that are kept.
    pub(super) fn len_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }
}

/// Has KVM note from now on which pages the guest, or KVM for it, stores to; forgets
/// what was noted of the host's own stores.
pub(super) fn start_tracking(
    slots: &mut Slots,
    windows: &[Window],
    vm: &VmFd,
) -> Result<(), VmError> {
    slots.log_dirty_pages(vm)?;
    for slot in 0..slots.table().len() {
        changed_pages(slots, windows, vm, slot)?;
    }
    Ok(())
}

/// Pages of a memslot that may have changed since the last call, in order.
pub(super) fn changed_pages(
    slots: &mut Slots,
    windows: &[Window],
    vm: &VmFd,
    slot: usize,
) -> Result<Vec<usize>, VmError> {
    let mut words = slots.take_dirty(vm, slot)?;
    if let Some(ledger) = slots.window_of(slot).and_then(|index| windows.get(index)) {
        merge(&mut words, &ledger.take_written());
    }
    Ok(set_bits(&words))
}

/// Adds the bits of `more`.
pub(crate) fn merge(words: &mut Vec<u64>, more: &[u64]) {
    words.resize(words.len().max(more.len()), 0);
    for (word, more) in words.iter_mut().zip(more) {
        *word |= more;
    }
}

fn set_bits(words: &[u64]) -> Vec<usize> {
    let mut bits = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            bits.push(index * 64 + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
    bits
}

const fn at(page: usize) -> MemoryRegionAddress {
    MemoryRegionAddress(page as u64 * PAGE_SIZE)
}

fn read_page(region: &Region, page: usize) -> Result<[u8; PAGE_LEN], VmError> {
    let mut bytes = ZEROES;
    region
        .read_slice(&mut bytes, at(page))
        .map_err(|_| outside(region, page))?;
    Ok(bytes)
}

fn outside(region: &Region, page: usize) -> VmError {
    VmError::Config(format!(
        "page {page} of a memslot of {} bytes",
        region.len()
    ))
}

fn reading(source: io::Error) -> VmError {
    VmError::Host {
        what: "read guest memory out of its file",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_bits_are_page_numbers() {
        assert_eq!(set_bits(&[0b101, 0, 1 << 63]), [0, 2, 191]);
        assert!(set_bits(&[]).is_empty());
    }

    #[test]
    fn what_either_side_noted_counts() {
        let mut words = vec![1];
        merge(&mut words, &[2, 4]);
        assert_eq!(words, [3, 4]);
    }
}
