//! The types and symbols of an image's kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mapwitness_fuzz::split;

fuzz_target!(|input: &[u8]| {
    let (types, system_map) = split(input);
    guest_kernel::untrusted::files(types, &String::from_utf8_lossy(system_map));
});
