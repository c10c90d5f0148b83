//! The part of the standard check that holds the later life of a mapping against
//! its contract: mprotect, mremap, fork, stores to a private mapping; and what the kernel
//! notes of it meanwhile.

mod kept;
mod noted;
mod rights;

pub(crate) use noted::{FLAGS, REFERENCES, flags_report, page_references, unmet_flags};

use std::sync::Arc;

use addr::{Gva, PAGE_SIZE};
use contract::{Access, Answer, FileContract, Fork, RangeContract};
use guest_kernel::KernelFacts;
use wire::{OpenMode, Prot, Sharing};
use witness::stamp::SLOT;

use crate::answers::look_at_granted;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec, Presence};
use crate::outcome::Refusal;
use crate::report::PromiseReport;
use crate::steps::{close, needed, open};
use kept::Kept;

/// Pages of a mapping that promises are tried on, where the file lets it be so short.
const TRIED_NPAGES: u64 = 13;

/// Tries everything that `file` promises of its mappings' later life.
///
/// # Errors
/// [`HarnessError`] when that cannot be done.
pub(crate) fn check_promises(
    guest: &mut Guest,
    facts: &KernelFacts,
    file: &Arc<FileContract>,
) -> Result<Vec<PromiseReport>, HarnessError> {
    let mut reports = Vec::new();
    reports.extend(writers_refused(guest, file)?);
    for range in &file.ranges {
        let mut on_range = OnRange {
            guest: &mut *guest,
            facts,
            file,
            range,
            reports: &mut reports,
        };
        on_range.rights_not_had()?;
        on_range.rights_of_the_open_file()?;
        on_range.rights_raised()?;
        on_range.rights_lowered()?;
        on_range.growth()?;
        on_range.fork()?;
        on_range.private_stores()?;
        on_range.flags()?;
    }
    Ok(reports)
}

/// Holds who holds the pages of buffers against what `file` shows of them. It comes before
/// all else that is done to the file: pages that are let go too early are nobody's once
/// their first mapping is gone, and whatever uses them then is the guest's end.
///
/// # Errors
/// As [`check_promises`].
pub(crate) fn check_references(
    guest: &mut Guest,
    facts: &KernelFacts,
    file: &Arc<FileContract>,
) -> Result<Vec<PromiseReport>, HarnessError> {
    let mut reports = Vec::new();
    for range in &file.ranges {
        let mut on_range = OnRange {
            guest: &mut *guest,
            facts,
            file,
            range,
            reports: &mut reports,
        };
        on_range.references()?;
    }
    Ok(reports)
}

/// A file that is for reading alone cannot be opened otherwise.
fn writers_refused(
    guest: &mut Guest,
    file: &Arc<FileContract>,
) -> Result<Option<PromiseReport>, HarnessError> {
    let Some(errno) = file.refuses_writers else {
        return Ok(None);
    };
    let mut answer = guest.open(&file.path, OpenMode::ReadWrite)?;
    if let Ok(fd) = answer {
        close(guest, fd)?;
    } else {
        answer = guest.open(&file.path, OpenMode::WriteOnly)?;
        if let Ok(fd) = answer {
            close(guest, fd)?;
        }
    }
    let kept = Kept::answered(Refusal::Errno(errno.raw()), answer.map(drop));
    Ok(Some(kept.report(file, "open for writing")))
}

/// What is done to a mapping, and what came of it.
type Deed<'a> = dyn FnMut(&mut Guest, &Mapping) -> Result<Kept, HarnessError> + 'a;

/// The promises about one range of a file.
struct OnRange<'a> {
    guest: &'a mut Guest,
    facts: &'a KernelFacts,
    file: &'a Arc<FileContract>,
    range: &'a RangeContract,
    reports: &'a mut Vec<PromiseReport>,
}

