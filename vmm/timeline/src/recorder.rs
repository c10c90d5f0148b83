//! Recording: an instance with its tracepoints on, its marks, and what was read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;

use addr::Gfn;

use crate::decode::{Decoded, Formats, KINDS};
use crate::error::Error;
use crate::event::{Event, Loss, What};
use crate::format::PageFormat;
use crate::instance::{Instance, tracefs};
use crate::page::read_page;
use crate::setup::{enable, page_format};
use crate::stats::Stats;

/// Where KVM says whether its TDP MMU is on.
const TDP_MMU: &str = "/sys/module/kvm/parameters/tdp_mmu";
/// Records that are kept until they are taken.
const MOST_EVENTS: usize = 1 << 20;
/// Different losses that are kept; those after them repeat what is known.
const MOST_LOSSES: usize = 64;

/// What to record, and in how much room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Guest frames whose entries are of interest.
    pub gfns: Range<Gfn>,
    /// Size of the buffer of each CPU in KiB. A record takes 40 to 72 bytes.
    pub buffer_kib: u32,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Records, in order.
    pub events: Vec<Event>,
    /// Records that are not to be had.
    pub losses: Vec<Loss>,
}

/// A recording under way.
#[derive(Debug)]
pub struct Recorder {
    // In the order of dropping: the instance is removed after its files are closed.
    cpus: Vec<Cpu>,
    marker: File,
    formats: Formats,
    pages: PageFormat,
    page: Vec<u8>,
    pending: Vec<Event>,
    losses: Vec<Loss>,
    not_kept: u64,
    pages_of_a_buffer: usize,
    instance: Instance,
}

#[derive(Debug)]
struct Cpu {
    number: u32,
    pipe: File,
    /// Records that came.
    read: u64,
    /// Its buffer's account when it was last read.
    stats: Stats,
}

