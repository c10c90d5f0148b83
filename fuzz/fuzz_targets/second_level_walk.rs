//! EPT and NPT of any content.
#![no_main]

use addr::{Gpa, Hpa};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mapwitness_fuzz::{MOST_RUNS, Tables, check_run, check_steps};
use walk::{EptRegs, NptRegs, SecondLevel};

#[derive(Arbitrary, Debug)]
struct Input<'b> {
    ept: bool,
    root: u64,
    pat: u64,
    maxphyaddr: u8,
    encryption_bit: Option<u8>,
    flags: [bool; 4],
    gpa: u64,
    len_bytes: u64,
    tables: &'b [u8],
}

fn entries(input: &Input) -> Option<SecondLevel> {
    let [gib_pages, second, third, wide] = input.flags;
    let maxphyaddr = if wide { 52 } else { input.maxphyaddr };
    let entries = if input.ept {
        SecondLevel::ept(&EptRegs {
            eptp: input.root,
            maxphyaddr,
            gib_pages,
            execute_only: second,
            mode_based_exec: third,
        })
    } else {
        SecondLevel::npt(&NptRegs {
            ncr3: input.root,
            five_levels: second,
            pat: input.pat,
            nxe: third,
            maxphyaddr,
            gib_pages,
            encryption_bit: input.encryption_bit,
        })
    };
    entries.ok()
}

fuzz_target!(|input: Input| {
    let Some(entries) = entries(&input) else {
        return;
    };
    let memory = Tables::<Hpa>::of(input.tables);
    let walk = |gpa: Gpa| entries.walk(&memory, gpa);
    let start = Gpa::new(input.gpa);
    if let Ok(found) = walk(start) {
        check_steps(&memory, &found);
        let last = found.steps.last().expect("a leaf was read");
        let mapped = entries.maps(last.level, last.raw);
        assert!(mapped.is_none_or(|mapped| mapped.level == found.page_size));
    }
    entries.spte(input.pat);
    let mut range = entries.range(&memory, start, input.len_bytes);
    let mut next = Some(start.raw());
    for _ in 0..MOST_RUNS {
        let Some(run) = range.next_run() else {
            break;
        };
        check_run(&run, &mut next, walk);
    }
});
