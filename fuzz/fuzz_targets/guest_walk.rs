//! A guest's page tables of any content, under any registers.
#![no_main]

use addr::{Gpa, Gva};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mapwitness_fuzz::{MOST_RUNS, Tables, check_run, check_steps};
use walk::{GuestTables, PagingRegs, Vendor};

#[derive(Arbitrary, Debug)]
struct Input<'b> {
    /// A processor in long mode with paging, whatever else the registers hold.
    long_mode: bool,
    cr3: u64,
    cr4: u64,
    efer: u64,
    pat: u64,
    maxphyaddr: u8,
    gib_pages: bool,
    amd: bool,
    gva: u64,
    len_bytes: u64,
    tables: &'b [u8],
}

fuzz_target!(|input: Input| {
    let on = input.long_mode;
    let regs = PagingRegs {
        cr0: if on { 0x8000_0001 } else { input.pat },
        cr3: if on { input.cr3 & 0xf_f000 } else { input.cr3 },
        cr4: input.cr4 | if on { 0x20 } else { 0 },
        efer: input.efer | if on { 0x500 } else { 0 },
        pat: input.pat,
        maxphyaddr: if on { 52 } else { input.maxphyaddr },
        gib_pages: input.gib_pages,
        vendor: if input.amd {
            Vendor::Amd
        } else {
            Vendor::Intel
        },
    };
    let Ok(tables) = GuestTables::new(&regs) else {
        return;
    };
    let memory = Tables::<Gpa>::of(input.tables);
    let walk = |gva: Gva| tables.walk(&memory, gva);
    let start = Gva::new(input.gva);
    if let Ok(found) = walk(start) {
        check_steps(&memory, &found);
    }
    let mut range = tables.range(&memory, start, input.len_bytes);
    let mut next = Some(start.raw());
    for _ in 0..MOST_RUNS {
        let Some(run) = range.next_run() else {
            break;
        };
        check_run(&run, &mut next, walk);
    }
});
