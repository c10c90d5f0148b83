//! Pages of the kernel's ring buffer, as `trace_pipe_raw` hands them out.
//!
//! Source of the layout: include/linux/ring_buffer.h and kernel/trace/ring_buffer.c of
//! Linux 7.3, and the header files of tracefs, which the kernel keeps stable for its
//! readers.

use crate::format::PageFormat;

/// Flags in the word that tells how many bytes of a page are used. They are set for
/// readers only and have no field in any format.
const MISSED: u64 = 1 << 31;
const MISSED_COUNT_FOLLOWS: u64 = 1 << 30;
/// What remains for the number of bytes.
const USED_BYTES: u64 = (1 << 27) - 1;

const PADDING: u32 = 29;
const TIME_EXTEND: u32 = 30;
const TIME_STAMP: u32 = 31;
/// The highest five bits of a time are not in an absolute stamp.
const STAMP_BITS: u32 = 59;

/// A record as it stands in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'page> {
    /// Its time, by the clock of the buffer.
    pub time: u64,
    /// Its bytes.
    pub bytes: &'page [u8],
}

/// Records lost before a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed(
    /// How many, if that is known.
    pub Option<u64>,
);

/// What a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<'page> {
    /// Its records, in the order of the CPU that made them.
    pub records: Vec<Record<'page>>,
    /// Whether others were lost before it.
    pub missed: Option<Missed>,
    /// Why the rest of it cannot be read.
    pub broken: Option<&'static str>,
}

/// Takes a page apart. What is sound before the first thing that is not is kept.
pub fn read_page<'page>(format: &PageFormat, page: &'page [u8]) -> Page<'page> {
    let mut found = Page {
        records: Vec::new(),
        missed: None,
        broken: None,
    };
    let head = format.timestamp.get(page).zip(format.commit.get(page));
    let data = page.get(format.data_offset_bytes..);
    let (Some((time, commit)), Some(data)) = (head, data) else {
        found.broken = Some("a page is shorter than its head");
        return found;
    };
    let used = usize::try_from(commit & USED_BYTES).unwrap_or(usize::MAX);
    let Some((used, rest)) = data.split_at_checked(used) else {
        found.broken = Some("a page claims to hold more than it has");
        return found;
    };
    if commit & MISSED != 0 {
        let count = rest.first_chunk().map(|word| u64::from_le_bytes(*word));
        found.missed = Some(Missed(count.filter(|_| commit & MISSED_COUNT_FOLLOWS != 0)));
    }
    if let Err(reason) = read_records(used, time, &mut found.records) {
        found.broken = Some(reason);
    }
    found
}

fn read_records<'page>(
    mut rest: &'page [u8],
    mut time: u64,
    records: &mut Vec<Record<'page>>,
) -> Result<(), &'static str> {
    const CUT: &str = "a record runs past the end of its page";
    while !rest.is_empty() {
        let (head, body) = word(rest).ok_or(CUT)?;
        let (kind, delta) = (head & 0x1f, u64::from(head >> 5));
        match kind {
            TIME_EXTEND => {
                let (high, after) = word(body).ok_or(CUT)?;
                time = time.wrapping_add(stamp(high, delta));
                rest = after;
            }
            TIME_STAMP => {
                let (high, after) = word(body).ok_or(CUT)?;
                time = absolute(stamp(high, delta), time);
                rest = after;
            }
            // The unused end of a page.
            PADDING if delta == 0 => return Ok(()),
            PADDING => {
                // A record that was thrown away; the next one carries its own time.
                let (len_bytes, _) = word(body).ok_or(CUT)?;
                rest = skip(body, len_bytes).ok_or(CUT)?;
            }
            0 => {
                time = time.wrapping_add(delta);
                let (len_bytes, _) = word(body).ok_or(CUT)?;
                let after = skip(body, len_bytes).ok_or(CUT)?;
                let whole = body.len() - after.len();
                let bytes = body
                    .get(4..whole)
                    .ok_or("a record is shorter than its head")?;
                records.push(Record { time, bytes });
                rest = after;
            }
            words => {
                time = time.wrapping_add(delta);
                let after = skip(body, words * 4).ok_or(CUT)?;
                let bytes = &body[..body.len() - after.len()];
                records.push(Record { time, bytes });
                rest = after;
            }
        }
    }
    Ok(())
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// What follows `len_bytes`, rounded up to whole words and at least one: every
/// record takes its reader on.
fn skip(bytes: &[u8], len_bytes: u32) -> Option<&[u8]> {
    let len_bytes = usize::try_from(len_bytes).ok()?.max(4);
    bytes.get(len_bytes.checked_next_multiple_of(4)?..)
}

