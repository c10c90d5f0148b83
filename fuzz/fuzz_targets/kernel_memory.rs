//! Processes, areas and pages in a guest kernel's memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (place, memory) = input;
    guest_kernel::untrusted::kernel_memory(memory, place);
});
