//! The emulated machine: its files and its process.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guest_images::initramfs::Entry;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{Parts, memory, rom};
use crate::init::PACKED_COMMAND;
use crate::kernel::ALONE;

/// Emulated instructions to a second of the emulated clock. High, so that nothing
/// inside runs into a timeout because the emulated CPU is slow.
const TICKS_PER_SECOND: u32 = 1_000_000_000;
/// The emulated clock begins here, always: seconds since 1970.
const START_TIME: u32 = 1_700_000_000;
/// One of Bochs' own files that it cannot do without.
const VIDEO_ROM_LEN_BYTES: usize = 512;
/// String instructions are quick (`IA32_MISC_ENABLE`, bit 0): firmware would say so,
/// and the kernel copies memory by them. Address, type, reset value, and masks.
const MODEL_SPECIFIC: &str = "0x1a0 0 00000000 00000001 00000000 00000000 00000000 00000000\n";

/// The files of one machine. None has a name.
pub struct Files {
    settings: File,
    /// Commands for the debugger.
    script: Option<File>,
    /// Kept for the path by which Bochs opens them.
    read: Vec<File>,
    console: File,
    log: File,
    /// What the machine's printer prints goes in here and comes out there.
    printed: PipeWriter,
    output: PipeReader,
}

impl Files {
    /// Files for a machine whose process 1 is the program `init` in `root`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(
        parts: &Parts,
        root: &[Entry],
        init: &Path,
        debugger: Option<&Path>,
    ) -> io::Result<Self> {
        let script = debugger.map(std::fs::read).transpose()?;
        let script = script.map(|script| filled(&script)).transpose()?;
        let mut image = unnamed()?;
        let line = command_line(init)?;
        let parameters = memory::write(&mut image, &parts.kernel, &line, root)?;
        let rom = filled(&rom::rom(parameters))?;
        let video = filled(&[0; VIDEO_ROM_LEN_BYTES])?;
        let specific = filled(MODEL_SPECIFIC.as_bytes())?;
        let (console, log) = (unnamed()?, unnamed()?);
        let (output, printed) = io::pipe()?;
        let mut settings = vec![
            "display_library: nogui".to_owned(),
            format!("megs: {}", memory::LEN_MIB),
            format!(
                "memory: guest={0}, host={0}, block_size={1}",
                memory::LEN_MIB,
                memory::BLOCK_LEN_BYTES / 1024
            ),
            format!("romimage: file={}", path_of(&rom)),
            format!("vgaromimage: file={}", path_of(&video)),
            format!(
                "optramimage1: file={}, address={:#x}",
                path_of(&image),
                parameters.image_start
            ),
            format!(
                "cpu: model={}, count=1, ips={TICKS_PER_SECOND}, reset_on_triple_fault=0, \
                     msrs={}, exclude_features=\"rdrand\"",
                parts.model.bochs_name(),
                path_of(&specific)
            ),
            format!("clock: sync=none, time0={START_TIME}"),
            format!("com1: enabled=1, mode=file, dev={}", path_of(&console)),
            format!("parport1: enabled=1, file={}", path_of(&printed)),
            "boot: disk".to_owned(),
            // Anything else may block Bochs in its own log.
            "info: action=ignore".to_owned(),
            "debug: action=ignore".to_owned(),
            "error: action=ignore".to_owned(),
            "panic: action=fatal".to_owned(),
            format!("log: {}", path_of(&log)),
        ];
        if script.is_some() {
            // `xchg bx, bx` stops the machine.
            settings.push("magic_break: enabled=1".to_owned());
        }
        Ok(Self {
            script,
            settings: filled((settings.join("\n") + "\n").as_bytes())?,
            read: vec![image, rom, video, specific],
            console,
            log,
            printed,
            output,
        })
    }

    /// What Bochs inherits.
    fn inherited(&self) -> Vec<RawFd> {
        let files = [&self.settings, &self.console, &self.log];
        let all = self.read.iter().chain(files).chain(&self.script);
        all.map(AsRawFd::as_raw_fd)
            .chain([self.printed.as_raw_fd()])
            .collect()
    }
}

/// The kernel's command line. Nothing is probed for that is not there, nothing
/// calibrated that is known.
fn command_line(init: &Path) -> io::Result<String> {
    let init = init
        .to_str()
        .filter(|path| !path.contains(['"', '\n']))
        .ok_or_else(|| {
            io::Error::other(format!(
                "the path {} cannot stand on a kernel's command line; \
                 build into another folder (CARGO_TARGET_DIR)",
                init.display()
            ))
        })?;
    Ok(format!(
        "console=ttyS0 quiet panic=-1 acpi=off pci=off no_timer_check tsc=reliable \
         {ALONE} tsc_early_khz={} \"rdinit={init}\" -- {PACKED_COMMAND}",
        TICKS_PER_SECOND / 1000
    ))
}

fn unnamed() -> io::Result<File> {
    Ok(memfd_create("mapwitness-soft-ept", MemfdFlags::CLOEXEC)?.into())
}

fn filled(bytes: &[u8]) -> io::Result<File> {
    let mut file = unnamed()?;
    file.write_all(bytes)?;
    Ok(file)
}

/// The path by which a process that inherits the file opens it.
fn path_of(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A running machine; killed when dropped, and by the kernel when this process dies.
pub struct Machine {
    bochs: Child,
    console: File,
    log: File,
}

impl Machine {
    /// Starts it; gives what its printer prints, to the machine's end.
    ///
    /// To be called from the main thread: the kernel kills the child when the thread
    /// that made it ends (`PR_SET_PDEATHSIG`, prctl(2)).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, files: Files) -> io::Result<(Self, PipeReader)> {
        let inherited = files.inherited();
        let mut command = Command::new(program);
        command
            .args(["-q", "-f", &path_of(&files.settings)])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(script) = &files.script {
            // The standard output is the carried program's.
            let to = io::stderr().as_fd().try_clone_to_owned()?;
            command
                .args(["-debugger", "-rc", &path_of(script)])
                .stdout(to);
        }
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            for number in &inherited {
                // SAFETY: the parent holds the files open until spawn() has returned,
                // and the child has copies of them under the same numbers.
                let file = unsafe { BorrowedFd::borrow_raw(*number) };
                fcntl_setfd(file, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: `prepare` makes system calls and neither allocates nor locks, which
        // is all that a child may do between fork and exec.
        unsafe { command.pre_exec(prepare) };
        let bochs = command.spawn()?;
        // Bochs alone holds the writing end from here on.
        let machine = Self {
            bochs,
            console: files.console,
            log: files.log,
        };
        Ok((machine, files.output))
    }

    /// Waits for its end for so long, then ends it.
    pub fn stop(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while matches!(self.bochs.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // An error means that it has ended and been waited for.
        let _ = self.bochs.kill();
        let _ = self.bochs.wait();
    }

    /// What the kernel said on its console.
    pub fn console(&mut self) -> String {
        content(&mut self.console)
    }

    /// Bochs' log.
    pub fn log(&mut self) -> String {
        content(&mut self.log)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not there.
    let _ = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_the_kernel_would_misread_is_refused() {
        let line = command_line(Path::new("/a b/mapwitness")).expect("quoted");
        assert!(line.contains("\"rdinit=/a b/mapwitness\" -- host-init-packed"));
        assert!(command_line(Path::new("/a\"b")).is_err());
    }
}