impl Recorder {
    /// Begins to record.
    ///
    /// # Errors
    /// [`Error`], with what would help.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let tracefs = tracefs()?;
        let formats = Formats::read(&tracefs.join("events"))?;
        // Kernels that have no such switch have no other MMU.
        if fs::read_to_string(TDP_MMU).is_ok_and(|value| matches!(value.trim(), "N" | "0")) {
            return Err(Error::NoTdpMmu);
        }
        let instance = Instance::new(tracefs)?;
        instance.set("tracing_on", "0")?;
        instance.set("current_tracer", "nop")?;
        // This resets the buffers.
        instance.set("trace_clock", "counter")?;
        // Of what does not fit the oldest is lost, and the page that follows says so.
        instance.set("options/overwrite", "1")?;
        instance.set("options/markers", "1")?;
        instance.set("buffer_size_kb", &options.buffer_kib.to_string())?;
        for kind in KINDS.iter().filter(|kind| kind.system != "ftrace") {
            enable(&instance, kind, &options.gfns, &formats)?;
        }
        let pages = page_format(&instance)?;
        let cpus = instance.cpus()?.into_iter().map(|number| {
            let pipe = instance.open(&format!("per_cpu/cpu{number}/trace_pipe_raw"), false)?;
            Ok(Cpu {
                number,
                pipe,
                read: 0,
                stats: Stats::default(),
            })
        });
        let cpus = cpus.collect::<Result<Vec<_>, Error>>()?;
        let marker = instance.open("trace_marker_raw", true)?;
        instance.set("tracing_on", "1")?;
        let buffer_bytes = usize::try_from(options.buffer_kib).unwrap_or(usize::MAX);
        Ok(Self {
            cpus,
            marker,
            formats,
            page: vec![0; pages.page_bytes()],
            pages_of_a_buffer: buffer_bytes.saturating_mul(1024) / pages.page_bytes() + 2,
            pages,
            pending: Vec::new(),
            losses: Vec::new(),
            not_kept: 0,
            instance,
        })
    }

    /// Tracepoints that this kernel lacks and that can be done without.
    pub fn absent(&self) -> &[&'static str] {
        self.formats.absent()
    }

    /// Puts a mark of this number into the record.
    ///
    /// # Errors
    /// [`Error::File`] when the kernel does not take it.
    pub fn mark(&mut self, number: u32) -> Result<(), Error> {
        self.marker
            .write_all(&number.to_le_bytes())
            .map_err(|source| Error::File {
                action: "write a mark to".into(),
                path: self.instance.path("trace_marker_raw"),
                source,
            })
    }

    /// Puts a mark of this number into the record, and takes all that was recorded up
    /// to it. What threads of the kernel add meanwhile is taken the next time.
    ///
    /// # Errors
    /// [`Error`] when the buffers can no longer be read.
    pub fn take(&mut self, number: u32) -> Result<Batch, Error> {
        self.mark(number)?;
        for index in 0..self.cpus.len() {
            self.read_cpu(index)?;
        }
        self.account()?;
        let is_mark = |event: &Event| event.what == What::Mark(number);
        // A mark that is lost leaves nothing to wait for.
        let last = self.pending.iter().rev().find(|event| is_mark(event));
        let until = last.map_or(u64::MAX, |event| event.order);
        let (mut events, pending): (Vec<_>, Vec<_>) = self
            .pending
            .drain(..)
            .partition(|event| event.order <= until);
        self.pending = pending;
        // Of one CPU they are in order already, which a stable sort keeps.
        events.sort_by_key(|event| event.order);
        if self.not_kept > 0 {
            self.losses.push(Loss::NotKept {
                records: std::mem::take(&mut self.not_kept),
            });
        }
        Ok(Batch {
            events,
            losses: std::mem::take(&mut self.losses),
        })
    }

    /// Reads what one CPU has recorded.
    fn read_cpu(&mut self, index: usize) -> Result<(), Error> {
        // Others may record faster than this reads.
        for _ in 0..self.pages_of_a_buffer.saturating_mul(2) {
            let Some(cpu) = self.cpus.get_mut(index) else {
                return Ok(());
            };
            let number = cpu.number;
            let len_bytes = match cpu.pipe.read(&mut self.page) {
                Ok(0) => return Ok(()),
                Ok(len_bytes) => len_bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Error::File {
                        action: "read".into(),
                        path: self
                            .instance
                            .path(&format!("per_cpu/cpu{number}/trace_pipe_raw")),
                        source,
                    });
                }
            };
            self.add_page(index, number, len_bytes);
        }
        if let Some(cpu) = self.cpus.get(index) {
            let cpu = cpu.number;
            self.lose(Loss::Unread { cpu });
        }
        Ok(())
    }

    fn add_page(&mut self, index: usize, cpu: u32, len_bytes: usize) {
        let page = std::mem::take(&mut self.page);
        let found = read_page(&self.pages, page.get(..len_bytes).unwrap_or(&page));
        if let Some(state) = self.cpus.get_mut(index) {
            state.read = state.read.saturating_add(found.records.len() as u64);
        }
        if let Some(missed) = found.missed {
            let records = missed.0;
            self.lose(Loss::Marked { cpu, records });
        }
        if let Some(reason) = found.broken {
            let reason = reason.to_owned();
            self.lose(Loss::Unreadable { cpu, reason });
        }
        for record in &found.records {
            let reason = match self.formats.decode(cpu, record) {
                Decoded::Event(_) if self.pending.len() >= MOST_EVENTS => {
                    self.not_kept = self.not_kept.saturating_add(1);
                    continue;
                }
                Decoded::Event(event) => {
                    self.pending.push(event);
                    continue;
                }
                Decoded::Unknown { kind: Some(kind) } => {
                    format!("a record of kind {kind}, of which no format is known")
                }
                Decoded::Unknown { kind: None } => "a record without a kind".into(),
                Decoded::Short { kind } => {
                    format!("a record of kind {kind} ends before its fields do")
                }
            };
            self.lose(Loss::Unreadable { cpu, reason });
        }
        self.page = page;
    }

    /// Holds what came against the kernel's own counts.
    fn account(&mut self) -> Result<(), Error> {
        for index in 0..self.cpus.len() {
            let Some(state) = self.cpus.get_mut(index) else {
                continue;
            };
            let (cpu, here) = (state.number, state.read);
            let text = self.instance.read(&format!("per_cpu/cpu{cpu}/stats"))?;
            let stats = Stats::parse(&text).map_err(|source| Error::Format {
                of: format!("per_cpu/cpu{cpu}/stats"),
                source,
            })?;
            let before = std::mem::replace(&mut state.stats, stats);
            state.read = stats.read;
            let overwritten = stats.overrun.saturating_sub(before.overrun);
            let dropped = stats.turned_away().saturating_sub(before.turned_away());
            if overwritten > 0 {
                let records = overwritten;
                self.lose(Loss::Overwritten { cpu, records });
            }
            if dropped > 0 {
                let records = dropped;
                self.lose(Loss::Dropped { cpu, records });
            }
            if stats.read != here {
                let kernel = stats.read;
                self.lose(Loss::Miscounted { cpu, kernel, here });
            }
        }
        Ok(())
    }

    fn lose(&mut self, loss: Loss) {
        if self.losses.len() < MOST_LOSSES && !self.losses.contains(&loss) {
            self.losses.push(loss);
        }
    }
}
