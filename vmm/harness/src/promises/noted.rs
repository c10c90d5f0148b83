//! What the kernel notes of a mapping, read by the host in its memory: the flags of its
//! area, and how many hold the pages of a buffer.

use addr::{Gfn, Gpa};
use contract::{Backing, Fork, VmaFlag, VmaFlags};
use guest_kernel::KernelFacts;
use wire::Prot;

use super::OnRange;
use super::kept::Kept;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec};
use crate::report::PromiseReport;
use crate::steps::{close, needed, open};

/// What the promise of an area's flags is called.
pub(crate) const FLAGS: &str = "vm_flags";
/// What the promise of references to pages is called.
pub(crate) const REFERENCES: &str = "page references";

impl OnRange<'_> {
    /// The area of each mapping has the flags that it must have, and none that it must
    /// not; also of one for loads alone.
    pub(super) fn flags(&mut self) -> Result<(), HarnessError> {
        if self.file.vma.is_empty() || self.guest.sees_data_alone() {
            return Ok(());
        }
        let Some(spec) = self.granted_most() else {
            return Ok(());
        };
        let facts = self.facts;
        let mode = self.file.widest_mode();
        let reading = self.granted(Prot::READ, spec.sharing, mode);
        let reading = reading.filter(|reading| reading.prot != spec.prot);
        for (name, spec) in [(FLAGS, Some(spec)), ("vm_flags, for loads alone", reading)] {
            let Some(spec) = spec else {
                continue;
            };
            self.keep(name, &spec, mode, &mut |guest, mapping| {
                flags_kept(guest, facts, mapping)
            })?;
        }
        Ok(())
    }

    /// Each entry for a page of a buffer holds it by one reference, which goes with it.
    pub(super) fn references(&mut self) -> Result<(), HarnessError> {
        let is_buffer = matches!(self.range.backing, Backing::Buffer { .. });
        if !is_buffer || self.guest.sees_data_alone() {
            return Ok(());
        }
        let Some(spec) = self.granted_most() else {
            return Ok(());
        };
        let path = self.file.path.clone();
        let fd = open(self.guest, &path, self.file.widest_mode())?;
        let kept = match spec.gpas(self.guest) {
            None => Kept {
                expected: "the driver has told the device of each page".into(),
                found: "of some it has not".into(),
                good: false,
                mismatch: None,
            },
            Some(pages) => {
                let mut counts = Counts::begin(self.guest, self.facts, pages)?;
                match self.guest.map(fd, &spec)? {
                    Err(refusal) => {
                        let wanted = format!("mmap maps {} pages", spec.npages);
                        Kept::refused(&wanted, refusal)
                    }
                    Ok(mapping) => {
                        held_meanwhile(self.guest, &mut counts, &mapping)?;
                        counts.kept()
                    }
                }
            }
        };
        close(self.guest, fd)?;
        let report = kept.report(self.file, REFERENCES);
        self.reports.push(report);
        Ok(())
    }
}

fn flags_kept(guest: &Guest, facts: &KernelFacts, mapping: &Mapping) -> Result<Kept, HarnessError> {
    let wanted = &mapping.spec.file.vma;
    let unmet = unmet_flags(guest, facts, mapping)?;
    Ok(Kept {
        expected: wanted.to_string(),
        good: unmet.is_none(),
        found: unmet.map_or_else(|| wanted.to_string(), |(_, found)| found),
        mismatch: None,
    })
}

/// The flags of a mapping's area, held against what its file promises.
///
/// # Errors
/// As [`unmet_flags`].
pub(crate) fn flags_report(
    guest: &Guest,
    facts: &KernelFacts,
    mapping: &Mapping,
) -> Result<PromiseReport, HarnessError> {
    let kept = flags_kept(guest, facts, mapping)?;
    Ok(kept.report(&mapping.spec.file, FLAGS))
}

/// The life of a mapping and of a child that has it too, with a count at each turn. The
/// first one that is wrong is the last, and the mapping stays: pages that are held by too
/// few would be free while others use them, and that is the guest's end.
fn held_meanwhile(
    guest: &mut Guest,
    counts: &mut Counts<'_>,
    mapping: &Mapping,
) -> Result<(), HarnessError> {
    let at_mmap = mapping.spec.before_touch();
    if !counts.expect(guest, "mapped", |page| u32::from(at_mmap.has(page)))? {
        return Ok(());
    }
    // What is wrong with the pages other looks find.
    guest.witness_in_use(mapping)?;
    if !counts.expect(guest, "in use", |_| 1)? {
        return Ok(());
    }
    needed(|| "fork".into(), guest.fork()?)?;
    let of_child = u32::from(mapping.spec.file.fork == Fork::Pages);
    counts.expect(guest, "forked", |_| 1 + of_child)?;
    needed(|| "the child's exit".into(), guest.exit_child(0)?)?;
    if !counts.expect(guest, "the child is gone", |_| 1)? {
        return Ok(());
    }
    let unmapped = guest.munmap(mapping.gva, mapping.spec.len_bytes())?;
    needed(|| "munmap".into(), unmapped)?;
    counts.expect(guest, "unmapped", |_| 0).map(drop)
}

