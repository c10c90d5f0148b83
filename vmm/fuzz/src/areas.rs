//! What the kernel notes of the mappings that are there, read by the host in its memory.

use std::collections::BTreeMap;

use addr::Gva;
use guest_kernel::{KernelFacts, VmaView};
use harness::model::{Area, Model, Pages, Process, Shows};
use harness::{Guest, HarnessError};
use wire::Sharing;

use crate::verdict::Verdict;

/// How a file of the project's own driver counts those who hold it: what
/// `vm_private_data` of a lazy mapping points to begins with the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Where it stands in the guest's kernel.
    pub at: Gva,
    /// With neither a mapping nor an open file.
    pub alone: u32,
    /// More for each open file.
    pub each_open: u32,
}

/// What is known of a driver besides its contract.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// Counts, by the number of the file.
    pub counts: BTreeMap<usize, Count>,
}

/// Holds the kernel's own notes of each mapping of each process against the model.
pub(crate) fn look(
    guest: &Guest,
    facts: &KernelFacts,
    model: &Model,
    inside: &Inside,
) -> Result<Option<Verdict>, HarnessError> {
    let view = guest.kernel(facts)?;
    let mut holders: BTreeMap<usize, (u32, u32)> = BTreeMap::new();
    for (process, space) in model.spaces() {
        let Some(pid) = model.pid(process) else {
            continue;
        };
        let task = view.process(pid)?;
        for (gva, area) in space.areas() {
            let Shows::File(pages) = &area.shows else {
                continue;
            };
            let Some(vma) = view.vma_of(&task, gva)? else {
                return Ok(Some(no_area(process, gva)));
            };
            if let Some(verdict) = bounds(gva, area, &vma) {
                return Ok(Some(verdict));
            }
            if let Some(verdict) = flags(area, pages, &vma) {
                return Ok(Some(verdict));
            }
            if let Some(file) = number(model, pages)
                && inside.counts.contains_key(&file)
            {
                let mut word = [0; 4];
                if view.read(Gva::new(vma.private_data), &mut word).is_err() {
                    let found = format!("{:#x}, where nothing is", vma.private_data);
                    let expected = "a pointer to the file's device";
                    return Ok(Some(Verdict::rule("vm_private_data", expected, found)));
                }
                let holder = holders.entry(file).or_default();
                holder.0 += 1;
                holder.1 = u32::from_le_bytes(word);
            }
        }
    }
    Ok(counts(model, inside, &holders))
}

fn no_area(process: Process, gva: Gva) -> Verdict {
    let expected = format!("an area at {gva} in process {}", process.0);
    Verdict::rule("vm_area", expected, "none")
}

/// Number of the file that an area shows.
fn number(model: &Model, pages: &Pages) -> Option<usize> {
    let mut files = model.files().iter();
    files.position(|file| file.name == pages.file.name)
}

fn bounds(gva: Gva, area: &Area, vma: &VmaView) -> Option<Verdict> {
    let expected = format!("{} pages from {gva}", area.npages);
    let found = format!("{} pages from {}", vma.npages(), vma.start);
    (expected != found).then(|| Verdict::rule("vm_area", expected, found))
}

fn flags(area: &Area, pages: &Pages, vma: &VmaView) -> Option<Verdict> {
    let names = vma.flags.names();
    let has = |name: &str| names.contains(&name);
    let of_model = [
        ("READ", area.prot.read),
        ("WRITE", area.prot.write),
        ("EXEC", area.prot.exec),
        ("DONTCOPY", !area.inherited),
        ("MAYSHARE", pages.sharing == Sharing::Shared),
        ("MAYREAD", area.may.read),
        ("MAYWRITE", area.may.write),
        ("MAYEXEC", area.may.exec),
    ];
    // What a contract says of flags holds when the mapping is made; later on the model knows.
    let promised = &pages.file.vma;
    let set = promised.set.iter().map(|flag| (flag.name(), true));
    let clear = promised.clear.iter().map(|flag| (flag.name(), false));
    let others = set
        .chain(clear)
        .filter(|(name, _)| of_model.iter().all(|(known, _)| known != name));
    let mut wanted = of_model.iter().copied().chain(others);
    let (name, is_set) = wanted.find(|(name, set)| has(name) != *set)?;
    let not = if is_set { "" } else { "no " };
    let expected = format!("{not}VM_{name}");
    Some(Verdict::rule("vm_flags", expected, names.join("|")))
}

fn counts(
    model: &Model,
    inside: &Inside,
    holders: &BTreeMap<usize, (u32, u32)>,
) -> Option<Verdict> {
    holders.iter().find_map(|(file, (areas, found))| {
        let count = inside.counts.get(file)?;
        let opens = u32::try_from(model.opens(*file)).ok()?;
        let wanted = count
            .alone
            .wrapping_add(*areas)
            .wrapping_add(count.each_open.wrapping_mul(opens));
        (wanted != *found).then(|| {
            Verdict::rule(
                "reference count",
                format!("{wanted} references"),
                format!("{found} references"),
            )
        })
    })
}
