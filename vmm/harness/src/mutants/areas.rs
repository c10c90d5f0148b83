//! What the kernel notes of a mapping, read by the host in its memory.

use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::FileContract;
use guest_kernel::KernelFacts;

use super::files::{self, BASE, OTHERS, READ_ONLY, WINDOW};
use super::trials::{in_use, mapped, spec, unmapped};
use super::{Caught, Trial};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec};
use crate::promises::{FLAGS, unmet_flags};
use crate::steps::needed;

/// `vm_flags` of a mapping of each file.
pub(super) fn flags(guest: &mut Guest, facts: &KernelFacts) -> Trial {
    let mut files = files::files(guest.plan(), &BASE, &[WINDOW, READ_ONLY]);
    files.extend(files::files(guest.plan(), &OTHERS, &[WINDOW, READ_ONLY]));
    flags_of(guest, facts, &files)
}

/// `vm_flags` of a mapping of each of `files`.
pub(super) fn flags_of(
    guest: &mut Guest,
    facts: &KernelFacts,
    files: &[Arc<FileContract>],
) -> Trial {
    if guest.sees_data_alone() {
        return Ok(None);
    }
    for file in files {
        let Some(range) = file.ranges.first() else {
            continue;
        };
        let mapping = mapped(guest, &MappingSpec::whole(file, range))?;
        let unmet = unmet_flags(guest, facts, &mapping)?;
        unmapped(guest, &mapping)?;
        if let Some((flag, found)) = unmet {
            let must = if file.vma.set.contains(&flag) {
                ""
            } else {
                "no "
            };
            let expected = format!("{must}VM_{}", flag.name());
            return Ok(Some(Caught::rule(FLAGS, &file.name, expected, found)));
        }
    }
    Ok(None)
}

/// Each vma of a lazy file holds the file's device: what `vm_private_data` points to
/// begins with the count of those who do.
pub(super) fn counts(guest: &mut Guest, facts: &KernelFacts) -> Trial {
    if guest.sees_data_alone() {
        return Ok(None);
    }
    for strategy in [BASE[1], BASE[3]] {
        let Some(spec) = spec(guest, strategy, WINDOW) else {
            continue;
        };
        let mut first = None;
        for _ in 0..2 {
            let mapping = mapped(guest, &spec)?;
            if let found @ Some(_) = counted(guest, facts, &mapping, &mut first)? {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// Splits, forks and unmaps a mapping. `first` is the count with one mapping.
fn counted(
    guest: &mut Guest,
    facts: &KernelFacts,
    mapping: &Mapping,
    first: &mut Option<u32>,
) -> Trial {
    let alone = count(guest, facts, mapping.gva)?;
    let base = *first.get_or_insert(alone);
    let name = &mapping.spec.file.name;
    let wrong = |place: &str, more: u32, found: u32| {
        (found != base.wrapping_add(more)).then(|| {
            let expected = format!("{} references", base.wrapping_add(more));
            let place = format!("{name}, {place}");
            Caught::rule("reference count", place, expected, found.to_string())
        })
    };
    if let found @ Some(_) = wrong("mapped", 0, alone) {
        return Ok(found);
    }
    if let found @ Some(_) = in_use(guest, mapping, "in use")? {
        return Ok(found);
    }
    let middle = mapping.spec.npages / 2;
    let hole = Gva::new(mapping.gva.raw() + middle * PAGE_SIZE);
    needed(|| "munmap of a page".into(), guest.munmap(hole, PAGE_SIZE)?)?;
    let split = count(guest, facts, mapping.gva)?;
    needed(|| "fork".into(), guest.fork()?)?;
    let forked = count(guest, facts, mapping.gva)?;
    needed(|| "the child's exit".into(), guest.exit_child(0)?)?;
    let ended = count(guest, facts, mapping.gva)?;
    let behind = Gva::new(hole.raw() + PAGE_SIZE);
    let rest = (mapping.spec.npages - middle - 1) * PAGE_SIZE;
    needed(|| "munmap of the rest".into(), guest.munmap(behind, rest)?)?;
    let whole_again = count(guest, facts, mapping.gva)?;
    unmapped(guest, mapping)?;
    let all = [
        ("split in two", 1, split),
        ("split in two, and forked", 3, forked),
        ("split in two, the child gone", 1, ended),
        ("one part left", 0, whole_again),
    ];
    Ok(all
        .into_iter()
        .find_map(|(place, more, found)| wrong(place, more, found)))
}

fn count(guest: &Guest, facts: &KernelFacts, gva: Gva) -> Result<u32, HarnessError> {
    let view = guest.kernel(facts)?;
    let Some(area) = view.vma_at(gva)? else {
        return Ok(0);
    };
    let mut word = [0; 4];
    view.read(Gva::new(area.private_data), &mut word)?;
    Ok(u32::from_le_bytes(word))
}
