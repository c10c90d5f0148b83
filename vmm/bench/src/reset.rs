//! Back to a snapshot, by the pages that changed since.

use addr::{Gpa, Gva, PAGE_SIZE};
use harness::{Guest, GuestSnapshot, Start};
use monitor::SlotUse;
use wire::{Prot, Reply, Request, Sharing, Value};

use crate::Field;
use crate::error::{BenchError, chain};
use crate::figure::Figure;
use crate::fit::Growth;
use crate::goals::{GROWTH_RESET, RESET_VS_COPY, RESET_VS_LOADVM};
use crate::guests::guest_config;
use crate::mapped::granted;
use crate::qemu::Qemu;
use crate::report::{Curve, Report};
use crate::samples::{Samples, alternate, timed};

/// RAM of the guest that is reset against a copy of it.
const RAM_LEN_BYTES: u64 = 64 << 20;
/// Pages that its agent stores to before each reset; what its kernel and the message area
/// come to is added to them.
const NPAGES: u64 = 50;
const TURNS: usize = 15;
const LOADVM_TURNS: usize = 5;

/// RAM of the guest that stores to ever more pages.
const ROOMY_LEN_BYTES: u64 = 192 << 20;
const SIZES: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];
/// The largest in a hurry.
const QUICK_NPAGES: u64 = 1024;
const GROWTH_TURNS: usize = 5;

pub(crate) fn measure(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    let ours = against_copy(field, report)?;
    report.add(match loadvm(field) {
        Ok(rival) => Figure::against(&RESET_VS_LOADVM, &ours, &rival),
        Err(why) => Figure::unmeasured(&RESET_VS_LOADVM, why),
    });
    growth(field, report)
}

/// A guest with pages to store to, and how it stood before it did.
struct Subject {
    guest: Guest,
    pages: Gva,
    snapshot: GuestSnapshot,
    /// Pages that the last reset put back.
    put_back: u64,
}

impl Subject {
    fn new(field: &Field<'_>, ram_len_bytes: u64, npages: u64) -> Result<Self, BenchError> {
        let config = guest_config(&field.plan.kernel, &field.plan.initramfs, ram_len_bytes);
        let mut guest = Guest::start(&config, Start::Quickest)?;
        let pages = memory(&mut guest, npages * PAGE_SIZE)?;
        store(&mut guest, pages, npages)?;
        let snapshot = guest.snapshot()?;
        Ok(Self {
            guest,
            pages,
            snapshot,
            put_back: 0,
        })
    }

    /// The agent stores to this many pages.
    fn dirty(&mut self, npages: u64) -> Result<(), BenchError> {
        store(&mut self.guest, self.pages, npages)
    }

    /// Gives the microseconds that it takes.
    fn reset(&mut self) -> Result<f64, BenchError> {
        let (seconds, stats) = timed(|| self.guest.reset(&self.snapshot));
        self.put_back = stats?.pages;
        Ok(seconds * 1e6)
    }
}

/// Memory of the agent's own.
fn memory(guest: &mut Guest, len_bytes: u64) -> Result<Gva, BenchError> {
    let reply = guest.request(&Request::Map {
        fd: None,
        fixed_at: None,
        len_bytes,
        prot: Prot::READ_WRITE,
        sharing: Sharing::Private,
        offset_bytes: 0,
    })?;
    match reply {
        Reply::Done(Value::Address(address)) => Ok(Gva::new(address)),
        other => Err(BenchError::Guest {
            asked: "memory",
            answer: format!("{other:?}"),
        }),
    }
}

fn store(guest: &mut Guest, at: Gva, npages: u64) -> Result<(), BenchError> {
    let words = (0..npages).map(|page| page % 100).collect();
    granted("stores", guest.store(at, PAGE_SIZE, words)?)
}

/// The same memory put back by the pages that changed, and by copying all of it.
fn against_copy(field: &Field<'_>, report: &mut Report) -> Result<Samples, BenchError> {
    let mut subject = Subject::new(field, RAM_LEN_BYTES, NPAGES)?;
    let slots = subject.guest.vm().memslots().iter();
    let ram = slots.filter(|slot| slot.used_for == SlotUse::Ram);
    let len_bytes: u64 = ram.map(|slot| slot.len_bytes).sum();
    let mut all = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
    subject.guest.vm().read(Gpa::new(0), &mut all)?;
    let mut pages = Samples::default();
    let mut reset = |subject: &mut Subject| {
        subject.dirty(NPAGES)?;
        let us = subject.reset()?;
        pages.push(subject.put_back as f64);
        Ok(us)
    };
    let mut copy = |subject: &mut Subject| {
        subject.dirty(NPAGES)?;
        let (seconds, copied) = timed(|| subject.guest.vm_mut().write(Gpa::new(0), &all));
        copied?;
        // The rest of the guest's state goes back, too, but that is not the rival's time.
        subject.reset()?;
        Ok(seconds * 1e6)
    };
    let takes = [&mut reset as _, &mut copy as _];
    let [ours, rival] = alternate(&mut subject, field.plan.turns(TURNS), takes)?;
    let note = pages
        .median()
        .map(|pages| format!("{pages:.0} pages put back of which the agent stored to {NPAGES}"));
    report.add(Figure::against(&RESET_VS_COPY, &ours, &rival).noted(note.unwrap_or_default()));
    Ok(ours)
}

/// Microseconds of QEMU's `loadvm`, or why there are none.
fn loadvm(field: &Field<'_>) -> Result<Samples, String> {
    let qemu = Qemu::start(field, RAM_LEN_BYTES).and_then(Qemu::save);
    let measured = qemu.and_then(|mut qemu| {
        let mut load = |_: &mut ()| Ok(qemu.load()? * 1e6);
        let takes = [&mut load as _];
        alternate(&mut (), field.plan.turns(LOADVM_TURNS), takes)
    });
    let [samples] = measured.map_err(|error| chain(&error))?;
    Ok(samples)
}

/// Ever more pages.
fn growth(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    let most = if field.plan.quick {
        QUICK_NPAGES
    } else {
        u64::MAX
    };
    let sizes = SIZES.into_iter().filter(|npages| *npages <= most);
    let largest = sizes.clone().max().unwrap_or(1);
    let mut subject = Subject::new(field, ROOMY_LEN_BYTES, largest)?;
    let mut points = Vec::new();
    for npages in sizes {
        let mut put_back = Samples::default();
        let mut reset = |subject: &mut Subject| {
            subject.dirty(npages)?;
            let us = subject.reset()?;
            put_back.push(subject.put_back as f64);
            Ok(us)
        };
        let takes = [&mut reset as _];
        let [samples] = alternate(&mut subject, field.plan.turns(GROWTH_TURNS), takes)?;
        points.extend(put_back.median().zip(samples.median()));
    }
    let growth = Growth::of(&points);
    report.add(growth.figure(&GROWTH_RESET));
    report.curves.push(Curve {
        name: "reset",
        size: "pages put back",
        unit: "us",
        points,
    });
    Ok(())
}
