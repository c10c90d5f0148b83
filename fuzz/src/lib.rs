//! What the targets share: page tables made of any bytes, and what must hold of every
//! walk through them.

use std::fmt::Debug;
use std::marker::PhantomData;

use walk::{AddressSpace, Run, TableRead, Translation, WalkError};

/// Most runs that are looked at: hostile tables have as many as there are pages.
pub const MOST_RUNS: usize = 2048;
/// From here on nothing can be read.
const END: u64 = 1 << 51;

/// Bytes that repeat through memory, so that every entry leads to a table.
pub struct Tables<'b, A> {
    bytes: &'b [u8],
    space: PhantomData<A>,
}

impl<'b, A> Tables<'b, A> {
    /// Tables that hold `bytes` over and over.
    pub fn of(bytes: &'b [u8]) -> Self {
        Self {
            bytes,
            space: PhantomData,
        }
    }
}

/// There is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond;

impl<A: AddressSpace> TableRead for Tables<'_, A> {
    type Addr = A;
    type Error = Beyond;

    fn read_entry(&self, at: A) -> Result<u64, Beyond> {
        let (entries, _) = self.bytes.as_chunks::<8>();
        assert!(at.to_raw() % 8 == 0 && at.to_raw() < 1 << 52, "{at}");
        if at.to_raw() >= END || entries.is_empty() {
            return Err(Beyond);
        }
        // Tables of 512 entries each, but not a power of two of them in all.
        let index = at.to_raw() / 8 % entries.len() as u64;
        Ok(u64::from_le_bytes(entries[index as usize]))
    }
}

/// The steps are those entries that the memory holds, from the root to the leaf.
pub fn check_steps<A: AddressSpace>(memory: &Tables<'_, A>, found: &Translation<A>) {
    let steps: Vec<_> = found.steps.iter().collect();
    assert!((1..=5).contains(&steps.len()));
    for step in &steps {
        assert_eq!(memory.read_entry(step.entry_at), Ok(step.raw));
    }
    let levels = steps.windows(2).all(|two| two[1].level < two[0].level);
    assert!(levels, "a walk that does not descend");
    assert_eq!(steps.last().map(|step| step.level), Some(found.page_size));
}

/// Holds a run against single walks at its both ends; the runs leave no gap. `next` is
/// where it must begin, and then the next one.
pub fn check_run<I, A, E>(
    run: &Run<'_, I, A, E>,
    next: &mut Option<u64>,
    walk: impl Fn(I) -> Result<Translation<A>, WalkError<A, E>>,
) where
    I: AddressSpace,
    A: AddressSpace,
    E: PartialEq + Debug,
{
    let (first, last) = (run.start.to_raw(), run.last.to_raw());
    assert_eq!(Some(first), *next);
    assert!(last >= first);
    *next = last.checked_add(1);
    assert_eq!(walk(run.start), run.found);
    match (&run.found, walk(run.last)) {
        (Ok(found), Ok(end)) => {
            let page_bytes = found.page_size.bytes();
            let pages = last / page_bytes - first / page_bytes;
            let frame = run
                .frames()
                .nth(pages as usize)
                .expect("a frame for each page");
            assert_eq!(frame.to_raw() + last % page_bytes, end.address.to_raw());
            assert_eq!((found.access, found.page_size), (end.access, end.page_size));
        }
        (Err(_), Err(_)) => {}
        (found, end) => panic!("{found:?} at the start and {end:?} at the end"),
    }
}

/// Two texts or files in one input: the first one's length stands before it, in two
/// bytes.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = input.split_first_chunk() else {
        return (input, &[]);
    };
    let len = usize::from(u16::from_le_bytes(*len));
    rest.split_at(len.min(rest.len()))
}
