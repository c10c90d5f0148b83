//! Kernel memory made up by the tests: right, wrong and random.

use std::cell::RefCell;
use std::collections::BTreeMap;

use addr::{Gfn, Gpa, Gva};
use btf::Field;
use proptest::prelude::*;

use crate::error::ViewError;
use crate::maple::{self, Found};
use crate::memory::KernelMemory;
use crate::modules;
use crate::page::{self, PageView};
use crate::samples::{ARANGE, INIT_TASK, LEAF, MODULES, RANGE, facts, maple_layout};
use crate::tasks;

const AGENT: u64 = 0x2_0000;
const MM: u64 = 0x3_0000;
const PGD: u64 = 0x4_0000;
const VMEMMAP: u64 = 0x100_0000;

/// Words by address; what is not there is not mapped, or made up from a seed.
#[derive(Default)]
struct Memory {
    words: BTreeMap<u64, u64>,
    noise: Option<RefCell<u64>>,
}

impl Memory {
    fn set(&mut self, base: u64, field: Field, value: u64) {
        self.words.insert(base + field.offset, value);
    }

    /// A node of a maple tree; gives the pointer to it.
    fn node(&mut self, at: u64, kind: u64, pivots: &[u64], slots: &[u64]) -> u64 {
        let layout = maple_layout();
        let (to_pivots, to_slots) = match kind {
            ARANGE => (layout.arange_pivots, layout.arange_slots),
            _ => (layout.range_pivots, layout.range_slots),
        };
        for (array, values) in [(to_pivots, pivots), (to_slots, slots)] {
            for index in 0..array.len() {
                let value = values.get(usize::try_from(index).expect("few"));
                let field = array.element(index).expect("in range");
                self.set(at, field, value.copied().unwrap_or_default());
            }
        }
        at | kind << 3 | 4
    }
}