impl OnRange<'_> {
    /// No mremap makes a mapping longer.
    fn growth(&mut self) -> Result<(), HarnessError> {
        let Some(spec) = self.granted_most() else {
            return Ok(());
        };
        let refusal = Refusal::Errno(self.file.growth.raw());
        let name = "mremap to one page more";
        self.keep(
            name,
            &spec,
            self.file.widest_mode(),
            &mut |guest, mapping| {
                let len_bytes = mapping.spec.len_bytes();
                let longer = len_bytes.saturating_add(PAGE_SIZE);
                match guest.mremap(mapping.gva, len_bytes, longer, true)? {
                    Err(found) => Ok(Kept::answered(refusal, Err(found))),
                    Ok(gva) => {
                        let mut grown = mapping.clone();
                        grown.gva = gva;
                        grown.spec.npages += 1;
                        let mismatch = look_at_granted(guest, &grown)?;
                        needed(|| "munmap".into(), guest.munmap(gva, longer)?)?;
                        Ok(Kept {
                            mismatch,
                            ..Kept::answered(refusal, Ok(()))
                        })
                    }
                }
            },
        )
    }

    /// A child has of a mapping what is promised, and takes nothing from its parent.
    fn fork(&mut self) -> Result<(), HarnessError> {
        let Some(spec) = self.granted_most() else {
            return Ok(());
        };
        let inherits = self.file.fork;
        self.keep(
            "fork",
            &spec,
            self.file.widest_mode(),
            &mut |guest, mapping| {
                let mut looks = vec![guest.witness_in_use(mapping)?];
                needed(|| "fork".into(), guest.fork()?)?;
                let at_first = match inherits {
                    Fork::Pages => Presence::All,
                    Fork::OnTouch | Fork::Nothing => Presence::Nothing,
                };
                looks.push(guest.witness(mapping, &at_first)?);
                if inherits != Fork::Nothing {
                    looks.push(guest.witness_in_use(mapping)?);
                }
                needed(|| "the child's exit".into(), guest.exit_child(0)?)?;
                looks.push(guest.witness(mapping, &Presence::All)?);
                looks.push(guest.witness_in_use(mapping)?);
                Ok(Kept::looked(PAGES, looks))
            },
        )
    }

    /// What is stored to a private mapping never reaches the device.
    fn private_stores(&mut self) -> Result<(), HarnessError> {
        let Some(spec) = self.granted(Prot::READ_WRITE, Sharing::Private, self.file.widest_mode())
        else {
            return Ok(());
        };
        let name = "stores to a MAP_PRIVATE mapping";
        self.keep(
            name,
            &spec,
            self.file.widest_mode(),
            &mut |guest, mapping| {
                let expected = "they reach no page of the device";
                // No page has such a word in its slot.
                let words: Vec<u64> = (0..mapping.spec.npages).collect();
                let slots = Gva::new(mapping.gva.raw() + SLOT);
                let stored = guest.store(slots, PAGE_SIZE, words.clone())?;
                if let Err(refusal) = stored {
                    return Ok(Kept::refused(expected, refusal));
                }
                let reached = guest.first_disturbed(&words);
                Ok(Kept {
                    expected: expected.into(),
                    good: reached.is_none(),
                    found: match reached {
                        None => expected.into(),
                        Some(page) => format!("{} has changed", guest.plan().name(page)),
                    },
                    mismatch: None,
                })
            },
        )
    }

    /// The most that a shared mapping of this range may do.
    fn most(&self) -> Prot {
        let Access { read, write, exec } = self.range.access;
        Prot { read, write, exec }
    }

    /// A shared mapping with the most rights that it can have from the start: that to
    /// execute may be had by mprotect alone.
    fn granted_most(&self) -> Option<MappingSpec> {
        let most = self.most();
        let without_exec = Prot {
            exec: false,
            ..most
        };
        let mode = self.file.widest_mode();
        [most, without_exec]
            .into_iter()
            .find_map(|prot| self.granted(prot, Sharing::Shared, mode))
    }

    /// A mapping of some pages of this range, or else of all of them, that the file
    /// grants; `None` when it grants neither.
    fn granted(&self, prot: Prot, sharing: Sharing, mode: OpenMode) -> Option<MappingSpec> {
        let of_length = |npages| MappingSpec {
            npages,
            prot,
            sharing,
            ..MappingSpec::whole(self.file, self.range)
        };
        let short = self.range.npages.min(TRIED_NPAGES);
        [short, self.range.npages]
            .map(of_length)
            .into_iter()
            .find(|spec| self.file.predict(&spec.request(mode)) == Answer::Maps)
    }

    /// Tries one promise on a mapping of its own and reports what came of it.
    fn keep(
        &mut self,
        name: &str,
        spec: &MappingSpec,
        mode: OpenMode,
        deed: &mut Deed<'_>,
    ) -> Result<(), HarnessError> {
        let fd = open(self.guest, &self.file.path, mode)?;
        let kept = match self.guest.map(fd, spec)? {
            Ok(mapping) => {
                let kept = deed(self.guest, &mapping)?;
                let unmapped = self.guest.munmap(mapping.gva, spec.len_bytes())?;
                needed(|| "munmap".into(), unmapped)?;
                kept
            }
            Err(refusal) => Kept::refused(&format!("mmap maps {} pages", spec.npages), refusal),
        };
        close(self.guest, fd)?;
        self.reports.push(kept.report(self.file, name));
        Ok(())
    }
}

/// What is expected of a look.
const PAGES: &str = "each page as in the contract";
