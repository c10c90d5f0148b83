//! Kernel memory made up by the tests: right, wrong and random.

use std::collections::BTreeMap;

use addr::{Gpa, Hpa, Level};
use btf::Field;
use proptest::prelude::*;

use crate::error::RootError;
use crate::find;
use crate::layout::{Layout, Roots};
use crate::memory::{HostMemory, ReadError};
use crate::processor::Processor;
use crate::root::{self, Root, Vcpu};
use crate::symbols::Symbols;
use crate::tables::Tables;

const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
const INIT_TASK: u64 = 0xffff_ffff_8200_0000;
const FOPS: u64 = 0xffff_ffff_c000_0000;
const ROOT: u64 = 0x12_3000;
const FD: i32 = 3;

/// Words by address; what is not there reads as `noise` makes it up.
struct Memory {
    words: BTreeMap<u64, u64>,
    noise: fn(u64, u64) -> u64,
    seed: u64,
}

impl Memory {
    fn set(&mut self, base: u64, field: Field, value: u64) {
        self.words.insert(base + field.offset, value);
    }
}

impl HostMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        for (index, bytes) in (0..).zip(into.chunks_mut(8)) {
            let at = address.wrapping_add(8 * index);
            let word = self.words.get(&at).copied();
            let word = word.unwrap_or_else(|| (self.noise)(self.seed, at));
            for (to, from) in bytes.iter_mut().zip(word.to_le_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }

    fn read_physical(&self, at: Hpa, into: &mut [u8]) -> Result<(), ReadError> {
        self.read(at.raw(), into)
    }

    fn physical(&self, address: u64) -> Option<Hpa> {
        address.checked_sub(DIRECT_MAP).map(Hpa::new)
    }
}

/// Each member in a word of its own, at another offset than in any kernel.
fn layout() -> Layout {
    let field = |place: u64| Field::word(place * 8);
    Layout {
        task_node: field(7),
        task_prev: field(8),
        task_tgid: field(1),
        task_files: field(2),
        task_mm: field(3),
        files_table: field(4),
        table_length: field(5),
        table_array: field(6),
        file_operations: field(3),
        file_private: field(9),
        vcpu_kvm: field(1),
        vcpu_mmu: field(2),
        kvm_mm: field(5),
        kvm_memslots: field(7),
        memslots_generation: field(3),
        mmu_root: field(1),
        mmu_level: field(2),
        mmu_direct: field(3),
        list_next: field(0),
        roots: Some(Roots {
            head: field(11),
            link: field(4),
            table: field(6),
            invalid: field(8),
        }),
    }
}

fn symbols() -> Symbols {
    Symbols {
        init_task: INIT_TASK,
        vcpu_fops: FOPS,
    }
}

const TASK: u64 = 0x10_0000;
const VCPU: u64 = 0x20_0000;
const KVM: u64 = 0x30_0000;
const MMU: u64 = 0x40_0000;
const PAGE: u64 = 0x50_0000;
const FILE: u64 = 0x60_0000;
const SLOTS: u64 = 0xa0_0000;

/// A process whose descriptor 3 is a vCPU with a root in force.
fn right() -> Memory {
    let layout = layout();
    let mut memory = Memory {
        words: BTreeMap::new(),
        noise: |_, _| 0,
        seed: 0,
    };
    let (files, table, array) = (0x70_0000, 0x80_0000, 0x90_0000);
    memory.set(INIT_TASK, layout.task_prev, TASK + layout.task_node.offset);
    memory.set(TASK, layout.task_prev, INIT_TASK + layout.task_node.offset);
    memory.set(TASK, layout.task_tgid, u64::from(std::process::id()));
    memory.set(TASK, layout.task_mm, 0xaa);
    memory.set(TASK, layout.task_files, files);
    memory.set(files, layout.files_table, table);
    memory.set(table, layout.table_length, 64);
    memory.set(table, layout.table_array, array);
    memory.set(array, Field::word(3 * 8), FILE);
    memory.set(FILE, layout.file_operations, FOPS);
    memory.set(FILE, layout.file_private, VCPU);
    memory.set(VCPU, layout.vcpu_kvm, KVM);
    memory.set(VCPU, layout.vcpu_mmu, MMU);
    memory.set(KVM, layout.kvm_mm, 0xaa);
    memory.set(KVM, layout.kvm_memslots, SLOTS);
    memory.set(SLOTS, layout.memslots_generation, 12);
    memory.set(MMU, layout.mmu_root, ROOT);
    memory.set(MMU, layout.mmu_level, 5);
    memory.set(MMU, layout.mmu_direct, 1);
    let roots = layout.roots.expect("there");
    let (head, node) = (KVM + roots.head.offset, PAGE + roots.link.offset);
    memory.set(head, layout.list_next, node);
    memory.set(node, layout.list_next, head);
    memory.set(PAGE, roots.table, DIRECT_MAP + ROOT);
    memory
}