impl KernelMemory for Memory {
    fn read(&self, what: &'static str, gva: Gva, into: &mut [u8]) -> Result<(), ViewError> {
        let word = match (self.words.get(&gva.raw()), &self.noise) {
            (Some(word), _) => *word,
            (None, Some(noise)) => {
                let mut state = noise.borrow_mut();
                *state = (*state ^ gva.raw()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *state >> (*state % 61)
            }
            (None, None) => {
                let reason = "made up without it".to_owned();
                return Err(ViewError::NotMapped { what, gva, reason });
            }
        };
        for (to, from) in into.iter_mut().zip(word.to_le_bytes().iter().cycle()) {
            *to = *from;
        }
        Ok(())
    }
}

/// Two processes: a thread of the kernel, and one with this tree of areas.
fn processes(memory: &mut Memory, maple_root: u64) {
    let facts = facts();
    let (task, mm) = (facts.layout.task, facts.layout.mm);
    let kernel_thread = 0x5_0000;
    for (from, to) in [
        (INIT_TASK, kernel_thread),
        (kernel_thread, AGENT),
        (AGENT, INIT_TASK),
    ] {
        memory.set(from, task.next, to + task.next.offset);
    }
    memory.set(kernel_thread, task.mm, 0);
    memory.set(AGENT, task.mm, MM);
    memory.set(AGENT, task.tgid, 42);
    let letter = |at| task.comm.element(at).expect("two letters");
    memory.set(AGENT, letter(0), u64::from(b'a'));
    memory.set(AGENT, letter(1), 0);
    memory.set(MM, mm.pgd, PGD);
    memory.set(MM, mm.map_count, 1);
    memory.set(MM, mm.maple_root, maple_root);
}

fn area(memory: &mut Memory, at: u64, start: u64, end: u64) {
    let vma = facts().layout.vma;
    for (field, value) in [
        (vma.start, start),
        (vma.end, end),
        (vma.mm, MM),
        (vma.page_prot, 0x25),
        (vma.flags, 2),
        (vma.pgoff, 3),
        (vma.file, 0),
        (vma.ops, 0),
        (vma.private_data, 0),
    ] {
        memory.set(at, field, value);
    }
}

/// Areas at 0x1000..0x2fff and 0x5000..0x5fff, in a tree of two levels.
fn two_levels(memory: &mut Memory) -> u64 {
    area(memory, 0x7000, 0x1000, 0x3000);
    area(memory, 0x8000, 0x5000, 0x6000);
    let left = memory.node(0x1_a000, LEAF, &[0xfff, 0x2fff], &[0, 0x7000]);
    let right = memory.node(0x1_b000, LEAF, &[0x4fff, 0x5fff, u64::MAX], &[0, 0x8000, 0]);
    memory.node(0x1_c000, ARANGE, &[0x2fff, u64::MAX], &[left, right])
}

#[test]
fn each_index_finds_its_own_piece() {
    let mut memory = Memory::default();
    let root = two_levels(&mut memory) & !4 | 2;
    let find = |index| maple::lookup(&memory, &maple_layout(), root, index).expect("found");
    let found = |entry, last| Found { entry, last };
    assert_eq!(find(0), found(0, 0xfff));
    assert_eq!(find(0xfff), found(0, 0xfff));
    assert_eq!(find(0x1000), found(0x7000, 0x2fff));
    assert_eq!(find(0x2fff), found(0x7000, 0x2fff));
    assert_eq!(find(0x3000), found(0, 0x4fff));
    assert_eq!(find(0x5fff), found(0x8000, 0x5fff));
    assert_eq!(find(0x6000), found(0, u64::MAX));
    assert_eq!(find(u64::MAX), found(0, u64::MAX));
}

#[test]
fn the_last_piece_needs_no_pivot() {
    let mut memory = Memory::default();
    // Three pivots, and a fourth slot that ends where its parent says.
    let full = memory.node(0x1_a000, LEAF, &[1, 2, 3], &[0x10, 0x20, 0x30, 0x40]);
    let part = memory.node(0x1_b000, LEAF, &[0x1ff], &[0x50, 0x60]);
    let root = memory.node(0x1_c000, RANGE, &[0xff], &[full, part]) & !4 | 2;
    let find = |index| maple::lookup(&memory, &maple_layout(), root, index).expect("found");
    let found = |entry, last| Found { entry, last };
    assert_eq!(find(3), found(0x30, 3));
    assert_eq!(find(4), found(0x40, 0xff));
    assert_eq!(find(0x100), found(0x50, 0x1ff));
    assert_eq!(find(0x200), found(0x60, u64::MAX));
}

#[test]
fn trees_that_cannot_be_end_in_an_error() {
    let mut memory = Memory::default();
    let find = |memory: &Memory, root| maple::lookup(memory, &maple_layout(), root, 0x123);
    let loops = memory.node(0x1_a000, RANGE, &[u64::MAX], &[0x1_a000 | RANGE << 3 | 4]) & !4 | 2;
    let error = find(&memory, loops).expect_err("no end");
    assert!(matches!(error, ViewError::Endless { .. }), "{error}");
    let error = find(&memory, 0xb000 | 7 << 3 | 2).expect_err("no such type");
    assert!(
        matches!(error, ViewError::Nonsense { value: 7, .. }),
        "{error}"
    );
    let error = find(&memory, 0xb000 | LEAF << 3 | 2).expect_err("no memory");
    assert!(matches!(error, ViewError::NotMapped { .. }), "{error}");
    // Nothing at all, and a single entry.
    let at = |root, index| maple::lookup(&memory, &maple_layout(), root, index);
    assert_eq!(at(0, 5).expect("empty").entry, 0);
    assert_eq!(at(0x7000, 0).expect("one").entry, 0x7000);
    assert_eq!(at(0x7000, 5).expect("none").entry, 0);
}

#[test]
fn a_process_and_its_areas_are_found() {
    let mut memory = Memory::default();
    let root = two_levels(&mut memory) & !4 | 2;
    processes(&mut memory, root);
    let facts = facts();
    let translate = |gva: Gva| gva.raw().checked_sub(0x1000).map(Gpa::new);
    // PCID bits of CR3 do not name the tables.
    let task = tasks::of_root(&memory, &facts, (PGD - 0x1000) | 5, translate).expect("found");
    assert_eq!((task.pid, task.name.as_str()), (42, "a"));
    let areas = tasks::vmas(&memory, &facts, &task).expect("areas");
    let starts: Vec<u64> = areas.iter().map(|area| area.start.raw()).collect();
    assert_eq!(starts, [0x1000, 0x5000]);
    let vma = tasks::vma_at(&memory, &facts, &task, Gva::new(0x2fff)).expect("read");
    let vma = vma.expect("an area");
    assert!(vma.flags.has("WRITE") && !vma.flags.has("READ"));
    assert_eq!(vma.flags.to_string(), "WRITE");
    assert_eq!((vma.npages(), vma.pgoff, vma.page_prot), (2, 3, 0x25));
    assert_eq!(vma.file, None);
    let gap = tasks::vma_at(&memory, &facts, &task, Gva::new(0x4000));
    assert_eq!(gap.expect("read"), None);
    let error = tasks::of_root(&memory, &facts, 0x9000, translate).expect_err("nobody");
    assert!(
        matches!(error, ViewError::NoOwner { root: 0x9000 }),
        "{error}"
    );
}

#[test]
fn an_area_of_another_process_is_refused() {
    let mut memory = Memory::default();
    let root = two_levels(&mut memory) & !4 | 2;
    processes(&mut memory, root);
    let facts = facts();
    memory.set(0x8000, facts.layout.vma.mm, 0xdead);
    let task = tasks::by_pid(&memory, &facts, 42).expect("read");
    let error = tasks::vmas(&memory, &facts, &task.expect("found")).expect_err("foreign");
    assert!(
        matches!(error, ViewError::Nonsense { value: 0xdead, .. }),
        "{error}"
    );
}

#[test]
fn a_list_of_processes_that_loops_ends_in_an_error() {
    let mut memory = Memory::default();
    processes(&mut memory, 0);
    let next = facts().layout.task.next;
    memory.set(AGENT, next, AGENT + next.offset);
    let error = tasks::find(&memory, &facts(), |_, _| Ok(false)).expect_err("no end");
    assert!(matches!(error, ViewError::Endless { .. }), "{error}");
}

/// One module, whose place in the list leads on to `next`.
fn module(memory: &mut Memory, name: [u8; 8], next: u64) {
    const AT: u64 = 0x7_0000;
    let layout = facts().layout.module;
    memory.words.insert(MODULES, AT + layout.next.offset);
    memory.set(AT, layout.next, next);
    let name = u64::from_le_bytes(name);
    memory.set(AT, Field::word(layout.name), name);
    memory.set(AT, layout.text_base, 0xa000_0000);
    // The size is followed by something else.
    memory.set(AT, layout.text_size, 0xffff_0000_1000);
    // So is the count, of which one is the list's.
    memory.set(AT, layout.refcnt, 0xffff_0000_0003);
}

#[test]
fn a_modules_code_is_found_by_its_name() {
    let mut memory = Memory::default();
    module(&mut memory, *b"driver\0\0", MODULES);
    let text = |memory: &Memory, name| modules::text_of(memory, &facts(), name);
    let found = text(&memory, "driver").expect("read");
    assert_eq!(found, Some(0xa000_0000..0xa000_1000));
    assert_eq!(text(&memory, "drive").expect("read"), None);
    module(&mut memory, *b"driver\0\0", 0x7_0000 + 3 * 8);
    let error = text(&memory, "other").expect_err("no end");
    assert!(matches!(error, ViewError::Endless { .. }), "{error}");
}

#[test]
fn who_uses_a_module_is_counted_without_the_list_itself() {
    let mut memory = Memory::default();
    module(&mut memory, *b"driver\0\0", MODULES);
    let users = |memory: &Memory| modules::users(memory, &facts());
    let one = |users| vec![("driver".to_owned(), users)];
    assert_eq!(users(&memory).expect("read"), one(2));
    // A module on its way out counts below nothing.
    memory.set(0x7_0000, facts().layout.module.refcnt, 0xffff_ffff);
    assert_eq!(users(&memory).expect("read"), one(-2));
    module(&mut memory, *b"driver\0\0", 0x7_0000 + 3 * 8);
    let error = users(&memory).expect_err("no end");
    assert!(matches!(error, ViewError::Endless { .. }), "{error}");
}

#[test]
fn a_page_is_read_with_its_head() {
    let mut memory = Memory::default();
    let facts = facts();
    let layout = facts.layout.page;
    let mut page = |gfn: u64, mapcount: u64, compound: u64| {
        let at = page::page_address(VMEMMAP, layout.size, Gfn::new(gfn)).expect("small");
        memory.set(at, layout.flags, 1 << 13 | 1 << 63);
        memory.set(at, layout.refcount, 2);
        memory.set(at, layout.mapcount, mapcount);
        memory.set(at, layout.compound, compound);
        memory.set(at, layout.mapping, 0);
        PageView::read(&memory, &facts, VMEMMAP, Gfn::new(gfn)).expect("read")
    };
    let single = page(6, 0xffff_ffff, 0);
    assert_eq!(
        (single.refcount, single.mapcount(), single.head),
        (2, 0, None)
    );
    assert_eq!(single.flag_names(), ["reserved"]);
    assert!(!single.has("locked"));
    assert_eq!(page(6, 0, 0).mapcount(), 1);
    // A buddy page, by its type.
    assert_eq!(page(6, 0xf0ff_ffff, 0).mapcount(), 0);
    // The head is named by its address, or by the mask that leads to it.
    let head = Some(Gfn::new(4));
    assert_eq!(page(6, 0, (VMEMMAP + 4 * layout.size) | 1).head, head);
    assert_eq!(page(6, 0, u64::MAX << 9 | 1).head, head);
}

#[test]
fn frames_and_their_pages_are_converted_both_ways() {
    let at = page::page_address(VMEMMAP, 0x40, Gfn::new(3)).expect("small");
    assert_eq!(at, VMEMMAP + 0xc0);
    assert_eq!(page::page_gfn(VMEMMAP, 0x40, at), Some(Gfn::new(3)));
    assert_eq!(page::page_gfn(VMEMMAP, 0x40, at + 1), None);
    assert_eq!(page::page_gfn(VMEMMAP, 0x40, VMEMMAP - 0x40), None);
    assert_eq!(page::page_gfn(VMEMMAP, 0, at), None);
    assert_eq!(page::page_address(u64::MAX, 0x40, Gfn::new(1)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_memory_makes_the_readers_panic_or_hang(seed in any::<u64>(), root in any::<u64>()) {
        let mut memory = Memory { noise: Some(RefCell::new(seed)), ..Memory::default() };
        let facts = facts();
        for root in [root, root & !0xff | 2, root & !0xff | LEAF << 3 | 2] {
            let _ = maple::lookup(&memory, &facts.layout.maple, root, seed);
        }
        let _ = PageView::read(&memory, &facts, seed, Gfn::new(root));
        processes(&mut memory, root & !0xff | ARANGE << 3 | 2);
        let task = tasks::by_pid(&memory, &facts, 42);
        if let Ok(Some(task)) = task {
            let _ = tasks::vma_at(&memory, &facts, &task, Gva::new(seed));
        }
    }
}
