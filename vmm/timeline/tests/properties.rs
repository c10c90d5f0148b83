//! No bytes can make the readers of pages, records, formats and statistics panic, or
//! have them tell more than the bytes can hold.

use std::path::Path;

use proptest::prelude::*;
use timeline::{Decoded, EventFormat, Formats, PageFormat, Record, Stats, read_page};

const HEADER_PAGE: &str = include_str!("data/linux-6.12/events/header_page");
const HEADER_EVENT: &str = include_str!("data/linux-6.12/events/header_event");
const FAULTS: &[u8] = include_bytes!("data/linux-6.12/faults.page");
const FORMAT: &str = include_str!("data/linux-6.12/events/kvmmmu/kvm_tdp_mmu_spte_changed/format");

fn format() -> PageFormat {
    PageFormat::parse(HEADER_PAGE, HEADER_EVENT).expect("known")
}

fn formats() -> Formats {
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-6.12/events");
    Formats::read(&events).expect("complete")
}

/// Goes through a page as a recorder does.
fn read(page: &[u8]) -> usize {
    let formats = formats();
    let found = read_page(&format(), page);
    let bytes: usize = found.records.iter().map(|record| record.bytes.len()).sum();
    assert!(bytes <= page.len());
    assert!(found.records.len() <= page.len() / 4);
    let events = found.records.iter().map(|record| formats.decode(0, record));
    events
        .filter(|one| matches!(one, Decoded::Event(_)))
        .count()
}

/// A page whose head says that all of it is used, so that its records are reached.
fn full_page(records: Vec<u8>, flags: u64) -> Vec<u8> {
    let commit = flags | records.len() as u64;
    let head = [7u64.to_le_bytes(), commit.to_le_bytes()].concat();
    [head, records].concat()
}

proptest! {
    #[test]
    fn any_bytes_are_a_page(page in prop::collection::vec(any::<u8>(), 0..5000)) {
        read(&page);
    }

    #[test]
    fn any_records_are_read(
        records in prop::collection::vec(any::<u8>(), 0..600),
        flags in prop::sample::select(vec![0, 1 << 31, 3 << 30, u64::MAX << 32]),
    ) {
        read(&full_page(records, flags));
    }

    /// Small words as heads make lengths and kinds that nearly fit.
    #[test]
    fn heads_that_nearly_fit_are_read(
        words in prop::collection::vec(0u32..0x400, 0..300),
    ) {
        let records = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        read(&full_page(records, 0));
    }

    #[test]
    fn a_recorded_page_with_other_bits_is_read(
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 1..40),
        length in 0usize..=4096,
    ) {
        let mut page = FAULTS[..length].to_vec();
        for (place, value) in changes {
            if let Some(byte) = page.get_mut(place) {
                *byte = value;
            }
        }
        read(&page);
    }

    #[test]
    fn any_record_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let record = Record { time: 0, bytes: &bytes };
        formats().decode(0, &record);
    }

    #[test]
    fn any_text_is_a_format_or_none(text in "(?s).{0,300}") {
        let _ = EventFormat::parse(&text);
        let _ = PageFormat::parse(&text, HEADER_EVENT);
        let _ = PageFormat::parse(HEADER_PAGE, &text);
        let _ = Stats::parse(&text);
    }

    #[test]
    fn a_format_with_other_numbers_reads_within_its_records(
        numbers in prop::collection::vec(any::<usize>(), 1..6),
        bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut text = FORMAT.to_owned();
        for (number, known) in numbers.iter().zip(["offset:8", "size:8", "offset:24", "size:2"]) {
            let key = known.split(':').next().expect("a key");
            text = text.replacen(known, &format!("{key}:{number}"), 1);
        }
        if let Ok(format) = EventFormat::parse(&text) {
            for name in ["gfn", "old_spte", "new_spte", "level", "common_pid"] {
                if let Ok(field) = format.number(name) {
                    field.get(&bytes);
                }
            }
        }
    }
}

#[test]
fn the_recorded_page_is_read_whole() {
    assert_eq!(read(FAULTS), 93);
}
