//! Host memory in which guest pages live: memfds and views of them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::AtomicU64;

use addr::{Hva, PAGE_SHIFT, PAGE_SIZE};

/// Base page size in bytes, as a length of this process's memory.
const PAGE_LEN: usize = 1 << PAGE_SHIFT;

/// A new memfd of `len_bytes`, all zeroes.
pub(crate) fn memfd(name: &CStr, len_bytes: u64) -> io::Result<File> {
    // SAFETY: `name` is NUL-terminated for the time of the call, as its type says.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create just returned this descriptor and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len_bytes)?;
    Ok(file)
}

/// Address space of this process that views pages of memfds, locked in memory.
///
/// # Invariants
/// `base` is the start of a mapping of `npages` pages that this value alone made
/// and that lives as long as it. All of it is shared memory.
#[derive(Debug)]
pub(crate) struct View {
    base: *mut u8,
    npages: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access to
// it goes through volatile reads and writes of single bytes or words.
unsafe impl Send for View {}
// SAFETY: as for Send.
unsafe impl Sync for View {}

impl View {
    /// Maps the first `npages` pages of `file`. None of them is brought in: whoever touches
    /// a page that the file does not have gives it one.
    pub(crate) fn of(file: &File, npages: usize) -> io::Result<Self> {
        let len_bytes = npages
            .checked_mul(PAGE_LEN)
            .filter(|len| *len > 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory
        // that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let view = Self {
            base: base.cast(),
            npages,
        };
        no_huge_pages(view.base, len_bytes)?;
        Ok(view)
    }

    /// Brings page `page` in; `None` beyond the view.
    pub(crate) fn touch(&self, page: u64) -> Option<()> {
        self.read(page.checked_mul(PAGE_SIZE)?, 1).map(drop)
    }

    fn len_bytes(&self) -> usize {
        self.npages * PAGE_LEN
    }

    /// Brings all pages in and locks them, so that they stay in memory.
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is this view's own mapping; locking changes no contents.
        let locked = unsafe { libc::mlock(self.base.cast(), self.len_bytes()) };
        if locked != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Takes all access to the view away and gives it back. The kernel tells whoever
    /// follows this process's page tables, KVM among them, that their entries are
    /// void. The pages stay where they are. Nobody must use the view meanwhile.
    pub(crate) fn withdraw(&self) -> io::Result<()> {
        self.protect(libc::PROT_NONE)?;
        self.protect(libc::PROT_READ | libc::PROT_WRITE)
    }

    fn protect(&self, prot: i32) -> io::Result<()> {
        // SAFETY: the range is this view's own mapping, to which nobody holds a
        // reference, and whoever calls sees to it that nobody reads or writes it.
        let changed = unsafe { libc::mprotect(self.base.cast(), self.len_bytes(), prot) };
        if changed != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// First byte of the view.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    /// First byte of page `page`, or `None` beyond the view.
    pub(crate) fn page_hva(&self, page: u64) -> Option<Hva> {
        let page = usize::try_from(page)
            .ok()
            .filter(|page| *page < self.npages)?;
        Hva::new(self.base as u64).checked_add(page as u64 * PAGE_SIZE)
    }

    /// Checks a range and gives the pointer to it.
    fn at(&self, offset_bytes: u64, len_bytes: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset_bytes).ok()?;
        let end = offset.checked_add(len_bytes)?;
        (end <= self.len_bytes()).then(|| self.base.wrapping_add(offset))
    }

    /// The word at `offset_bytes`, as one that the guest may use at the same time;
    /// `None` when it is not aligned or not in the view.
    pub(crate) fn word(&self, offset_bytes: u64) -> Option<&AtomicU64> {
        let at = self.at(offset_bytes, 8)?.cast::<u64>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: `at` found all of the word within the mapping, which by the type's
        // invariant is alive as long as this borrow, and it is aligned. Nothing but
        // volatile accesses and such borrows ever reaches the mapping.
        Some(unsafe { AtomicU64::from_ptr(at) })
    }

