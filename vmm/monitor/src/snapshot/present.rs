//! Which pages of private memory hold anything: looking at one that does not would give
//! it a place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use addr::PAGE_SIZE;
use vm_memory::GuestMemoryRegion;

use crate::saved::Run;
use crate::slots::Region;

/// Bytes of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst).
const ENTRY_LEN: usize = size_of::<u64>();
/// Entries that are read at once.
const BATCH: usize = 4096;

/// Pages of `region` that a file holds or that somebody has touched, in order. All others
/// are zeroes.
pub(super) fn pages(region: &Region, from_file: &[Run]) -> io::Result<Vec<usize>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let first = region.get_mmap().as_ptr() as u64 / PAGE_SIZE;
    let npages = usize::try_from(region.len() / PAGE_SIZE).map_err(io::Error::other)?;
    let mut holds = vec![false; npages];
    for (batch, start) in holds.chunks_mut(BATCH).zip((0..).step_by(BATCH)) {
        let mut bytes = vec![0; batch.len() * ENTRY_LEN];
        pagemap.read_exact_at(&mut bytes, (first + start) * ENTRY_LEN as u64)?;
        for (held, entry) in batch.iter_mut().zip(bytes.as_chunks::<ENTRY_LEN>().0) {
            // Without its frame, which may be hidden: only whether it is somewhere.
            *held = u64::from_ne_bytes(*entry) >> 62 != 0;
        }
    }
    for run in from_file {
        let pages = (run.first as usize..).take(run.npages as usize);
        for page in pages {
            if let Some(held) = holds.get_mut(page) {
                *held = true;
            }
        }
    }
    let numbered = holds.into_iter().enumerate();
    Ok(numbered
        .filter_map(|(page, held)| held.then_some(page))
        .collect())
}
