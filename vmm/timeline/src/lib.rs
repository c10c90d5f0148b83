//! Records what the running kernel's own tracepoints say of second-level entries:
//! when each was set, changed or zapped, by which thread, and which accesses of a
//! guest left it (page faults).
//!
//! A [`Recorder`] owns an instance of tracefs: buffers and switches of its own, which
//! nobody else's tracing disturbs and which disappear with it. Records are read in
//! binary, by the formats that the running kernel publishes; nothing of them is a
//! constant here. Their order is that of the kernel's `counter` clock, one number
//! more for each record on whatever CPU.
//!
//! What was lost is part of what is read ([`Loss`]): overwritten or dropped records,
//! pages that make no sense, kinds of records that no format describes, and a count
//! of records read that is not the kernel's own.
//!
//! Records name neither VM nor process, only threads and guest frames. They are not
//! filtered by thread: zaps come from threads of the kernel, too. Whoever reads them
//! has to tell whose they are.
//!
//! The crate knows no contract and judges nothing. What it reads is untrusted: no
//! bytes can make it panic, loop or keep more than a bounded amount.
#![forbid(unsafe_code)]

mod decode;
mod error;
mod event;
mod format;
mod instance;
mod page;
mod recorder;
mod setup;
mod stats;

pub use decode::{Decoded, Formats};
pub use error::{Error, FormatError};
pub use event::{Event, Loss, What};
pub use format::{EventFormat, Field, PageFormat};
pub use page::{Missed, Page, Record, read_page};
pub use recorder::{Batch, Options, Recorder};
pub use stats::Stats;
