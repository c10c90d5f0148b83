//! The agent below /init, its forked children, which take the doorbell over, and the
//! end of the guest.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use wire::{Crash, Value};

use crate::kmsg;
use crate::outcome::{Outcome, Refusal};
use crate::sys::{self, Errno};

/// What [`start_agent`] returns as.
#[derive(Debug)]
pub enum Role {
    /// The process that answers the host.
    Agent,
    /// /init, after the agent has ended.
    Init(ExitStatus),
}

/// Splits off the agent, and lets /init reap whatever is left to it. The agent is a
/// process of its own because the kernel logs each fault of pid 1, also those that
/// it handles (`unhandled_signal` of kernel/signal.c).
///
/// # Errors
/// When there is no second process.
pub fn start_agent() -> io::Result<Role> {
    // SAFETY: called first of all, when the process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Role::Agent),
        agent => {
            let status = wait_for(-1, agent)?;
            Ok(Role::Init(ExitStatus::from_raw(status)))
        }
    }
}

/// Where this process stands in the chain of forks.
#[derive(Debug, Default)]
pub struct Lineage {
    forked: bool,
}

/// fork(2). Returns in the child with its pid at once, and in the parent when the
/// child has ended, by [`exit`] or by a signal, with its wait status: whoever
/// returns holds the doorbell.
pub fn fork(lineage: &mut Lineage) -> Outcome {
    let parent = sys::pid();
    // SAFETY: the agent has one thread, so nothing it needs is locked in the child.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::last().into()),
        0 => {
            lineage.forked = true;
            end_with(parent);
            Ok(Value::Pid(sys::pid()))
        }
        child => Ok(Value::ExitStatus(wait_for(child, child)?)),
    }
}

/// Ends a forked child.
pub fn exit(lineage: &Lineage, status: u8) -> Outcome {
    if !lineage.forked {
        return Err(Errno(libc::EPERM).into());
    }
    // SAFETY: _exit(2) has no preconditions; exit handlers are the parent's to run.
    unsafe { libc::_exit(status.into()) }
}

/// Ends the guest. Returns when the kernel cannot do that.
pub fn crash(lineage: &Lineage, how: Crash) -> Outcome {
    match how {
        Crash::Panic => panic_kernel(lineage),
        Crash::Reset => reboot(libc::RB_AUTOBOOT),
        Crash::PowerOff => reboot(libc::RB_POWER_OFF),
        Crash::Spin => loop {
            std::hint::spin_loop();
        },
    }
}

/// Asks for SIGKILL at the death of the parent, which holds the doorbell after this
/// process and must never share it.
fn end_with(parent: i32) {
    // SAFETY: PR_SET_PDEATHSIG takes a signal's number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: getppid(2) has no preconditions.
    if unsafe { libc::getppid() } != parent {
        // It was dead before it could be asked for.
        // SAFETY: _exit(2) has no preconditions.
        unsafe { libc::_exit(1) }
    }
}

/// Waits for `child`, reaping all that `wanted`, as for waitpid(2), names meanwhile.
fn wait_for(wanted: i32, child: i32) -> Result<i32, Errno> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is live; any pid may be waited for.
        match unsafe { libc::waitpid(wanted, &raw mut status, 0) } {
            ended if ended == child => return Ok(status),
            -1 if Errno::last() != Errno(libc::EINTR) => return Err(Errno::last()),
            _ => {}
        }
    }
}

fn panic_kernel(lineage: &Lineage) -> Outcome {
    match fs::write("/proc/sysrq-trigger", "c") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !lineage.forked => {
            kmsg::report("ends, as the host asked; /init follows, and the kernel panics");
            // SAFETY: _exit(2) has no preconditions.
            unsafe { libc::_exit(1) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Errno::from(error).into()),
    }
    Err(Refusal::Rejected(
        "no way to panic from here: the guest kernel has no SysRq (CONFIG_MAGIC_SYSRQ), and \
         only the agent's first process can panic it by ending"
            .into(),
    ))
}

fn reboot(how: libc::c_int) -> Outcome {
    // SAFETY: reboot(2) touches no memory; the guest ends here.
    unsafe { libc::reboot(how) };
    Err(Errno::last().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{State, perform};
    use wire::{Reply, Request};

    /// Forks a child that performs `requests`, and gives what the parent answers.
    fn answer_of_parent(requests: Vec<Request>) -> Reply {
        let mut state = State::unguarded();
        let test = sys::pid();
        let reply = perform(&mut state, Request::Fork);
        if sys::pid() == test {
            return reply;
        }
        // In the child: a failed assertion must not run the harness's other tests.
        let mut right = reply == Reply::Done(Value::Pid(sys::pid()));
        for request in requests {
            right &= matches!(perform(&mut state, request), Reply::Done(_));
        }
        // SAFETY: _exit(2) has no preconditions.
        unsafe { libc::_exit(if right { 99 } else { 98 }) }
    }

    #[test]
    fn a_child_ends_with_the_status_it_was_told() {
        let reply = answer_of_parent(vec![Request::Exit { status: 7 }]);
        assert_eq!(reply, Reply::Done(Value::ExitStatus(7 << 8)));
    }

    #[test]
    fn a_child_answers_with_its_own_pid_and_goes_on() {
        let reply = answer_of_parent(vec![Request::ReadFile {
            path: "/proc/self/maps".into(),
        }]);
        assert_eq!(reply, Reply::Done(Value::ExitStatus(99 << 8)));
    }

    #[test]
    fn a_child_may_fork_too() {
        let grandchild_ends = [Request::Fork, Request::Exit { status: 3 }];
        // The grandchild performs the second request, then the child does.
        let reply = answer_of_parent(grandchild_ends.into());
        assert_eq!(reply, Reply::Done(Value::ExitStatus(3 << 8)));
    }

    #[test]
    fn a_childs_death_by_signal_is_told() {
        let mut state = State::unguarded();
        let test = sys::pid();
        let reply = perform(&mut state, Request::Fork);
        if sys::pid() != test {
            // SAFETY: SIGKILL to the child itself.
            unsafe { libc::kill(sys::pid(), libc::SIGKILL) };
        }
        assert_eq!(reply, Reply::Done(Value::ExitStatus(libc::SIGKILL)));
    }

    #[test]
    fn the_first_process_does_not_exit() {
        let reply = perform(&mut State::unguarded(), Request::Exit { status: 0 });
        assert_eq!(reply, Reply::Errno(libc::EPERM));
    }
}
