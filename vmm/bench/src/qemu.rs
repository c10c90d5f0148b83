//! The rival: QEMU's microvm machine on the same KVM, with the same kernel, initramfs, RAM
//! and one CPU, set up as its manual says for the quickest start.
//!
//! It is seen at the same moment as our own VMM: at the first `out` to the agent's
//! doorbell. QEMU's debug console takes it there, and the agent's area is a stretch of RAM
//! that the kernel is told to leave alone. Nobody answers the agent, which then ends, upon
//! which its kernel panics and spins: a guest that runs for ever.

mod qmp;

use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

use crate::Field;
use crate::error::BenchError;
use crate::near::Program;
use crate::processes::Owned;
use crate::samples::timed;
use qmp::Qmp;

const PROGRAM: &str = "QEMU";
/// Without the devices that the guest does not need. Its firmware enters the kernel by
/// PVH, as our VMM does.
const MACHINE: &str = "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,\
                       auto-kernel-cmdline=off,memory-backend=ram";
/// The guest of our VMM has no XSAVE either, and under software emulation it cannot.
const CPU: &str = "host,-xsave";
/// The agent's area, in the middle of RAM: QEMU puts the initramfs at its top.
const AREA: u64 = 32 << 20;
/// What the debug console gets of a ring, which is an `out` of 0.
const RING: u8 = 0;
/// Bytes of what it said that an error carries.
const LAST_BYTES: usize = 600;

/// A QEMU whose guest has rung once.
pub(crate) struct Qemu {
    process: Owned,
    folder: TempDir,
    ram_len_bytes: u64,
    /// Seconds from its start to its guest's first ring.
    pub(crate) seconds: f64,
}

impl Qemu {
    /// Starts one and waits for its guest.
    pub(crate) fn start(field: &Field<'_>, ram_len_bytes: u64) -> Result<Self, BenchError> {
        let program = field.qemu.as_ref().map_err(|why| failed(why.clone()))?;
        let folder = tempfile::tempdir().map_err(BenchError::io("make a folder"))?;
        let mut command = program.command();
        command
            .args(arguments(field, ram_len_bytes))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket(&folder)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (seconds, started) = timed(|| {
            let mut process = Owned::spawn(&mut command)?;
            let words = process.first_words(RING)?;
            Ok((process, words.ends_with(&[RING])))
        });
        let (mut process, rang) = started.map_err(BenchError::io("start QEMU"))?;
        if !rang {
            return Err(failed(last_words(&mut process)));
        }
        Ok(Self {
            process,
            folder,
            ram_len_bytes,
            seconds,
        })
    }

    pub(crate) fn process(&self) -> &Owned {
        &self.process
    }

    /// The program that it runs, brought near.
    pub(crate) fn program(&self) -> io::Result<Program> {
        Program::of_process(self.process.id())
    }

    /// KiB in memory that are not the guest's.
    pub(crate) fn own_kib(&self) -> io::Result<u64> {
        let mappings = self.process.mappings()?;
        // Unnamed, and the one mapping of just this length.
        let (guest, own): (Vec<_>, Vec<_>) = mappings
            .iter()
            .partition(|it| it.range.end - it.range.start == self.ram_len_bytes);
        match guest[..] {
            [_] => Ok(own.into_iter().map(|it| it.rss_kib).sum()),
            _ => Err(io::Error::other("its guest's memory is not to be told")),
        }
    }

    /// Saves the guest in a file of its own in memory, for [`Snapshotted::load`].
    pub(crate) fn save(self) -> Result<Snapshotted, BenchError> {
        let mut qmp = Qmp::connect(Path::new(&socket(&self.folder)))?;
        qmp.make_disk(&self.folder.path().join("disk"))?;
        qmp.human("savevm start")?;
        Ok(Snapshotted { _qemu: self, qmp })
    }
}

/// A QEMU whose guest was saved, and runs.
pub(crate) struct Snapshotted {
    _qemu: Qemu,
    qmp: Qmp,
}

impl Snapshotted {
    /// Brings the guest back. Gives the seconds until it runs again.
    pub(crate) fn load(&mut self) -> Result<f64, BenchError> {
        let (seconds, loaded) = timed(|| self.qmp.human("loadvm start"));
        loaded.map(|()| seconds)
    }
}

fn socket(folder: &TempDir) -> String {
    folder.path().join("qmp").display().to_string()
}

fn arguments(field: &Field<'_>, ram_len_bytes: u64) -> Vec<String> {
    let area_mib = wire::AREA_LEN_BYTES.div_ceil(1 << 20);
    let ram = format!("memory-backend-ram,id=ram,size={ram_len_bytes}");
    let line = format!(
        "{} loglevel=5 panic=0 {}={AREA:#x} memmap={area_mib}M${AREA:#x}",
        monitor::COMMAND_LINE,
        wire::AREA_PARAMETER,
    );
    let bell = format!(
        "isa-debugcon,iobase={:#x},chardev=bell",
        wire::DOORBELL_PORT
    );
    let (kernel, initramfs) = (
        field.kernel.path().display(),
        field.initramfs.path().display(),
    );
    [
        ("-M", MACHINE.to_owned()),
        ("-accel", "kvm".to_owned()),
        ("-cpu", CPU.to_owned()),
        ("-m", format!("{}M", ram_len_bytes >> 20)),
        ("-object", ram),
        ("-nodefaults", String::new()),
        ("-no-user-config", String::new()),
        ("-no-reboot", String::new()),
        ("-display", "none".to_owned()),
        ("-serial", "null".to_owned()),
        ("-kernel", kernel.to_string()),
        ("-initrd", initramfs.to_string()),
        ("-append", line),
        ("-chardev", "stdio,id=bell,signal=off".to_owned()),
        ("-device", bell),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value])
    .filter(|word| !word.is_empty())
    .collect()
}

fn last_words(process: &mut Owned) -> String {
    // It has closed its output, so that it is ending, and its last words are all there.
    let mut said = String::new();
    if let Some(errors) = process.child().stderr.as_mut() {
        let _ = errors.read_to_string(&mut said);
    }
    let mut start = said.len().saturating_sub(LAST_BYTES);
    while !said.is_char_boundary(start) {
        start += 1;
    }
    format!(
        "its guest did not come to its agent's doorbell; {}",
        &said[start..]
    )
}

fn failed(what: String) -> BenchError {
    BenchError::Process {
        program: PROGRAM,
        what,
    }
}
