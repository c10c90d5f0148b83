//! The process that a software host lives for.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, getpid, getppid, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    /// Clock ticks from boot to its start: field 22 of proc_pid_stat(5).
    started_ticks: u64,
}

/// For whom a software host is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// For this process: the host ends with it.
    Current,
    /// For the parent of this process, such as the `cargo test` that starts one
    /// test program after the other: they share a host.
    Parent,
}

impl Owner {
    /// The process meant.
    pub fn process(self) -> io::Result<Process> {
        let current = getpid();
        let pid = match self {
            Self::Current => current,
            // An orphan's parent is the machine's first process and ends with it;
            // inside a container that may be cargo itself.
            Self::Parent => getppid()
                .filter(|parent| *parent != Pid::INIT || is_cargo(*parent))
                .unwrap_or(current),
        };
        Process::with_pid(pid)
    }
}

fn is_cargo(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()))
        .is_ok_and(|comm| comm.starts_with("cargo"))
}

impl Process {
    fn with_pid(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started_ticks = start_time(&stat)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat does not parse")))?;
        Ok(Self { pid, started_ticks })
    }

    /// A name for files; distinct for distinct processes.
    pub fn file_name(self) -> String {
        format!("{}-{}", self.pid, self.started_ticks)
    }

    /// A descriptor that polls readable once the process ended, or `None` when it
    /// has ended already.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now is the number ours: look whether it still was the one meant.
        match Self::with_pid(pid) {
            Ok(found) if found == self => Ok(Some(descriptor)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Field 22; the second field, the program's name, may hold spaces and brackets.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_shift_the_fields() {
        let stat = "7 (a) 1 2 (b)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(start_time(stat), Some(98765));
        assert_eq!(start_time("7 (short) S 1"), None);
    }

    #[test]
    fn a_process_of_another_time_has_ended() {
        let current = Owner::Current.process().expect("this process");
        assert!(current.open().expect("pidfd").is_some());
        let earlier = Process {
            started_ticks: current.started_ticks.wrapping_sub(1),
            ..current
        };
        assert!(earlier.open().expect("pidfd").is_none());
    }
}
