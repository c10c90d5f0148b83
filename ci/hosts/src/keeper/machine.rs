//! The emulated machine: QEMU, and virtiofsd that gives it the file system.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::config::Config;
use crate::kernel::{ALONE, INIT_VARIABLE, ROOT_VARIABLE};
use crate::rundir;
use crate::virtiofsd;

/// Name of the virtio-serial port over which the keeper and init speak.
pub const PORT_NAME: &str = "mapwitness";
/// Tag of the shared file system.
const TAG: &str = "mapwitness";
/// Memory of the software host. Taken from the outer machine only when touched.
const MEMORY_MIB: u64 = 3072;
/// Below this the stock kernel and a nested guest do not fit.
const MEMORY_MIN_MIB: u64 = 1024;
/// CPUs of the software host. One: with two, each a thread of QEMU, a stock kernel that
/// patches its own code now and then dies of the breakpoint which it plants meanwhile
/// ("Oops: int3"), for the emulator lets the other CPU run the old translation.
const CPUS: u32 = 1;

/// A running machine; killed when dropped, and by the kernel when the keeper dies.
pub struct Machine {
    qemu: Child,
    virtiofsd: Child,
}

impl Machine {
    /// Starts it, and gives the keeper's end of the line to init.
    ///
    /// To be called from the keeper's main thread: the kernel kills the children
    /// when the thread that made them ends (`PR_SET_PDEATHSIG`, prctl(2)).
    pub fn start(config: &Config, run_dir: &Path) -> io::Result<(Self, UnixStream)> {
        let files_socket = run_dir.join("files.sock");
        let listener = UnixListener::bind(&files_socket)?;
        let log = log_file(run_dir)?;
        let mut command = virtiofsd::command(&config.virtiofsd, listener.as_raw_fd());
        let virtiofsd = spawn_bound(&mut command, listener.as_fd(), &log)
            .map_err(|error| context("start virtiofsd", &error))?;
        let (near, far) = UnixStream::pair()?;
        let mut command = qemu_command(config, run_dir, &files_socket, far.as_raw_fd())?;
        match spawn_bound(&mut command, far.as_fd(), &log) {
            Ok(qemu) => Ok((Self { qemu, virtiofsd }, near)),
            Err(error) => {
                let mut virtiofsd = virtiofsd;
                stop(&mut virtiofsd);
                Err(context("start QEMU", &error))
            }
        }
    }

    /// A descriptor that polls readable when virtiofsd has ended.
    pub fn virtiofsd_end(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.virtiofsd.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("process number out of range"))?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Ends both, and says how QEMU ended if it did so by itself, for which it has
    /// `patience`.
    pub fn stop(mut self, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut ended = self.qemu.try_wait().ok().flatten();
        while ended.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
            ended = self.qemu.try_wait().ok().flatten();
        }
        stop(&mut self.qemu);
        stop(&mut self.virtiofsd);
        ended.map(|status| status.to_string())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        stop(&mut self.qemu);
        stop(&mut self.virtiofsd);
    }
}

fn stop(child: &mut Child) {
    // An error means that it has ended and been waited for.
    let _ = child.kill();
    let _ = child.wait();
}

fn context(what: &str, error: &dyn Display) -> io::Error {
    io::Error::other(format!("cannot {what}: {error}"))
}

fn log_file(run_dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(run_dir.join(rundir::LOG))
}

/// Spawns a child that inherits `keep` and dies with the calling thread.
fn spawn_bound(command: &mut Command, keep: BorrowedFd<'_>, log: &File) -> io::Result<Child> {
    let keep = keep.as_raw_fd();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // SAFETY: the parent holds `keep` open until spawn() has returned, and the
        // child has a copy of it under the same number.
        let keep = unsafe { BorrowedFd::borrow_raw(keep) };
        fcntl_setfd(keep, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: `prepare` makes two system calls and neither allocates nor locks, which
    // is all that a child may do between fork and exec.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Text for the value of a QEMU option, in which a comma is doubled.
fn quoted(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn qemu_command(config: &Config, run_dir: &Path, files: &Path, link: i32) -> io::Result<Command> {
    let memory_mib = memory_mib();
    let mut command = Command::new(&config.qemu);
    command
        .args([
            "-name",
            "mapwitness-soft-npt",
            "-nodefaults",
            "-no-user-config",
        ])
        .args([
            "-display",
            "none",
            "-no-reboot",
            "-accel",
            "tcg,thread=multi",
        ])
        .args(["-cpu", &config.cpu, "-M", "q35,memory-backend=memory"])
        .args(["-smp", &CPUS.to_string(), "-m", &format!("{memory_mib}M")])
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=memory,size={memory_mib}M,share=on"
        ))
        .arg("-chardev")
        .arg(format!("socket,id=files,path={}", quoted(files)))
        .arg("-device")
        .arg(format!("vhost-user-fs-pci,chardev=files,tag={TAG}"))
        .arg("-chardev")
        .arg(format!("socket,id=link,fd={link}"))
        .args(["-device", "virtio-serial-pci", "-device"])
        .arg(format!("virtserialport,chardev=link,name={PORT_NAME}"))
        .arg("-chardev")
        .arg(format!(
            "file,id=console,path={}",
            quoted(&run_dir.join(rundir::CONSOLE))
        ))
        .args(["-serial", "chardev:console", "-chardev"])
        .arg(format!(
            "socket,id=monitor,server=on,wait=off,path={}",
            quoted(&run_dir.join(rundir::MONITOR))
        ))
        .args(["-mon", "chardev=monitor,mode=control", "-kernel"])
        .arg(&config.kernel)
        .args(["-append", &kernel_parameters(config)?]);
    if let Some(initramfs) = &config.initramfs {
        command.arg("-initrd").arg(initramfs);
    }
    Ok(command)
}

fn kernel_parameters(config: &Config) -> io::Result<String> {
    let init = config
        .init
        .to_str()
        .filter(|path| !path.contains(['"', '\n']))
        .ok_or_else(|| {
            let path = config.init.display();
            io::Error::other(format!(
                "the path {path} cannot stand on a kernel's command line; \
                 build into another folder (CARGO_TARGET_DIR)"
            ))
        })?;
    // The root is writable here and made read-only, but for some folders, by init:
    // a file system mounted read-only could not be made writable in parts.
    let start = match config.initramfs {
        None => format!("rootfstype=virtiofs root={TAG} rw \"init={init}\""),
        Some(_) => format!("{ROOT_VARIABLE}={TAG} \"{INIT_VARIABLE}={init}\""),
    };
    Ok(format!(
        "console=ttyS0 quiet panic=-1 no_timer_check {ALONE} {start} -- host-init"
    ))
}

/// At most three quarters of what the outer machine has to spare.
fn memory_mib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let spare_mib = available_mib(&meminfo).map_or(MEMORY_MIB, |mib| mib / 4 * 3);
    spare_mib.clamp(MEMORY_MIN_MIB, MEMORY_MIB) & !1
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:       24684092 kB\nMemAvailable:   23951000 kB\n";
        assert_eq!(available_mib(meminfo), Some(23389));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_comma_in_a_path_does_not_start_an_option() {
        assert_eq!(quoted(Path::new("/a,b")), "/a,,b");
    }
}
