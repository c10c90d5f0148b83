//! How the files of the project's own driver count those who hold them, found out by
//! opening and mapping them.

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::Gva;
use contract::{FileContract, RangeContract, When};
use guest_kernel::{KernelFacts, KernelView};
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

/// Holds the counts of files that a case has had open against what they were before, when
/// all is closed: whoever went must not be counted any more.
pub(crate) fn again(
    guest: &Guest,
    facts: &KernelFacts,
    counts: &[Count],
) -> Result<Option<Verdict>, HarnessError> {
    if counts.is_empty() {
        return Ok(None);
    }
    let view = guest.kernel(facts)?;
    for count in counts {
        let found = read_count(&view, count.at);
        if found != Some(count.alone) {
            let found = found.map_or("none".to_owned(), |found| format!("{found} references"));
            let expected = format!("{} references, all closed", count.alone);
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
    let (Some((at, once)), Some((_, twice))) = (once, twice) else {
        return Ok(None);
    };
    let each_open = twice.wrapping_sub(once);
    Ok(Some(Count {
        at,
        alone: once.wrapping_sub(1).wrapping_sub(each_open),
        each_open,
    }))
}

/// Where the count of a mapping's file stands, and what it is.
fn counted(
    guest: &Guest,
    facts: &KernelFacts,
    gva: Gva,
) -> Result<Option<(Gva, u32)>, HarnessError> {
    let view = guest.kernel(facts)?;
    let at = view.vma_at(gva)?.map(|vma| Gva::new(vma.private_data));
    Ok(at.and_then(|at| Some((at, read_count(&view, at)?))))
}

fn read_count(view: &KernelView<'_>, at: Gva) -> Option<u32> {
    let mut word = [0; 4];
    // A driver that is wrong may have put anything there.
    view.read(at, &mut word)
        .is_ok()
        .then(|| u32::from_le_bytes(word))
}
