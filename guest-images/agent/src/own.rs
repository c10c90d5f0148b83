//! The agent's own memory, which no request may take away.
//!
//! Hostile arguments go to the kernel as they are. The one exception are those that
//! the kernel would carry out on the agent itself: its text, heap, stack and the
//! message area.

use std::fs;
use std::io;
use std::ops::Range;

use crate::sys::{self, Errno};

const PAGE_LEN_BYTES: u64 = 4096;
/// The heap may grow this far; glibc would fall back to mappings that are not known
/// here if a request's mapping stood in its way.
const HEAP_RESERVE_BYTES: u64 = 64 << 20;
/// The stack may grow this far (`_STK_LIM` of include/uapi/linux/resource.h), and
/// the kernel keeps a gap of 256 pages below it.
const STACK_RESERVE_BYTES: u64 = (8 << 20) + 256 * PAGE_LEN_BYTES;
/// End of user space with 4-level and with 5-level paging, but for the last page.
const USER_ENDS: [u64; 2] = [1 << 47, 1 << 56];

/// Ranges of virtual addresses that the agent lives in.
#[derive(Debug)]
pub struct Own {
    ranges: Vec<Range<u64>>,
    user_end: u64,
}

impl Own {
    /// What this process has mapped now, with room for its heap and stack to grow.
    ///
    /// Makes malloc(3) use the heap alone, so that the agent maps nothing later.
    ///
    /// # Errors
    /// When /proc/self/maps cannot be read or understood.
    pub fn of_this_process() -> io::Result<Self> {
        // SAFETY: mallopt(3) only sets a policy; the process has one thread.
        unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mut ranges = maps
            .lines()
            .map(|line| reserve(line).ok_or_else(|| garbled(line)))
            .collect::<io::Result<Vec<_>>>()?;
        // SAFETY: sbrk(0) only asks.
        let heap_end = unsafe { libc::sbrk(0) } as u64;
        ranges.push(heap_end..heap_end.saturating_add(HEAP_RESERVE_BYTES));
        Ok(Self {
            ranges,
            user_end: user_end(),
        })
    }

    /// Guards nothing: for tests in processes whose mappings come and go.
    #[cfg(test)]
    pub fn nothing() -> Self {
        Self {
            ranges: Vec::new(),
            user_end: USER_ENDS[0],
        }
    }

    /// Guards another range, too.
    pub fn add(&mut self, range: Range<u64>) {
        self.ranges.push(range);
    }

    /// Whether a system call that changes the pages of this range would reach the
    /// agent. Ranges that every such call refuses as a whole (unaligned, empty,
    /// wrapping) are left to the kernel.
    pub fn is_hit_by(&self, address: u64, len_bytes: u64) -> bool {
        let range = page_range(address, len_bytes);
        range.is_some_and(|range| self.overlaps(&range))
    }

    /// As [`Own::is_hit_by`], for mmap(2) and munmap(2): these refuse a range that
    /// ends beyond user space, where mprotect(2) and madvise(2) work their way up to
    /// the first hole.
    pub fn is_hit_by_whole(&self, address: u64, len_bytes: u64) -> bool {
        let range = page_range(address, len_bytes);
        range.is_some_and(|range| range.end <= self.user_end && self.overlaps(&range))
    }

    /// Whether the word at `address` lies, even in part, in the agent's memory.
    pub fn holds_word(&self, address: u64) -> bool {
        self.overlaps(&(address..address.saturating_add(8)))
    }

    fn overlaps(&self, other: &Range<u64>) -> bool {
        self.ranges
            .iter()
            .any(|own| own.start < other.end && other.start < own.end)
    }
}

/// The pages of a range, unless the kernel takes it for none.
fn page_range(address: u64, len_bytes: u64) -> Option<Range<u64>> {
    let len_bytes = len_bytes.checked_next_multiple_of(PAGE_LEN_BYTES)?;
    let end = address.checked_add(len_bytes)?;
    (address.is_multiple_of(PAGE_LEN_BYTES) && len_bytes > 0).then_some(address..end)
}

/// The range of a line of /proc/self/maps, with room below the stack.
fn reserve(line: &str) -> Option<Range<u64>> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    if line.ends_with("[stack]") {
        return Some(end.saturating_sub(STACK_RESERVE_BYTES).min(start)..end);
    }
    Some(start..end)
}

fn garbled(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no range of addresses in this line of /proc/self/maps: {line}"),
    )
}

/// Where this process's addresses end. There munmap(2) of nothing is refused beyond
/// the end and succeeds before it; x86 tells it in no other way than the mode of the
/// whole machine.
fn user_end() -> u64 {
    let [four_level, five_level] = USER_ENDS;
    let arguments = [four_level, PAGE_LEN_BYTES, 0, 0, 0, 0];
    // SAFETY: the kernel places nothing above 2^47 unless asked to, and nobody asked.
    let result = unsafe { sys::call(libc::SYS_munmap, arguments) };
    match result {
        Err(Errno(libc::EINVAL)) => four_level,
        _ => five_level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::alone;

    fn own() -> Own {
        Own {
            ranges: vec![0x40_0000..0x50_0000, 0x7fff_0000_0000..0x7fff_0010_0000],
            user_end: USER_ENDS[0],
        }
    }

    #[test]
    fn neighbours_are_free_and_overlaps_are_not() {
        let own = own();
        assert!(!own.is_hit_by(0x3f_f000, 0x1000));
        assert!(own.is_hit_by(0x3f_f000, 0x1001));
        assert!(own.is_hit_by(0x4f_f000, 1));
        assert!(!own.is_hit_by(0x50_0000, 0x1000));
        assert!(own.is_hit_by(0, 0x7fff_ffff_f000));
        assert!(own.holds_word(0x3f_fff9));
        assert!(!own.holds_word(0x3f_fff8));
        assert!(!own.holds_word(u64::MAX));
    }

    #[test]
    fn what_the_kernel_refuses_is_left_to_the_kernel() {
        let own = own();
        for (address, len_bytes) in [
            (0x40_0001, 0x1000),
            (0x40_0000, 0),
            (0x40_0000, u64::MAX),
            (0x40_0000, u64::MAX - 0x40_0000),
        ] {
            assert!(
                !own.is_hit_by(address, len_bytes),
                "{address:#x}+{len_bytes:#x}"
            );
        }
    }

    /// mprotect(2) changes what it finds before it refuses the rest.
    #[test]
    fn beyond_user_space_is_refused_as_a_whole_by_some_calls_only() {
        let own = own();
        let len_bytes = 1 << 47 | 1;
        assert!(!own.is_hit_by_whole(0, len_bytes));
        assert!(own.is_hit_by(0, len_bytes));
        assert!(own.is_hit_by_whole(0, 1 << 47));
    }

    #[test]
    fn this_process_is_its_own() {
        alone(find_this_process_among_its_own);
    }

    fn find_this_process_among_its_own() {
        let own = Own::of_this_process().expect("readable");
        let on_stack = 0_u64;
        let on_heap = Box::new(0_u64);
        let text = find_this_process_among_its_own as *const () as u64;
        for address in [&raw const on_stack as u64, &raw const *on_heap as u64, text] {
            assert!(own.holds_word(address), "{address:#x} is not in {own:x?}");
        }
    }

    #[test]
    fn the_stack_has_room_to_grow() {
        let line = "7ffc1000000-7ffc1021000 rw-p 00000000 00:00 0      [stack]";
        let range = reserve(line).expect("understood");
        assert_eq!(range, 0x7ff_c082_1000 - 0x10_0000..0x7ff_c102_1000);
        assert_eq!(reserve("no range"), None);
    }
}
