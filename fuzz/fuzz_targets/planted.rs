//! Wrong on purpose, in a place that only coverage leads to: shows that the others
//! would be found out.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let [b'M', b'A', b'P', b'W', b'I', b'T', ..] = bytes {
        panic!("the planted fault");
    }
});
