//! From the bytes of a record to what it says.

use std::io;
use std::path::Path;

use addr::{Gfn, Gpa};

use crate::error::{Error, FormatError};
use crate::event::{Event, What};
use crate::format::{EventFormat, Field};
use crate::instance::read_text;
use crate::page::Record;

/// Most fields that are taken from a record.
const MOST_FIELDS: usize = 5;

/// A kind of record.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Folder of its tracepoint below `events`.
    pub system: &'static str,
    /// Its tracepoint.
    pub name: &'static str,
    /// Whether nothing can be told without it.
    pub needed: bool,
    /// The field that tells for which address it is.
    pub place: Place,
    fields: &'static [&'static str],
    say: fn([u64; MOST_FIELDS]) -> What,
}

/// The field by which records about other addresses are filtered out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A guest frame; entries above the lowest level cover more than that one.
    Entry,
    /// A guest frame.
    Frame(&'static str),
    /// A guest physical address.
    Address(&'static str),
    /// Not filtered.
    Anywhere,
}

/// All kinds that are known here. Sources: arch/x86/kvm/mmu/mmutrace.h and
/// arch/x86/kvm/trace.h of Linux 6.12 and 7.3.
pub(crate) const KINDS: [Kind; 9] = [
    Kind {
        system: "ftrace",
        name: "raw_data",
        needed: true,
        place: Place::Anywhere,
        fields: &["id"],
        say: |[id, ..]| What::Mark(low_32(id)),
    },
    Kind {
        system: "kvmmmu",
        name: "kvm_tdp_mmu_spte_changed",
        needed: true,
        place: Place::Entry,
        fields: &["gfn", "level", "old_spte", "new_spte", "as_id"],
        say: |[gfn, level, old, new, address_space]| What::Changed {
            gfn: Gfn::new(gfn),
            level: low_8(level),
            address_space: low_8(address_space),
            old,
            new,
        },
    },
    Kind {
        system: "kvm",
        name: "kvm_page_fault",
        needed: true,
        place: Place::Address("fault_address"),
        fields: &["fault_address", "error_code"],
        say: |[gpa, error_code, ..]| What::Fault {
            gpa: Gpa::new(gpa),
            error_code,
        },
    },
    Kind {
        system: "kvmmmu",
        name: "fast_page_fault",
        needed: true,
        place: Place::Address("cr2_or_gpa"),
        fields: &["cr2_or_gpa", "old_spte", "new_spte"],
        say: |[gpa, old, new, ..]| What::Widened {
            gpa: Gpa::new(gpa),
            old,
            new,
        },
    },
    Kind {
        system: "kvmmmu",
        name: "kvm_mmu_set_spte",
        needed: false,
        place: Place::Entry,
        fields: &["gfn", "level", "spte"],
        say: |[gfn, level, spte, ..]| What::Served {
            gfn: Gfn::new(gfn),
            level: low_8(level),
            spte,
        },
    },
    Kind {
        system: "kvmmmu",
        name: "mark_mmio_spte",
        needed: false,
        place: Place::Frame("gfn"),
        fields: &["gfn"],
        say: |[gfn, ..]| What::Mmio { gfn: Gfn::new(gfn) },
    },
    Kind {
        system: "kvmmmu",
        name: "kvm_mmu_prepare_zap_page",
        needed: false,
        place: Place::Anywhere,
        fields: &["gfn"],
        say: |[gfn, ..]| What::TableZapped { gfn: Gfn::new(gfn) },
    },
    Kind {
        system: "kvmmmu",
        name: "kvm_mmu_zap_all_fast",
        needed: false,
        place: Place::Anywhere,
        fields: &[],
        say: |_| What::AllZapped,
    },
    Kind {
        system: "kvmmmu",
        name: "kvm_mmu_split_huge_page",
        needed: false,
        place: Place::Anywhere,
        fields: &["gfn", "level"],
        say: |[gfn, level, ..]| What::Split {
            gfn: Gfn::new(gfn),
            level: low_8(level),
        },
    },
];

/// A number that does not fit belongs to no sound record; it ends up as one that no
/// sound record has either.
fn low_8(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn low_32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A kind of record with its place in this kernel.
#[derive(Debug)]
struct Known {
    id: u64,
    fields: [Option<Field>; MOST_FIELDS],
    say: fn([u64; MOST_FIELDS]) -> What,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It says this.
    Event(Event),
    /// No format describes it.
    Unknown {
        /// Number of its kind, if it has one.
        kind: Option<u64>,
    },
    /// It ends before its fields do.
    Short {
        /// Number of its kind.
        kind: u64,
    },
}

/// The formats of this kernel.
#[derive(Debug)]
pub struct Formats {
    kind: Field,
    tid: Field,
    known: Vec<Known>,
    absent: Vec<&'static str>,
}

impl Formats {
    /// Reads the formats below `events`, a folder of that name in tracefs.
    ///
    /// # Errors
    /// [`Error::NoEvent`] or [`Error::Format`] for a tracepoint without which nothing
    /// can be told.
    pub fn read(events: &Path) -> Result<Self, Error> {
        let mut known = Vec::new();
        let mut absent = Vec::new();
        let mut common = None;
        for kind in &KINDS {
            let path = events.join(kind.system).join(kind.name).join("format");
            let text = match read_text(&path) {
                Ok(text) => text,
                Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    if kind.needed {
                        return Err(Error::NoEvent { event: kind.name });
                    }
                    absent.push(kind.name);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let of = |source| Error::Format {
                of: format!("{}:{}", kind.system, kind.name),
                source,
            };
            let format = EventFormat::parse(&text).map_err(of)?;
            if common.is_none() {
                let head = |name| format.number(name).map_err(of);
                common = Some((head("common_type")?, head("common_pid")?));
            }
            known.push(in_this_kernel(kind, &format).map_err(of)?);
        }
        let (kind, tid) = common.ok_or(Error::NoEvent { event: "raw_data" })?;
        Ok(Self {
            kind,
            tid,
            known,
            absent,
        })
    }

    /// Tracepoints that this kernel lacks and that can be done without.
    pub fn absent(&self) -> &[&'static str] {
        &self.absent
    }

    /// What `record`, made by `cpu`, says.
    pub fn decode(&self, cpu: u32, record: &Record<'_>) -> Decoded {
        let Some(id) = self.kind.get(record.bytes) else {
            return Decoded::Unknown { kind: None };
        };
        let Some(known) = self.known.iter().find(|known| known.id == id) else {
            return Decoded::Unknown { kind: Some(id) };
        };
        let mut values = [0; MOST_FIELDS];
        for (value, field) in values.iter_mut().zip(known.fields) {
            match field.map(|field| field.get(record.bytes)) {
                Some(Some(found)) => *value = found,
                Some(None) => return Decoded::Short { kind: id },
                None => {}
            }
        }
        let Some(tid) = self.tid.get(record.bytes) else {
            return Decoded::Short { kind: id };
        };
        Decoded::Event(Event {
            order: record.time,
            cpu,
            // A thread's number is an int; its sign bits go away again.
            tid: i32::try_from(tid.cast_signed()).unwrap_or(-1),
            what: (known.say)(values),
        })
    }
}

fn in_this_kernel(kind: &Kind, format: &EventFormat) -> Result<Known, FormatError> {
    let mut fields = [None; MOST_FIELDS];
    for (place, name) in fields.iter_mut().zip(kind.fields) {
        *place = Some(format.number(name)?);
    }
    Ok(Known {
        id: format.id(),
        fields,
        say: kind.say,
    })
}
