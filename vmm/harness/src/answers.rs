//! The part of the standard check that asks a file for what its contract suggests,
//! hostile or not, and compares every answer with the model's.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::PAGE_SIZE;
use contract::{Answer, FileContract, Named, Request};
use wire::{Fd, OpenMode};
use witness::Mismatch;

use crate::check_watch::Watching;
use crate::course::check_mapping;
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, MappingSpec};
use crate::outcome::{Outcome, Refusal};
use crate::report::{MappingReport, RefusalReport, Verdict};
use crate::steps::{close, needed, open};
use crate::tally::Tally;

/// Most pages of a mapping that are looked at which should not have been granted.
const LOOKED_AT: u64 = 2048;
/// Pages that are touched of such a mapping, of those that the file does not have.
const TOUCHED: usize = 4;

/// What a file answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Mappings that had to be granted, each followed page by page.
    pub(crate) mappings: Vec<MappingReport>,
    /// Requests that had to be refused.
    pub(crate) refusals: Vec<RefusalReport>,
    /// The last request.
    pub(crate) doing: String,
}

/// Asks `file` for each request that its contract suggests, and adds to `answers`.
///
/// # Errors
/// [`HarnessError`] when the check could not be made, or not to its end.
pub(crate) fn check_answers(
    guest: &mut Guest,
    file: &Arc<FileContract>,
    answers: &mut Answers,
    (tally, watching): (&mut Tally, &mut Watching),
) -> Result<(), HarnessError> {
    for Named { name, request } in file.requests() {
        let name = format!("{}: {name}", file.name);
        answers.doing.clone_from(&name);
        match file.predict(&request) {
            Answer::Maps => {
                let fd = open(guest, &file.path, request.open)?;
                let spec = MappingSpec::of_request(file, &request);
                let report = check_mapping(guest, fd, &spec, name, (&mut *tally, &mut *watching))?;
                close(guest, fd)?;
                answers.mappings.push(report);
            }
            Answer::Refused(errno) => {
                let expected = Refusal::Errno(errno.raw());
                let report = check_refusal(guest, file, &request, name, expected)?;
                let is_wrong = report.verdict != Verdict::Pass;
                answers.refusals.push(report);
                // A driver that has no bounds takes the guest down with a request or two.
                if is_wrong && guest.stops_at_first() {
                    break;
                }
            }
            // There is nothing to hold the answer against.
            Answer::Undetermined(_) => {}
        }
    }
    Ok(())
}

fn check_refusal(
    guest: &mut Guest,
    file: &Arc<FileContract>,
    request: &Request,
    name: String,
    expected: Refusal,
) -> Result<RefusalReport, HarnessError> {
    let fd = open(guest, &file.path, request.open)?;
    let answer = ask(guest, fd, request)?;
    close(guest, fd)?;
    let (found, mismatch) = match answer {
        Ok(gva) => {
            let granted = Mapping {
                id: guest.next_mapping(),
                spec: MappingSpec::of_request(file, request),
                gva,
            };
            let mismatch = look_at_granted(guest, &granted)?;
            let unmapped = guest.munmap(gva, granted.spec.len_bytes())?;
            needed(|| "munmap".into(), unmapped)?;
            (format!("mapped at {gva}"), mismatch)
        }
        Err(refusal) => (refusal.to_string(), None),
    };
    let verdict = Verdict::of(answer == Err(expected));
    Ok(RefusalReport {
        name,
        expected: expected.to_string(),
        found,
        verdict,
        mismatch,
    })
}

fn ask(guest: &mut Guest, fd: Fd, request: &Request) -> Result<Outcome<addr::Gva>, HarnessError> {
    let Request {
        open: _,
        offset_bytes,
        len_bytes,
        prot,
        sharing,
    } = *request;
    guest.mmap(fd, offset_bytes, len_bytes, prot, sharing)
}

/// The first page of a mapping that should not have been granted which the file does
/// not have, or not so.
///
/// # Errors
/// [`HarnessError`] when that cannot be told.
pub(crate) fn look_at_granted(
    guest: &mut Guest,
    mapping: &Mapping,
) -> Result<Option<Mismatch>, HarnessError> {
    let mut seen = mapping.clone();
    seen.spec.npages = seen.spec.npages.min(LOOKED_AT);
    let MappingSpec {
        file,
        first_page,
        npages,
        ..
    } = &seen.spec;
    // What is wrong without a touch is not touched: an entry that no processor takes would
    // stop the guest's kernel.
    let judged = guest.witness(&seen, &seen.spec.before_touch())?;
    if judged.mismatch.is_some() {
        return Ok(judged.mismatch);
    }
    let has = |page: &u64| file.shown(*first_page, *page).is_some();
    let outside = (0..*npages).filter(|page| !has(page)).take(TOUCHED);
    let touched: BTreeSet<u64> = outside.chain([0]).collect();
    for page in &touched {
        if let Some(gva) = seen.page_gva(*page) {
            // A load that is refused brings nothing in.
            let _ = guest.load(gva, PAGE_SIZE, 1)?;
        }
    }
    let judged = guest.witness(&seen, &seen.after_touch(guest.plan(), &touched))?;
    Ok(judged.mismatch)
}

impl MappingSpec {
    /// What `request` asks of a file.
    pub(crate) fn of_request(file: &Arc<FileContract>, request: &Request) -> Self {
        Self {
            file: Arc::clone(file),
            first_page: request.first_page(),
            npages: request.npages(),
            prot: request.prot,
            sharing: request.sharing,
        }
    }

    /// This mapping as a request to a file that is open in `mode`.
    pub(crate) const fn request(&self, mode: OpenMode) -> Request {
        Request {
            open: mode,
            offset_bytes: self.first_page.saturating_mul(PAGE_SIZE),
            len_bytes: self.len_bytes(),
            prot: self.prot,
            sharing: self.sharing,
        }
    }
}
