//! How far entries of a table go on like the first one.

use addr::Level;

/// How many entries are as the first one, each with `step` more than the one before it, but
/// for the bits in `ignored`. In chunks, with one decision for each: most ranges are alike.
pub(super) fn count_alike(entries: &[u64], step: u64, ignored: u64) -> usize {
    const CHUNK: usize = 8;
    let mut wanted = entries.first().copied().unwrap_or_default();
    let mut alike = 0;
    for chunk in entries.as_chunks::<CHUNK>().0 {
        let (mut next, mut differing) = (wanted, 0);
        for entry in chunk {
            differing |= (entry ^ next) & !ignored;
            next = next.wrapping_add(step);
        }
        if differing != 0 {
            break;
        }
        wanted = next;
        alike += CHUNK;
    }
    let rest = entries.get(alike..).unwrap_or_default();
    let go_on = rest.iter().take_while(|entry| {
        let differing = (**entry ^ wanted) & !ignored;
        wanted = wanted.wrapping_add(step);
        differing == 0
    });
    alike + go_on.count()
}

/// How many entries, that of `raw` among them, can each name the next frame before a
/// carry leaves the bits that are free.
pub(super) const fn frames_before_carry(raw: u64, free: u64, level: Level) -> u64 {
    let count = 1 << (free >> level.shift()).trailing_ones();
    count - ((raw >> level.shift()) & (count - 1))
}
