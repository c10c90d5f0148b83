//! Guests in processes of their own, as a program that uses mapwitness has them: measured
//! from the process's start to its guest's greeting.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;

use harness::{Guest, Start, Started};
use monitor::VmConfig;
use serde::{Deserialize, Serialize};

use crate::Field;
use crate::error::{BenchError, chain};
use crate::processes::{Mapping, Owned};
use crate::samples::timed;

/// The hidden command.
const COMMAND: &str = "bench-guest";
/// Names of the windows' memory and of a booted guest's, as /proc shows them.
const OUR_MEMFDS: &str = "/memfd:mapwitness-";

/// What the other process says when its guest has greeted.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    /// Whether the guest was taken up from a snapshot.
    from_snapshot: bool,
    /// Where guest memory is in that process.
    guest_memory: Vec<Range<u64>>,
}

/// Carries out the hidden command `bench-guest` and returns its exit status; `None` when
/// `arguments` (without the program's name) are none of it.
pub fn hidden_command(arguments: &[OsString]) -> Option<i32> {
    let [command, start, ram_len_bytes, kernel, initramfs] = arguments else {
        return None;
    };
    if command != COMMAND {
        return None;
    }
    let start = if start == "boot" {
        Start::Boot
    } else {
        Start::Quickest
    };
    let ram_len_bytes = ram_len_bytes.to_str()?.parse().ok()?;
    let config = guest_config(Path::new(kernel), Path::new(initramfs), ram_len_bytes);
    Some(match serve(&config, start) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("mapwitness: {}", chain(&error));
            2
        }
    })
}

/// The guest that is measured: the standard one, with this much RAM.
pub(crate) fn guest_config(kernel: &Path, initramfs: &Path, ram_len_bytes: u64) -> VmConfig {
    let config = VmConfig::new(kernel.to_owned(), initramfs.to_owned());
    VmConfig {
        ram_len_bytes,
        ..config
    }
}

/// Starts the guest, says so, and keeps it until standard input ends.
fn serve(config: &VmConfig, start: Start) -> Result<(), BenchError> {
    let guest = Guest::start(config, start)?;
    let slots = guest.vm().memslots().iter();
    let hello = Hello {
        from_snapshot: guest.started() == Started::Snapshot,
        guest_memory: slots
            .map(|slot| slot.hva.raw()..slot.hva.raw() + slot.len_bytes)
            .collect(),
    };
    let line = serde_json::to_string(&hello).map_err(io::Error::other);
    let said = line.and_then(|line| {
        let mut out = io::stdout();
        writeln!(out, "{line}")?;
        out.flush()
    });
    said.map_err(BenchError::io("say that the guest is there"))?;
    let mut rest = Vec::new();
    io::stdin()
        .read_to_end(&mut rest)
        .map_err(BenchError::io("wait for the end"))?;
    Ok(())
}

/// A process whose guest has greeted.
pub(crate) struct Vmm {
    process: Owned,
    hello: Hello,
    /// Seconds from its start to its guest's greeting.
    pub(crate) seconds: f64,
}

impl Vmm {
    /// Starts one and waits for its guest.
    pub(crate) fn start(
        field: &Field<'_>,
        start: Start,
        ram_len_bytes: u64,
    ) -> Result<Self, BenchError> {
        let files = match start {
            Start::Boot => [field.kernel.path(), field.initramfs.path()],
            Start::Quickest => [&*field.plan.kernel, &*field.plan.initramfs],
        };
        let mut command = field.program.command();
        command
            .arg(COMMAND)
            .arg(match start {
                Start::Boot => "boot",
                Start::Quickest => "quickest",
            })
            .arg(ram_len_bytes.to_string())
            .args(files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let (seconds, started) = timed(|| {
            let mut process = Owned::spawn(&mut command)?;
            let line = process.first_words(b'\n')?;
            Ok((process, line))
        });
        let (process, line) = started.map_err(BenchError::io("start a guest's process"))?;
        let hello: Hello =
            serde_json::from_slice(&line).map_err(|_| failed("it brought no guest"))?;
        if hello.from_snapshot != (start == Start::Quickest) {
            return Err(failed(match start {
                Start::Boot => "its guest was to boot",
                Start::Quickest => "there is no snapshot for its guest",
            }));
        }
        Ok(Self {
            process,
            hello,
            seconds,
        })
    }

    /// Leaves a snapshot of such a guest, if there is none yet.
    pub(crate) fn leave_snapshot(field: &Field<'_>, ram_len_bytes: u64) -> Result<(), BenchError> {
        let config = guest_config(&field.plan.kernel, &field.plan.initramfs, ram_len_bytes);
        Guest::start(&config, Start::Quickest)?;
        Ok(())
    }

    pub(crate) fn process(&self) -> &Owned {
        &self.process
    }

    /// KiB in memory that are not the guest's.
    pub(crate) fn own_kib(&self) -> io::Result<u64> {
        let mappings = self.process.mappings()?;
        let own = mappings.iter().filter(|it| !self.is_guest_memory(it));
        Ok(own.map(|it| it.rss_kib).sum())
    }

    fn is_guest_memory(&self, mapping: &Mapping) -> bool {
        let holds = |range: &Range<u64>| {
            range.start <= mapping.range.start && mapping.range.end <= range.end
        };
        mapping.name.starts_with(OUR_MEMFDS) || self.hello.guest_memory.iter().any(holds)
    }
}

fn failed(what: &str) -> BenchError {
    BenchError::Process {
        program: COMMAND,
        what: what.to_owned(),
    }
}