    /// Copies `bytes` to `offset_bytes`; `None` when they do not fit.
    pub(crate) fn write(&self, offset_bytes: u64, bytes: &[u8]) -> Option<()> {
        let to = self.at(offset_bytes, bytes.len())?;
        // By words where it can be done: windows are filled for each VM.
        let (words, rest) = match to.cast::<u64>().is_aligned() {
            true => bytes.as_chunks::<8>(),
            false => (&[][..], bytes),
        };
        for (index, word) in words.iter().enumerate() {
            let to = to.wrapping_add(index * 8).cast::<u64>();
            // SAFETY: `at` found the whole range within the mapping, which by the
            // type's invariant is alive, readable and writable; the word is aligned.
            unsafe { to.write_volatile(u64::from_ne_bytes(*word)) };
        }
        for (index, byte) in rest.iter().enumerate() {
            let to = to.wrapping_add(words.len() * 8 + index);
            // SAFETY: as above; a byte is always aligned.
            unsafe { to.write_volatile(*byte) };
        }
        Some(())
    }

    /// Copies `len_bytes` from `offset_bytes`; `None` when they do not exist.
    pub(crate) fn read(&self, offset_bytes: u64, len_bytes: usize) -> Option<Vec<u8>> {
        let from = self.at(offset_bytes, len_bytes)?;
        let byte = |index| {
            // SAFETY: `at` found the whole range within the mapping, which by the
            // type's invariant is alive and readable.
            unsafe { from.wrapping_add(index).read_volatile() }
        };
        Some((0..len_bytes).map(byte).collect())
    }
}

/// Has pages of a mapping come one by one: those that belong together are looked at apart,
/// and one that is stored to must not bring its neighbours along.
pub(crate) fn no_huge_pages(base: *mut u8, len_bytes: usize) -> io::Result<()> {
    // SAFETY: the advice changes no contents, wherever it points.
    let advised = unsafe { libc::madvise(base.cast(), len_bytes, libc::MADV_NOHUGEPAGE) };
    let error = io::Error::last_os_error();
    // A kernel without huge pages does not know the advice.
    if advised == 0 || error.raw_os_error() == Some(libc::EINVAL) {
        return Ok(());
    }
    Err(error)
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: by the invariant this value alone owns the mapping, and it ends here.
        unsafe { libc::munmap(self.base.cast(), self.len_bytes()) };
    }
}

/// A file seen read-only, page by page. Reading it with read(2) takes several times as
/// long in an emulated processor, which copies byte by byte.
///
/// # Invariants
/// `base` is the start of a mapping of `len_bytes` bytes that this value alone made and
/// that lives as long as it.
pub(crate) struct FileView {
    base: *const u8,
    len_bytes: usize,
}

impl FileView {
    /// Maps `len_bytes` bytes of `file` from `offset_bytes` on; both are whole pages.
    pub(crate) fn of(file: &File, offset_bytes: u64, len_bytes: usize) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let offset = libc::off_t::try_from(offset_bytes).map_err(|_| invalid())?;
        if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE_LEN) {
            return Err(invalid());
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory
        // that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_bytes,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            len_bytes,
        })
    }

    /// Shows each page to `see`, in order.
    pub(crate) fn each_page(&self, mut see: impl FnMut(&[u8; PAGE_LEN])) {
        let mut page = [0; PAGE_LEN];
        for at in (0..self.len_bytes).step_by(PAGE_LEN) {
            for (index, bytes) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let from = self.base.wrapping_add(at + index * 8).cast::<u64>();
                // SAFETY: by the invariant the mapping is alive and readable, and `at`
                // and `index` stay within it: its length is one of whole pages. It
                // begins at a page, so that the word is aligned.
                let word = unsafe { from.read_volatile() };
                *bytes = word.to_ne_bytes();
            }
            see(&page);
        }
    }
}