/// References to pages, from a time on when they were not mapped.
struct Counts<'a> {
    facts: &'a KernelFacts,
    pages: Vec<Gpa>,
    before: Vec<i32>,
    /// The first count that was wrong: what it had to be, and what it was.
    wrong: Option<(String, String)>,
}

impl<'a> Counts<'a> {
    fn begin(guest: &Guest, facts: &'a KernelFacts, pages: Vec<Gpa>) -> Result<Self, HarnessError> {
        let before = page_references(guest, facts, &pages)?;
        let is_held = before.iter().all(|count| *count > 0);
        let wrong = (!is_held).then(|| {
            let wanted = "before mmap the driver holds each page".to_owned();
            (wanted, format!("{before:?}"))
        });
        Ok(Self {
            facts,
            pages,
            before,
            wrong,
        })
    }

    /// Counts anew: each page must be held by so many more than before it was mapped. Says
    /// whether all counts were right so far.
    fn expect(
        &mut self,
        guest: &Guest,
        place: &str,
        more: impl Fn(u64) -> u32,
    ) -> Result<bool, HarnessError> {
        let found = page_references(guest, self.facts, &self.pages)?;
        let wanted: Vec<i32> = (0..)
            .zip(&self.before)
            .map(|(page, before)| before.saturating_add_unsigned(more(page)))
            .collect();
        if found != wanted && self.wrong.is_none() {
            self.wrong = Some((format!("{place}: {wanted:?}"), format!("{found:?}")));
        }
        Ok(self.wrong.is_none())
    }

    fn kept(self) -> Kept {
        const WANTED: &str = "one more for each entry, and none when it is gone";
        let good = self.wrong.is_none();
        let as_wanted = || (WANTED.to_owned(), WANTED.to_owned());
        let (expected, found) = self.wrong.unwrap_or_else(as_wanted);
        Kept {
            expected,
            found,
            good,
            mismatch: None,
        }
    }
}

impl MappingSpec {
    /// Where each of its pages lies; `None` unless all do somewhere.
    fn gpas(&self, guest: &Guest) -> Option<Vec<Gpa>> {
        let plan = guest.plan();
        let gpa = |page| plan.gpa(self.device_page(plan, page)?);
        (0..self.npages).map(gpa).collect()
    }
}

/// `_refcount` of each page's `struct page`; 0 where there is none.
///
/// # Errors
/// [`HarnessError::Kernel`] when the kernel's memory cannot be read.
pub(crate) fn page_references(
    guest: &Guest,
    facts: &KernelFacts,
    pages: &[Gpa],
) -> Result<Vec<i32>, HarnessError> {
    let view = guest.kernel(facts)?;
    let mut counts = Vec::new();
    for gpa in pages {
        let page = view.page_of(Gfn::containing(*gpa))?;
        counts.push(page.map_or(0, |page| page.refcount));
    }
    Ok(counts)
}

/// The first flag that a mapping's area must have and has not, or the other way round,
/// with all that it has.
///
/// # Errors
/// [`HarnessError::Kernel`] when the kernel's memory cannot be read, and
/// [`HarnessError::NoFlag`] when it is not known which bit a flag is.
pub(crate) fn unmet_flags(
    guest: &Guest,
    facts: &KernelFacts,
    mapping: &Mapping,
) -> Result<Option<(VmaFlag, String)>, HarnessError> {
    let VmaFlags { set, clear } = &mapping.spec.file.vma;
    let unknown = |flag: &&VmaFlag| !facts.has_vm_flag(flag.name());
    if let Some(flag) = set.iter().chain(clear).find(unknown) {
        return Err(HarnessError::NoFlag { name: flag.name() });
    }
    let view = guest.kernel(facts)?;
    let area = view.vma_at(mapping.gva)?;
    let has: Vec<&str> = area.iter().flat_map(|area| area.flags.names()).collect();
    let wanted = &mapping.spec.file.vma;
    let unmet = wanted.unmet(|flag| has.contains(&flag.name()));
    Ok(unmet.map(|flag| (flag, has.join("|"))))
}