const fn stamp(high: u32, low: u64) -> u64 {
    // u64::from is not const.
    ((high as u64) << 27) | low
}

/// An absolute stamp with the highest bits of the time before it.
const fn absolute(stamp: u64, before: u64) -> u64 {
    let low = (1 << STAMP_BITS) - 1;
    let full = (stamp & low) | (before & !low);
    if full < before && before & !low != 0 {
        return full.wrapping_add(1 << STAMP_BITS);
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PageFormat;

    const FIRST: u64 = (1 << 60) + 100;

    fn format() -> PageFormat {
        let events = "tests/data/linux-6.12/events";
        let read = |name| std::fs::read_to_string(format!("{events}/{name}")).expect("recorded");
        PageFormat::parse(&read("header_page"), &read("header_event")).expect("known")
    }

    /// The times and lengths of a page of these words.
    fn times(words: &[u32]) -> (Vec<(u64, usize)>, Option<&'static str>) {
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let head = [FIRST.to_le_bytes(), (data.len() as u64).to_le_bytes()].concat();
        let page = [head, data].concat();
        let found = read_page(&format(), &page);
        let records = found.records.iter();
        let records = records.map(|record| (record.time, record.bytes.len()));
        (records.collect(), found.broken)
    }

    const fn head(kind: u32, delta: u32) -> u32 {
        kind | delta << 5
    }

    #[test]
    fn times_are_summed_up_and_stretched() {
        let words = [
            head(1, 3),
            0,
            // 2 << 27 and 5 more; then a record of 8 bytes whose length stands apart.
            head(TIME_EXTEND, 5),
            2,
            head(0, 1),
            4 + 8,
            0,
            0,
        ];
        let stretched = FIRST + 3 + (2 << 27) + 5 + 1;
        assert_eq!(times(&words), (vec![(FIRST + 3, 4), (stretched, 8)], None));
    }

    #[test]
    fn an_absolute_time_keeps_the_highest_bits() {
        let words = [head(TIME_STAMP, 7), 9, head(1, 2), 0];
        let time = (1 << 60) + (9 << 27) + 7 + 2;
        assert_eq!(times(&words), (vec![(time, 4)], None));
        // It went through the 59 bits that a stamp has.
        let words = [head(TIME_STAMP, 7), 0, head(1, 0), 0];
        let time = (1 << 60) + (1 << STAMP_BITS) + 7;
        assert_eq!(times(&words), (vec![(time, 4)], None));
    }

    #[test]
    fn what_was_thrown_away_is_passed_over_and_the_unused_end_ends() {
        let thrown_away = [head(PADDING, 1), 8, 0, head(1, 4), 0];
        assert_eq!(times(&thrown_away), (vec![(FIRST + 4, 4)], None));
        let end = [head(1, 4), 0, head(PADDING, 0), 77];
        assert_eq!(times(&end), (vec![(FIRST + 4, 4)], None));
    }

    #[test]
    fn a_record_that_is_cut_off_ends_what_is_sound() {
        let (records, broken) = times(&[head(1, 0), 0, head(28, 0), 0]);
        assert_eq!(records, [(FIRST, 4)]);
        assert!(broken.is_some_and(|reason| reason.contains("past the end")));
    }
}