impl Drop for FileView {
    fn drop(&mut self) {
        // SAFETY: by the invariant this value alone owns the mapping, and it ends here.
        unsafe { libc::munmap(self.base.cast_mut().cast(), self.len_bytes) };
    }
}

/// Lays pages of a file over `at`, copy-on-write.
///
/// # Safety
/// `at` is the first of `len_bytes` bytes of a mapping that the caller owns and whose
/// contents nobody needs or holds a reference to.
pub(crate) unsafe fn lay_over(
    at: *mut u8,
    len_bytes: usize,
    file: &File,
    offset_bytes: u64,
) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset_bytes).map_err(io::Error::other)?;
    // SAFETY: the caller vouches that this replaces pages of its own alone.
    let mapped = unsafe {
        libc::mmap(
            at.cast(),
            len_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_views_of_one_file_see_the_same_pages() {
        let file = memfd(c"test", 4 * PAGE_SIZE).expect("a memfd");
        let ledger = View::of(&file, 4).expect("mapped");
        let other = View::of(&file, 3).expect("mapped");
        other.write(PAGE_SIZE + 8, b"here").expect("inside");
        assert_eq!(ledger.read(PAGE_SIZE + 8, 4).expect("inside"), b"here");
    }

    #[test]
    fn words_and_bytes_arrive_in_order() {
        let file = memfd(c"test", PAGE_SIZE).expect("a memfd");
        let view = View::of(&file, 1).expect("mapped");
        let bytes: Vec<u8> = (1..=41).collect();
        for at in [0, 3, 8, 100, PAGE_SIZE - 41] {
            view.write(0, &[0; PAGE_LEN]).expect("inside");
            view.write(at, &bytes).expect("inside");
            assert_eq!(view.read(at, bytes.len()).expect("inside"), bytes, "{at}");
            let all = view.read(0, PAGE_LEN).expect("inside");
            let sum: u32 = all.into_iter().map(u32::from).sum();
            assert_eq!(sum, 41 * 42 / 2, "{at}");
        }
    }

    #[test]
    fn pages_come_in_when_they_are_touched() {
        let file = memfd(c"test", 8 * PAGE_SIZE).expect("a memfd");
        let blocks = || {
            let found = std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("there"));
            found * 512 / PAGE_SIZE
        };
        let view = View::of(&file, 8).expect("mapped");
        assert_eq!(blocks(), 0);
        view.touch(5).expect("inside");
        assert_eq!(blocks(), 1);
        view.lock().expect("locked");
        assert_eq!(blocks(), 8);
        assert!(view.touch(8).is_none());
        assert!(View::of(&file, 0).is_err());
    }

    #[test]
    fn ranges_beyond_a_view_are_refused() {
        let file = memfd(c"test", PAGE_SIZE).expect("a memfd");
        let view = View::of(&file, 1).expect("mapped");
        assert!(view.read(PAGE_SIZE - 1, 1).is_some());
        assert!(view.read(PAGE_SIZE - 1, 2).is_none());
        assert!(view.write(u64::MAX, b"x").is_none());
        assert!(view.page_hva(1).is_none());
    }

    #[test]
    fn a_file_is_shown_page_by_page() {
        let file = memfd(c"test", 3 * PAGE_SIZE).expect("a memfd");
        let view = View::of(&file, 3).expect("mapped");
        view.write(PAGE_SIZE, b"second").expect("inside");
        view.write(3 * PAGE_SIZE - 1, b"!").expect("inside");
        let (mut firsts, mut last) = (Vec::new(), 0);
        let shown = FileView::of(&file, PAGE_SIZE, 2 * PAGE_LEN).expect("mapped");
        shown.each_page(|page| {
            firsts.push(page[..6].to_vec());
            last = page[PAGE_LEN - 1];
        });
        assert_eq!(firsts, [b"second".to_vec(), vec![0; 6]]);
        assert_eq!(last, b'!');
        assert!(FileView::of(&file, 0, 0).is_err());
        assert!(FileView::of(&file, 0, PAGE_LEN - 1).is_err());
    }
}
