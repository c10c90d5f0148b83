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

/// What is done to a mapping.
type Turn<'a> = &'a dyn Fn(&mut Guest) -> Result<(), HarnessError>;

/// Forks, splits and unmaps a mapping. `first` is the count with one mapping.
///
/// A child comes first, and a count that is wrong is the last: what is not counted is freed
/// while others use it as soon as anything of it is closed, and that is the guest's end.
fn counted(
    guest: &mut Guest,
    facts: &KernelFacts,
    mapping: &Mapping,
    first: &mut Option<u32>,
) -> Trial {
    let alone = count(guest, facts, mapping.gva)?;
    let base = *first.get_or_insert(alone);
    let name = &mapping.spec.file.name;
    let wrong = |guest: &Guest, place: &str, more: u32| -> Trial {
        let found = count(guest, facts, mapping.gva)?;
        let expected = base.wrapping_add(more);
        Ok((found != expected).then(|| {
            let expected = format!("{expected} references");
            let place = format!("{name}, {place}");
            Caught::rule("reference count", place, expected, found.to_string())
        }))
    };
    if let found @ Some(_) = wrong(guest, "mapped", 0)? {
        return Ok(found);
    }
    if let found @ Some(_) = in_use(guest, mapping, "in use")? {
        return Ok(found);
    }
    let middle = mapping.spec.npages / 2;
    let hole = Gva::new(mapping.gva.raw() + middle * PAGE_SIZE);
    let behind = Gva::new(hole.raw() + PAGE_SIZE);
    let rest = (mapping.spec.npages - middle - 1) * PAGE_SIZE;
    let turns: [(&str, u32, Turn<'_>); 6] = [
        ("forked", 1, &forked),
        ("the child gone", 0, &child_gone),
        ("split in two", 1, &|guest| unmap(guest, hole, PAGE_SIZE)),
        ("split in two, and forked", 3, &forked),
        ("split in two, the child gone", 1, &child_gone),
        ("one part left", 0, &|guest| unmap(guest, behind, rest)),
    ];
    for (place, more, turn) in turns {
        turn(guest)?;
        if let found @ Some(_) = wrong(guest, place, more)? {
            return Ok(found);
        }
    }
    unmapped(guest, mapping)?;
    Ok(None)
}

fn forked(guest: &mut Guest) -> Result<(), HarnessError> {
    needed(|| "fork".into(), guest.fork()?).map(drop)
}

fn child_gone(guest: &mut Guest) -> Result<(), HarnessError> {
    needed(|| "the child's exit".into(), guest.exit_child(0)?).map(drop)
}

fn unmap(guest: &mut Guest, gva: Gva, len_bytes: u64) -> Result<(), HarnessError> {
    needed(|| "munmap of a part".into(), guest.munmap(gva, len_bytes)?)
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
