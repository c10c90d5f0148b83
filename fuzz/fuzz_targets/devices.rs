//! The device's registers, its DMA engine, the ports: any accesses of a guest.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use monitor::untrusted::{self, Access};

#[derive(Arbitrary, Debug)]
struct Input {
    port: bool,
    store: bool,
    at: u16,
    len: u8,
    value: u64,
}

fuzz_target!(|inputs: Vec<Input>| {
    let access = |input: Input| Access {
        port: input.port,
        store: input.store,
        at: input.at,
        len: input.len,
        value: input.value,
    };
    let accesses: Vec<Access> = inputs.into_iter().map(access).collect();
    untrusted::devices(&accesses);
});
