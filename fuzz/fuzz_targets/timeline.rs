//! Pages of trace records.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use timeline::{Formats, PageFormat, read_page};

const EVENTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../vmm/timeline/tests/data/linux-6.12/events"
);
static PAGE: LazyLock<PageFormat> = LazyLock::new(|| {
    let text = |name: &str| {
        std::fs::read_to_string(Path::new(EVENTS).join(name)).expect("recorded format")
    };
    PageFormat::parse(&text("header_page"), &text("header_event")).expect("known")
});
static FORMATS: LazyLock<Formats> =
    LazyLock::new(|| Formats::read(Path::new(EVENTS)).expect("complete"));

fuzz_target!(|page: &[u8]| {
    let found = read_page(&PAGE, page);
    let bytes: usize = found.records.iter().map(|record| record.bytes.len()).sum();
    assert!(bytes <= page.len(), "records of more bytes than there are");
    for record in &found.records {
        FORMATS.decode(0, record);
    }
});
