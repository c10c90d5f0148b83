//! The executable model: what a request must come to, by the kernel's own rules and
//! then by the file's.

use addr::PAGE_SIZE;
use wire::{OpenMode, Prot, Sharing};

use crate::access::Access;
use crate::errno::Errno;
use crate::file::{FileContract, Offset, RangeContract};
use crate::request::{Answer, Request};
use crate::rules::Condition;

/// End of a process's addresses with 4-level tables (`TASK_SIZE` of x86).
const TASK_SIZE_BYTES: u64 = (1 << 47) - PAGE_SIZE;
/// The longest mapping for which a process that has mapped little surely has room.
const ROOM_BYTES: u64 = 1 << 45;
/// The longest private writable mapping for which any guest surely has memory.
const MEMORY_BYTES: u64 = 16 << 20;

impl FileContract {
    /// What `request` must come to in a process with ordinary addresses, few
    /// mappings and no limits of its own.
    pub fn predict(&self, request: &Request) -> Answer {
        if let Some(answer) = request.answer_of_kernel() {
            return answer;
        }
        let holds = |condition| self.holds(condition, request);
        if let Some(refusal) = self.refusals.iter().find(|refusal| holds(refusal.when)) {
            return Answer::Refused(refusal.errno);
        }
        if request.sharing == Sharing::Private && !self.copy_on_write {
            return Answer::Undetermined("the contract does not speak of MAP_PRIVATE");
        }
        if holds(Condition::Outside) {
            return Answer::Undetermined("the contract does not speak of pages the file has not");
        }
        if holds(Condition::BeyondAccess) {
            return Answer::Undetermined("the contract does not speak of rights the file has not");
        }
        Answer::Maps
    }

    fn holds(&self, condition: Condition, request: &Request) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Private => request.sharing == Sharing::Private,
            Condition::Exec => request.prot.exec,
            Condition::Write => request.prot.write,
            Condition::NoWrite => !request.prot.write,
            Condition::BeyondAccess => self.is_beyond_access(request),
            Condition::Outside => self.has_less_than(request),
            Condition::SeveralRanges => self.touched(request).count() > 1,
            Condition::OffsetIsNot(pages) => request.first_page() != pages,
            Condition::LengthIsNot(pages) => request.npages() != pages,
            Condition::LongerThan(pages) => request.npages() > pages,
        }
    }

    /// The ranges that `request` has pages in common with.
    fn touched(&self, request: &Request) -> impl Iterator<Item = &RangeContract> {
        let ranges = self.ranges.iter();
        ranges.filter(|range| range.overlap(request) > 0)
    }

    /// Whether `request` asks for pages that the file does not have.
    fn has_less_than(&self, request: &Request) -> bool {
        let had: u128 = self.ranges.iter().map(|range| range.overlap(request)).sum();
        had < u128::from(request.npages())
    }

    fn is_beyond_access(&self, request: &Request) -> bool {
        let refuses = |range: &RangeContract| !range.access.allows(request.prot);
        let outside = || {
            let all = self.ranges.iter().map(|range| range.access);
            let most = all.reduce(Access::or);
            !most.is_some_and(|most| most.allows(request.prot))
        };
        self.touched(request).any(refuses) || (self.has_less_than(request) && outside())
    }
}

impl RangeContract {
    /// Number of pages that `request` has in common with this range.
    fn overlap(&self, request: &Request) -> u128 {
        let wanted = u128::from(request.npages());
        let npages = u128::from(self.npages);
        match self.offset {
            Offset::Any => wanted.min(npages),
            Offset::Page(start) => {
                let (start, first) = (u128::from(start), u128::from(request.first_page()));
                let end = (start + npages).min(first + wanted);
                end.saturating_sub(start.max(first))
            }
        }
    }
}

impl Access {
    /// Whether a mapping may have these rights.
    pub const fn allows(self, prot: Prot) -> bool {
        (self.write || !prot.write) && (self.exec || !prot.exec)
    }

    /// What either of the two allows.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            read: self.read || other.read,
            write: self.write || other.write,
            exec: self.exec || other.exec,
        }
    }
}

impl Request {
    /// What the kernel answers before the driver is asked, and before it changes
    /// anything: `do_mmap` of mm/mmap.c and what leads there, in their order.
    pub fn answer_of_kernel(&self) -> Option<Answer> {
        let refused = |errno| Some(Answer::Refused(errno));
        let Request {
            open,
            offset_bytes,
            len_bytes,
            prot,
            sharing,
        } = *self;
        if !offset_bytes.is_multiple_of(PAGE_SIZE) || len_bytes == 0 {
            return refused(Errno::EINVAL);
        }
        let Some(len_bytes) = len_bytes.checked_next_multiple_of(PAGE_SIZE) else {
            return refused(Errno::ENOMEM);
        };
        if len_bytes > TASK_SIZE_BYTES {
            return refused(Errno::ENOMEM);
        }
        if len_bytes > ROOM_BYTES {
            return Some(Answer::Undetermined("there may be no room for so much"));
        }
        // `file_mmap_ok`: the last byte's offset must have 64 bits.
        if self.first_page() > (u64::MAX - len_bytes) / PAGE_SIZE {
            return refused(Errno::EOVERFLOW);
        }
        let stores_to_file = sharing == Sharing::Shared && prot.write;
        if (stores_to_file && open == OpenMode::ReadOnly) || open == OpenMode::WriteOnly {
            return refused(Errno::EACCES);
        }
        let accounted = sharing == Sharing::Private && prot.write;
        if accounted && len_bytes > MEMORY_BYTES {
            return Some(Answer::Undetermined("there may be no memory for so much"));
        }
        None
    }
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
