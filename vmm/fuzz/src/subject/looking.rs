//! Looks at everything once a case has been gone through.

use std::collections::BTreeMap;
use std::time::Instant;

use harness::HarnessError;
use harness::model::{Model, Wrong};
use harness::observe::Judged;
use harness::signals::Signal;
use monitor::Offer;

use super::Subject;
use crate::areas::{self, Inside};
use crate::case::Case;
use crate::leavings;
use crate::ran::Ran;
use crate::verdict::Verdict;

impl Subject {
    /// The first report of the guest's kernel, since the snapshot, that something is wrong
    /// with it.
    pub(super) fn complaint(&mut self) -> Result<Option<Verdict>, HarnessError> {
        let is_logged = self.guest.take_log_news();
        // The guest's word alone does not do.
        let is_printed = self.guest.take_console_news() && !self.guest.console_signals().is_empty();
        if !is_logged && !is_printed {
            return Ok(None);
        }
        let reports = self.guest.kernel_signals()?;
        Ok(self.first_new(&reports))
    }

    fn first_new(&self, reports: &[Signal]) -> Option<Verdict> {
        reports.get(self.known_reports).map(Verdict::complaint)
    }

    /// What the driver did to a guest that could not go on, in its kernel's own words where
    /// it had any.
    pub(super) fn blame(&self, error: HarnessError) -> Result<Verdict, HarnessError> {
        let verdict = Verdict::blame(error)?;
        // Nothing more is asked of it: it may have ended.
        let reports = self.guest.console_signals();
        Ok(self.first_new(&reports).unwrap_or(verdict))
    }

    /// Looks at every page of every process, and at what the kernel notes of them.
    pub(super) fn look(
        &mut self,
        model: &Model,
        ran: &mut Ran,
    ) -> Result<Option<Verdict>, HarnessError> {
        let start = Instant::now();
        let mut judged = Judged::default();
        self.offer_all(model)?;
        let looked = self.look_at_all(model, &mut judged);
        ran.pages += judged.present + judged.absent;
        let unheard = judged.unwitnessed.into_iter();
        ran.unheard
            .extend(unheard.map(|(link, why)| (link.name().to_owned(), why)));
        let verdict = match looked {
            Ok(Some(wrong)) => Some(Verdict::of(wrong)),
            Ok(None) => {
                let inside = known(&self.inside, model);
                let verdict = areas::look(&self.guest, &self.facts, model, inside)?;
                match verdict.or_else(|| self.kept_by_device(model)) {
                    None => self.complaint()?,
                    verdict => verdict,
                }
            }
            Err(error) => Some(self.blame(error)?),
        };
        self.times.evidence += start.elapsed();
        Ok(verdict)
    }

    /// What the device has less of for the time being is no fault of the driver's: for a look
    /// it has all, and the guest is told nothing of either.
    fn offer_all(&mut self, model: &Model) -> Result<(), HarnessError> {
        for (window, _) in model.offered() {
            let vm = self.guest.vm_mut();
            vm.offer_window(window, Offer::AsConfigured)?;
        }
        Ok(())
    }

    /// What a device that was taken away from its driver was not told to forget: it would go
    /// on reading and writing pages that are somebody else's by then.
    fn kept_by_device(&self, model: &Model) -> Option<Verdict> {
        if model.is_bound() {
            return None;
        }
        let buffers = self.guest.vm().buffers();
        let pages = buffers.iter().flat_map(|buffer| &buffer.pages);
        let first = pages.flatten().next()?;
        Some(Verdict::rule(
            "the device's buffer table",
            "no page once the driver is unbound",
            format!("a page at {first}"),
        ))
    }

    /// Looks at every page of every process.
    pub(super) fn look_at_all(
        &mut self,
        model: &Model,
        judged: &mut Judged,
    ) -> Result<Option<Wrong>, HarnessError> {
        if self.had_less {
            return self.guest.look_at_all_in_use_first(model, judged);
        }
        self.guest.look_at_all(model, judged)
    }

    /// Looks at what is left when everything is closed.
    pub(super) fn leave(
        &mut self,
        case: &Case,
        model: &mut Model,
    ) -> Result<Option<Verdict>, HarnessError> {
        let start = Instant::now();
        self.offer_all(model)?;
        let inside = known(&self.inside, model);
        let looked = leavings::look(
            &mut self.guest,
            (&self.facts, &self.world),
            (case, model),
            (&self.before, inside),
        );
        let verdict = match looked {
            Ok(None) => self.complaint()?,
            Ok(verdict) => verdict,
            Err(error) => Some(self.blame(error)?),
        };
        self.times.leavings += start.elapsed();
        Ok(verdict)
    }
}

/// How files count those who hold them: known of a driver that has kept its device.
fn known<'i>(inside: &'i Inside, model: &Model) -> &'i Inside {
    const UNKNOWN: &Inside = &Inside {
        counts: BTreeMap::new(),
    };
    if model.was_unbound() { UNKNOWN } else { inside }
}