fn found(memory: &Memory) -> Result<Root, RootError> {
    let layout = layout();
    let vcpu = find::vcpu(memory, &layout, &symbols(), &find::KnownTask::default(), FD)?;
    root::of_vcpu(memory, &layout, vcpu)
}

#[test]
fn the_root_is_found_through_every_structure() {
    let expected = Root {
        table: Hpa::new(ROOT),
        top: Level::Pgd,
        listed: true,
        memslots_generation: 12,
    };
    assert_eq!(found(&right()), Ok(expected));
    // A root that comes to lie where an earlier one lay is another one.
    let mut memory = right();
    memory.set(SLOTS, layout().memslots_generation, 14);
    assert_ne!(found(&memory), Ok(expected));
}

#[test]
fn each_structure_that_is_not_what_it_should_be_is_told() {
    let layout = layout();
    let roots = layout.roots.expect("there");
    let table = Hpa::new(ROOT);
    let cases: [(&str, u64, Field, u64, RootError); 8] = [
        ("other process", TASK, layout.task_tgid, 1, {
            let pid = std::process::id();
            RootError::NoProcess { pid }
        }),
        (
            "other VM",
            KVM,
            layout.kvm_mm,
            0xbb,
            RootError::ForeignVm { fd: FD },
        ),
        ("no root", MMU, layout.mmu_root, u64::MAX, RootError::NoRoot),
        ("shadow", MMU, layout.mmu_direct, 0, RootError::Shadow),
        (
            "depth",
            MMU,
            layout.mmu_level,
            3,
            RootError::Levels { levels: 3 },
        ),
        (
            "retired",
            PAGE,
            roots.invalid,
            1,
            RootError::Retired { root: table },
        ),
        ("unlisted", PAGE, roots.table, DIRECT_MAP, {
            RootError::Unlisted {
                root: table,
                listed: 1,
            }
        }),
        ("other file", FILE, layout.file_operations, 1, {
            RootError::NotAVcpu {
                fd: FD,
                found: "a file of another kind".into(),
            }
        }),
    ];
    for (name, base, field, value, expected) in cases {
        let mut memory = right();
        memory.set(base, field, value);
        assert_eq!(found(&memory), Err(expected), "{name}");
    }
}

/// A list of roots that never comes back to its head.
#[test]
fn lists_without_an_end_are_left() {
    let layout = layout();
    let roots = layout.roots.expect("there");
    let mut memory = right();
    let node = PAGE + roots.link.offset;
    memory.set(node, layout.list_next, node);
    memory.set(PAGE, roots.table, DIRECT_MAP);
    assert!(matches!(found(&memory), Err(RootError::Unlisted { .. })));
}

proptest! {
    #[test]
    fn no_memory_makes_a_search_or_a_walk_panic(
        seed: u64, spoiled in 0_usize..32, value: u64, gpa: u64, level in 4_u64..6,
    ) {
        let mut memory = right();
        memory.seed = seed;
        // Spread over all bits, but with entries that are often present.
        memory.noise = |seed, at| {
            let word = (seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            word & 0x000f_ffff_ffff_ffff | 7
        };
        memory.set(MMU, layout().mmu_level, level);
        if let Some(word) = memory.words.values_mut().nth(spoiled) {
            *word = value;
        }
        let vcpu = Vcpu { vcpu: VCPU, kvm: KVM };
        if let Ok(root) = root::of_vcpu(&memory, &layout(), vcpu) {
            for processor in Processor::samples() {
                if let Ok(tables) = Tables::new(&memory, &processor, (vcpu, root)) {
                    let _ = tables.walk(Gpa::new(gpa)).map(|found| found.address);
                    let _ = tables.walk(Gpa::new(gpa >> 16)).map(|found| found.address);
                }
            }
        }
    }
}
