//! What runs inside a software host: process 1, and the server that it watches.
//!
//! Process 1 mounts what is needed, starts the server and then only collects
//! orphans; when the server ends, the machine goes down.

mod loopback;
mod mounts;
pub(crate) mod packed;
mod port;
mod process;
mod server;

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use rustix::process::{
    Resource, Rlimit, Signal, WaitOptions, getpid, set_parent_process_death_signal, setrlimit, wait,
};
use rustix::system::{RebootCommand, reboot};

/// Files that one process of the host may have open.
const OPEN_FILES: u64 = 65_536;

/// Settings of the host's kernel, and why.
const SETTINGS: [(&str, &str); 5] = [
    // The second level is found through /proc/kallsyms.
    ("kernel/kptr_restrict", "0"),
    // A host whose KVM tripped must not go on and give evidence.
    ("kernel/panic_on_oops", "1"),
    ("kernel/perf_event_paranoid", "-1"),
    // Guest memory is mapped whole and touched in parts.
    ("vm/overcommit_memory", "1"),
    // Nothing that a test writes should be lost to a core dump in the project's folder.
    ("kernel/core_pattern", "|/bin/false"),
];

/// What the software host's root file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// The outer machine's, through virtiofs, for any number of programs.
    Shared,
    /// What was packed for one program, in memory.
    Packed,
}

impl World {
    /// The hidden command that enters it.
    pub(crate) const fn command(self) -> &'static str {
        match self {
            Self::Shared => "host-init",
            Self::Packed => PACKED_COMMAND,
        }
    }
}

/// Entry point of [`World::Packed`].
pub(crate) const PACKED_COMMAND: &str = "host-init-packed";

/// Entry point of process 1 and of its server; never returns as process 1.
pub fn main(world: World) -> i32 {
    if !getpid().is_init() {
        return server_main(world);
    }
    let error = match first_process(world) {
        Ok(status) => format!("its server ended: {}", ExitStatus::from_raw(status)),
        Err(error) => error.to_string(),
    };
    eprintln!("mapwitness: {error}");
    if world == World::Packed {
        packed::switch_off();
    }
    rustix::fs::sync();
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => 0,
        // The kernel panics when process 1 ends, which ends QEMU too.
        Err(_) => 1,
    }
}

fn first_process(world: World) -> io::Result<i32> {
    match world {
        World::Shared => mounts::mount_all()?,
        World::Packed => mounts::mount_in_packed()?,
    }
    use_console()?;
    settings();
    if let Err(error) = loopback::bring_up() {
        eprintln!("mapwitness: no loopback interface: {error}");
    }
    // Not by its name, which may lie below the fresh /tmp by now.
    let server = Command::new("/proc/self/exe")
        .arg(world.command())
        .spawn()?;
    let server = i32::try_from(server.id()).ok();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid.as_raw_nonzero().get()) == server => {
                return Ok(status.as_raw());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The kernel found no console in the outer machine's /dev, or the wrong one.
fn use_console() -> io::Result<()> {
    let console = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

fn settings() {
    for (name, value) in SETTINGS {
        if let Err(error) = fs::write(format!("/proc/sys/{name}"), value) {
            eprintln!("mapwitness: cannot set {name} to {value}: {error}");
        }
    }
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let files = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    for (resource, limit) in [(Resource::Memlock, unlimited), (Resource::Nofile, files)] {
        if let Err(error) = setrlimit(resource, limit) {
            eprintln!("mapwitness: cannot raise a limit: {error}");
        }
    }
}

fn server_main(world: World) -> i32 {
    // The server must not outlive process 1, nor be of use without it.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return 1;
    }
    let served = match world {
        World::Shared => server::serve(),
        World::Packed => packed::serve(),
    };
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("mapwitness: {error}");
            1
        }
    }
}
