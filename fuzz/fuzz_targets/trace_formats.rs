//! Texts by which a kernel describes its trace records.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mapwitness_fuzz::split;
use timeline::{EventFormat, PageFormat, Stats};

fuzz_target!(|input: &[u8]| {
    let (one, rest) = split(input);
    let (other, record) = split(rest);
    let [one, other] = [one, other].map(String::from_utf8_lossy);
    let _ = Stats::parse(&one);
    let _ = PageFormat::parse(&one, &other);
    let Ok(format) = EventFormat::parse(&one) else {
        return;
    };
    for name in [
        "common_type",
        "common_pid",
        "gfn",
        "old_spte",
        "new_spte",
        "level",
    ] {
        if let Ok(field) = format.number(name) {
            field.get(record);
        }
    }
});
