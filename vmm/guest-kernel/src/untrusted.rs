//! What a guest's memory and an image's files say to this crate, for fuzzing.

use addr::{Gfn, Gpa, Gva};
use btf::Btf;

use crate::error::ViewError;
use crate::facts::{KernelFacts, Symbols};
use crate::maple;
use crate::memory::KernelMemory;
use crate::page::PageView;
use crate::samples;
use crate::tasks;

/// Addresses from here on are not mapped.
const MAPPED: u64 = 1 << 48;

/// Bytes that repeat through the address space, so that every pointer leads somewhere.
struct Repeated<'b>(&'b [u8]);

impl KernelMemory for Repeated<'_> {
    fn read(&self, what: &'static str, gva: Gva, into: &mut [u8]) -> Result<(), ViewError> {
        let len = self.0.len() as u64;
        if gva.raw() >= MAPPED || len == 0 {
            let reason = "beyond".to_owned();
            return Err(ViewError::NotMapped { what, gva, reason });
        }
        let start = usize::try_from(gva.raw() % len).unwrap_or_default();
        let bytes = self.0.iter().cycle().skip(start);
        into.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

/// Follows lists, trees and pages of a kernel with this memory, from `place` on.
pub fn kernel_memory(memory: &[u8], place: u64) {
    let memory = Repeated(memory);
    let facts = samples::facts();
    let _ = maple::lookup(&memory, &facts.layout.maple, place, place.rotate_left(32));
    if let Ok(page) = PageView::read(&memory, &facts, place, Gfn::new(place >> 12)) {
        page.flag_names();
        page.mapcount();
    }
    let translate = |gva: Gva| Some(Gpa::new(gva.raw()));
    let _ = tasks::of_root(&memory, &facts, place, translate);
    let Ok(Some(task)) = tasks::find(&memory, &facts, |_, _| Ok(true)) else {
        return;
    };
    let _ = tasks::vma_at(&memory, &facts, &task, Gva::new(place));
    if let Ok(areas) = tasks::vmas(&memory, &facts, &task) {
        let in_order = areas.windows(2).all(|two| two[0].end <= two[1].start);
        assert!(in_order, "areas that overlap were believed");
    }
}

/// Takes the two files of an image.
pub fn files(types: &[u8], system_map: &str) {
    let symbols = Symbols::from_text(system_map);
    if let (Ok(symbols), Ok(btf)) = (symbols, Btf::from_bytes(types)) {
        let _ = KernelFacts::of(&btf, symbols);
    }
}
