//! How the files of the project's own driver count those who hold them, found out by
//! opening and mapping them.

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::Gva;
use contract::{FileContract, RangeContract, When};
use guest_kernel::{KernelFacts, KernelView, VmaView};
use harness::{Guest, GuestSnapshot, HarnessError, Mapping, MappingSpec};
use wire::OpenMode;

use crate::areas::Count;
use crate::verdict::Verdict;
use crate::world::World;

/// Counts of the lazy files, by their numbers. The guest is back at its snapshot after it.
pub(crate) fn of(
    guest: &mut Guest,
    snapshot: &GuestSnapshot,
    facts: &KernelFacts,
    world: &World,
) -> Result<BTreeMap<usize, Count>, HarnessError> {
    let mut counts = BTreeMap::new();
    for (number, file) in world.files.iter().enumerate() {
        let is_lazy = |range: &RangeContract| range.present != When::AtMmap;
        if !file.ranges.iter().all(is_lazy) {
            continue;
        }
        if let Some(count) = count(guest, facts, file)? {
            counts.insert(number, count);
        }
        guest.reset(snapshot)?;
    }
    Ok(counts)
}

/// Opens and maps files that a case has had open, when all is closed: whoever went must
/// not be counted any more.
pub(crate) fn again(
    guest: &mut Guest,
    facts: &KernelFacts,
    files: &[(&Arc<FileContract>, Count)],
) -> Result<Option<Verdict>, HarnessError> {
    let mut there = Vec::new();
    for (file, count) in files {
        if let Some((_, mapping)) = mapped(guest, file)? {
            there.push((mapping.gva, *count));
        }
    }
    if there.is_empty() {
        return Ok(None);
    }
    let view = guest.kernel(facts)?;
    let task = view.current()?;
    for (gva, count) in there {
        let wanted = count.alone.wrapping_add(1).wrapping_add(count.each_open);
        let vma = view.vma_of(&task, gva)?;
        let found = vma.and_then(|vma| read_count(&view, &vma));
        if found != Some(wanted) {
            let found = found.map_or("none".to_owned(), |found| format!("{found} references"));
            let expected = format!("{wanted} references by one mapping, all else closed");
            return Ok(Some(Verdict::rule("reference count", expected, found)));
        }
    }
    Ok(None)
}

/// The whole of a file, mapped; `None` where that is refused, which other rules find.
fn mapped(
    guest: &mut Guest,
    file: &Arc<FileContract>,
) -> Result<Option<(OpenMode, Mapping)>, HarnessError> {
    let Some(range) = file.ranges.first() else {
        return Ok(None);
    };
    let mode = if range.access.write {
        OpenMode::ReadWrite
    } else {
        OpenMode::ReadOnly
    };
    let Ok(fd) = guest.open(&file.path, mode)? else {
        return Ok(None);
    };
    let mapping = guest.map(fd, &MappingSpec::whole(file, range))?;
    Ok(mapping.ok().map(|mapping| (mode, mapping)))
}

/// Counts with one mapping, through a file that is open once and then twice. `None` where
/// that cannot be had, which other rules find.
fn count(
    guest: &mut Guest,
    facts: &KernelFacts,
    file: &Arc<FileContract>,
) -> Result<Option<Count>, HarnessError> {
    let Some((mode, mapping)) = mapped(guest, file)? else {
        return Ok(None);
    };
    let once = counted(guest, facts, mapping.gva)?;
    if guest.open(&file.path, mode)?.is_err() {
        return Ok(None);
    }
    let twice = counted(guest, facts, mapping.gva)?;
    Ok(once.zip(twice).map(|(once, twice)| {
        let each_open = twice.wrapping_sub(once);
        Count {
            alone: once.wrapping_sub(1).wrapping_sub(each_open),
            each_open,
        }
    }))
}

fn counted(guest: &Guest, facts: &KernelFacts, gva: Gva) -> Result<Option<u32>, HarnessError> {
    let view = guest.kernel(facts)?;
    Ok(view.vma_at(gva)?.and_then(|vma| read_count(&view, &vma)))
}

fn read_count(view: &KernelView<'_>, vma: &VmaView) -> Option<u32> {
    let mut word = [0; 4];
    // A driver that is wrong may have put anything there.
    let read = view.read(Gva::new(vma.private_data), &mut word);
    read.is_ok().then(|| u32::from_le_bytes(word))
}
