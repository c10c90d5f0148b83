//! Files of saved guests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mapwitness_fuzz::split;

fuzz_target!(|input: &[u8]| {
    let (state, file) = split(input);
    monitor::untrusted::saved_guest(file, state);
});
