//! The requests that a file's contract suggests: around each of its edges, beyond
//! them, and with every right and offset that it must answer for.

use addr::PAGE_SIZE;
use wire::{OpenMode, Prot, Sharing};

use crate::file::{FileContract, Offset, RangeContract};
use crate::request::Request;
use crate::rules::Condition;

/// A request with what is special about it, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What is special about it.
    pub name: String,
    /// The request.
    pub request: Request,
}

const EXEC: Prot = Prot {
    exec: true,
    ..Prot::READ
};
const READ_WRITE_EXEC: Prot = Prot {
    exec: true,
    ..Prot::READ_WRITE
};

/// Bits at which careless drivers cut an offset or a length off: 32-bit bytes,
/// 32-bit pages, and the signs of either.
const CUT_BITS: [u32; 4] = [31, 32, 43, 44];

impl FileContract {
    /// Requests that tell whether the file's answers are as they must be, no two of
    /// them alike. [`FileContract::predict`] says what each must come to.
    pub fn requests(&self) -> Vec<Named> {
        let mut list = List::default();
        for range in &self.ranges {
            let edges = Edges::of(range);
            edges.bounds(&mut list);
            edges.cut_off(&mut list);
            edges.rights(&mut list);
        }
        self.between_ranges(&mut list);
        self.of_conditions(&mut list);
        of_kernel(&mut list);
        self.openable(list)
    }

    /// The requests, by files that are open as far as that can be had.
    fn openable(&self, list: List) -> Vec<Named> {
        if self.refuses_writers.is_none() {
            return list.0;
        }
        let mut openable = List::default();
        for Named { name, mut request } in list.0 {
            match request.open {
                OpenMode::WriteOnly => continue,
                OpenMode::ReadWrite | OpenMode::ReadOnly => request.open = OpenMode::ReadOnly,
            }
            openable.push(name, request);
        }
        openable.0
    }

    /// Where a range ends, the next one may begin, or nothing.
    fn between_ranges(&self, list: &mut List) {
        for range in &self.ranges {
            if let Offset::Page(first) = range.offset
                && let Some(end) = first.checked_add(range.npages)
                && self
                    .ranges
                    .iter()
                    .any(|next| next.offset == Offset::Page(end))
            {
                list.pages(
                    format!("2 pages across page {end}"),
                    end.saturating_sub(1),
                    2,
                );
            }
        }
    }

    /// Around each number that a refusal names.
    fn of_conditions(&self, list: &mut List) {
        let first = self.ranges.first().map_or(0, RangeContract::first_page);
        for refusal in &self.refusals {
            match refusal.when {
                Condition::OffsetIsNot(pages) => {
                    for page in around(pages) {
                        list.pages(format!("1 page at page {page}"), page, 1);
                    }
                }
                Condition::LengthIsNot(pages) | Condition::LongerThan(pages) => {
                    for npages in around(pages) {
                        list.pages(format!("{npages} pages at page {first}"), first, npages);
                    }
                }
                Condition::Always
                | Condition::Private
                | Condition::Exec
                | Condition::Write
                | Condition::NoWrite
                | Condition::BeyondAccess
                | Condition::Outside
                | Condition::SeveralRanges => {}
            }
        }
    }
}

fn around(number: u64) -> impl Iterator<Item = u64> {
    let all = [number.checked_sub(1), Some(number), number.checked_add(1)];
    all.into_iter().flatten()
}

/// The requests so far.
#[derive(Default)]
struct List(Vec<Named>);

impl List {
    fn push(&mut self, name: impl Into<String>, request: Request) {
        if !self.0.iter().any(|known| known.request == request) {
            self.0.push(Named {
                name: name.into(),
                request,
            });
        }
    }

    /// Pages to be read, shared.
    fn pages(&mut self, name: impl Into<String>, first: u64, npages: u64) {
        let in_bytes = (first.checked_mul(PAGE_SIZE), npages.checked_mul(PAGE_SIZE));
        if let (Some(offset_bytes), Some(len_bytes)) = in_bytes {
            self.push(name, read(offset_bytes, len_bytes));
        }
    }
}

const fn read(offset_bytes: u64, len_bytes: u64) -> Request {
    Request {
        open: OpenMode::ReadWrite,
        offset_bytes,
        len_bytes,
        prot: Prot::READ,
        sharing: Sharing::Shared,
    }
}

/// One range, in pages of the file.
struct Edges<'a> {
    range: &'a RangeContract,
    first: u64,
    npages: u64,
}

impl<'a> Edges<'a> {
    fn of(range: &'a RangeContract) -> Self {
        Self {
            range,
            first: range.first_page(),
            npages: range.npages,
        }
    }

    /// From one page before the range to one after it.
    fn bounds(&self, list: &mut List) {
        let Self { first, npages, .. } = *self;
        let Some(end) = first.checked_add(npages) else {
            return;
        };
        list.pages("the first page", first, 1);
        list.pages("the last page", end.saturating_sub(1), 1);
        let second = first.saturating_add(1);
        let shorter = npages.saturating_sub(1);
        let longer = npages.saturating_add(1);
        list.pages("all but the last page", first, shorter);
        list.pages("all but the first page", second, shorter);
        list.pages("one page too long", first, longer);
        list.pages("twice too long", first, npages.saturating_mul(2));
        list.pages("whole length from the second page", second, npages);
        list.pages("the last page and one more", end.saturating_sub(1), 2);
        list.pages("the page past the end", end, 1);
        list.pages("whole length past the end", end, npages);
        if let Some(before) = first.checked_sub(1) {
            list.pages("the page before the start", before, 1);
            list.pages("from the page before the start", before, longer);
        }
        if let (Some(offset_bytes), Some(len_bytes)) =
            (first.checked_mul(PAGE_SIZE), npages.checked_mul(PAGE_SIZE))
        {
            list.push(
                "a byte too long",
                read(offset_bytes, len_bytes.saturating_add(1)),
            );
            list.push(
                "a byte short",
                read(offset_bytes, len_bytes.saturating_sub(1)),
            );
        }
    }

    /// Offsets and lengths that look right to a driver that cuts them off, or whose
    /// sum wraps.
    fn cut_off(&self, list: &mut List) {
        let Some(first) = self.first.checked_mul(PAGE_SIZE) else {
            return;
        };
        for bit in CUT_BITS {
            let cut = 1_u64 << bit;
            if let Some(offset) = first.checked_add(cut) {
                list.push(format!("offset 2^{bit} too large"), read(offset, PAGE_SIZE));
            }
            list.push(
                format!("length 2^{bit} too large"),
                read(first, PAGE_SIZE + cut),
            );
        }
        let whole = self.npages.saturating_mul(PAGE_SIZE);
        let below_2_64 = |bytes: u64| 0_u64.wrapping_sub(bytes);
        list.push("offset 2^63", read(1 << 63, PAGE_SIZE));
        list.push(
            "a page at the last offset",
            read(below_2_64(PAGE_SIZE), PAGE_SIZE),
        );
        list.push(
            "a page at the last offset but one",
            read(below_2_64(2 * PAGE_SIZE), PAGE_SIZE),
        );
        list.push(
            "offset and length wrap to the start",
            read(below_2_64(whole), whole),
        );
        list.push(
            "offset and length wrap to the end",
            read(below_2_64(PAGE_SIZE), whole.saturating_add(PAGE_SIZE)),
        );
    }

    /// Every right, alone and together with a page too many, so that the order of
    /// the driver's checks shows.
    fn rights(&self, list: &mut List) {
        use Sharing::{Private, Shared};
        let cases = [
            ("PROT_WRITE", Prot::READ_WRITE, Shared),
            ("PROT_EXEC", EXEC, Shared),
            ("PROT_WRITE and PROT_EXEC", READ_WRITE_EXEC, Shared),
            ("PROT_NONE", Prot::NONE, Shared),
            ("MAP_PRIVATE", Prot::READ, Private),
            ("MAP_PRIVATE with PROT_WRITE", Prot::READ_WRITE, Private),
            ("MAP_PRIVATE with PROT_EXEC", EXEC, Private),
        ];
        let Some(offset_bytes) = self.first.checked_mul(PAGE_SIZE) else {
            return;
        };
        for (extra, words) in [(0, ""), (1, ", one page too long")] {
            let npages = self.npages.saturating_add(extra);
            for (name, prot, sharing) in cases {
                let request = Request {
                    prot,
                    sharing,
                    ..read(offset_bytes, npages.saturating_mul(PAGE_SIZE))
                };
                list.push(format!("{name}{words}"), request);
            }
        }
        self.open_modes(offset_bytes, list);
    }

    /// The rights that the open file has.
    fn open_modes(&self, offset_bytes: u64, list: &mut List) {
        let page = |open, prot, sharing| Request {
            open,
            prot,
            sharing,
            ..read(offset_bytes, self.range.npages.saturating_mul(PAGE_SIZE))
        };
        let rw = Prot::READ_WRITE;
        list.push(
            "by a file open for reading",
            page(OpenMode::ReadOnly, Prot::READ, Sharing::Shared),
        );
        list.push(
            "PROT_WRITE by a file open for reading",
            page(OpenMode::ReadOnly, rw, Sharing::Shared),
        );
        list.push(
            "by a file open for writing alone",
            page(OpenMode::WriteOnly, rw, Sharing::Shared),
        );
    }
}

/// What the kernel answers by itself, whatever the file.
fn of_kernel(list: &mut List) {
    list.push("no length", read(0, 0));
    list.push("an offset amid a page", read(8, PAGE_SIZE));
    list.push("length 2^63", read(0, 1 << 63));
    list.push("the longest length", read(0, u64::MAX));
}
