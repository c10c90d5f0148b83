//! The agent below /init, its forked processes, which pass the doorbell on among each
//! other, and the end of the guest.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use wire::{Crash, Value};

use crate::coverage::Coverage;
use crate::doorbell::{Doorbell, Holder};
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
        0 => {
            // The agent and all that it forks are a group of their own.
            // SAFETY: setpgid(2) has no preconditions.
            match unsafe { libc::setpgid(0, 0) } {
                0 => Ok(Role::Agent),
                _ => Err(io::Error::last_os_error()),
            }
        }
        agent => {
            let status = wait_for(-1, agent)?;
            Ok(Role::Init(ExitStatus::from_raw(status)))
        }
    }
}

/// Where this process stands among those of the agent.
#[derive(Debug)]
pub struct Lineage {
    forked: bool,
    doorbell: Doorbell,
}

impl Lineage {
    /// The first process, which holds the doorbell and becomes the parent of those
    /// whose own parent ends before them: so somebody waits for each.
    ///
    /// # Errors
    /// What mmap(2) or prctl(2) says.
    pub fn of_first_process() -> io::Result<Self> {
        // SAFETY: PR_SET_CHILD_SUBREAPER takes a flag and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            forked: false,
            doorbell: Doorbell::of_this_process()?,
        })
    }

    /// A first process that adopts nobody.
    #[cfg(test)]
    pub fn of_test() -> Self {
        Self {
            forked: false,
            doorbell: Doorbell::of_this_process().expect("a page"),
        }
    }

    /// Whether this is a process that another one forked.
    pub const fn is_forked(&self) -> bool {
        self.forked
    }

    /// Waits for the doorbell. The answer is [`Value::Unit`] when it was handed over,
    /// and the wait status of the child that died with it. `newborn` is a child that
    /// takes it as its first act.
    fn wait_for_turn(&self, newborn: Option<i32>) -> Outcome {
        let this = sys::pid();
        loop {
            let holder = self.doorbell.holder();
            let (suspect, options) = match holder {
                Holder::Process(pid) if pid == this => return Ok(Value::Unit),
                Holder::Process(pid) => (Some(pid), libc::WNOHANG),
                // One that says so ends at once; another may live for long.
                Holder::Ending(pid) => (Some(pid), 0),
                Holder::NewbornOf(parent) if parent == this => (newborn, libc::WNOHANG),
                Holder::NewbornOf(_) => (None, 0),
            };
            if let Some(child) = suspect
                && has_ended(child, options)?
                && let Some(status) = self.inherit(child)?
            {
                return Ok(Value::ExitStatus(status));
            }
            self.doorbell.wait(holder);
        }
    }

    /// Takes the doorbell from a child that has ended with it, and gives its wait status;
    /// `None` when it had passed it on, and then its status is left for later.
    ///
    /// What the child did with the doorbell on its way to its end came after the look by
    /// which it was suspected, so the word is read again: the dead do not change it.
    fn inherit(&self, child: i32) -> Result<Option<i32>, Errno> {
        let this = sys::pid();
        let holder = self.doorbell.holder();
        let is_its_own = match holder {
            Holder::Process(pid) | Holder::Ending(pid) => pid == child,
            Holder::NewbornOf(parent) => parent == this,
        };
        if !is_its_own {
            return Ok(None);
        }
        let status = wait_for(child, child)?;
        self.doorbell.pass(holder, Holder::Process(this));
        Ok(Some(status))
    }
}

/// fork(2). Returns in the child with its pid at once, and in the parent when it
/// holds the doorbell again.
pub fn fork(lineage: &mut Lineage, coverage: &mut Coverage) -> Outcome {
    let pid = sys::pid();
    let (parent, newborn) = (Holder::Process(pid), Holder::NewbornOf(pid));
    let doorbell = lineage.doorbell;
    doorbell.pass(parent, newborn);
    // SAFETY: the agent has one thread, so nothing it needs is locked in the child.
    match unsafe { libc::fork() } {
        -1 => {
            let refused = Errno::last();
            doorbell.pass(newborn, parent);
            Err(refused.into())
        }
        0 => {
            lineage.forked = true;
            coverage.forget();
            let child = sys::pid();
            doorbell.pass(newborn, Holder::Process(child));
            Ok(Value::Pid(child))
        }
        child => {
            coverage.pause();
            lineage.wait_for_turn(Some(child))
        }
    }
}

/// Hands the doorbell to another process of the agent. Returns when this one holds
/// it again.
pub fn switch_to(lineage: &Lineage, pid: i32) -> Outcome {
    // SAFETY: getpgid(2) has no preconditions.
    let group = unsafe { libc::getpgid(pid) };
    // SAFETY: getpgrp(2) has no preconditions and always succeeds.
    if pid <= 0 || group != unsafe { libc::getpgrp() } {
        return Err(Errno(libc::ESRCH).into());
    }
    let this = Holder::Process(sys::pid());
    lineage.doorbell.pass(this, Holder::Process(pid));
    lineage.wait_for_turn(None)
}

/// Ends a forked process.
pub fn exit(lineage: &Lineage, status: u8) -> Outcome {
    if !lineage.forked {
        return Err(Errno(libc::EPERM).into());
    }
    let pid = sys::pid();
    lineage
        .doorbell
        .pass(Holder::Process(pid), Holder::Ending(pid));
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

/// Whether a child has ended; it is not reaped. False for a process that is no child of
/// this one. Waits for its end unless `options` of waitid(2) say otherwise.
fn has_ended(child: i32, options: libc::c_int) -> Result<bool, Errno> {
    let options = libc::WEXITED | libc::WNOWAIT | options;
    loop {
        // SAFETY: all zeroes are a value of this structure of plain integers.
        let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = child.cast_unsigned();
        // SAFETY: `found` is live; any pid may be waited for.
        let answer = unsafe { libc::waitid(libc::P_PID, id, &raw mut found, options) };
        match answer {
            // SAFETY: filled by the kernel for a child that has ended, else still zero.
            0 => return Ok(unsafe { found.si_pid() } == child),
            _ if Errno::last() == Errno(libc::EINTR) => {}
            _ if Errno::last() == Errno(libc::ECHILD) => return Ok(false),
            _ => return Err(Errno::last()),
        }
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

    /// The child hands the doorbell back and is handed it again, alive all the while.
    #[test]
    fn the_doorbell_goes_to_and_fro() {
        let mut state = State::unguarded();
        let test = sys::pid();
        let reply = perform(&mut state, Request::Fork);
        if sys::pid() != test {
            let back = perform(&mut state, Request::SwitchTo { pid: test });
            let status = if back == Reply::Done(Value::Unit) {
                5
            } else {
                6
            };
            perform(&mut state, Request::Exit { status });
        }
        assert_eq!(reply, Reply::Done(Value::Unit));
        let child = child_of_this_thread();
        let ended = perform(&mut state, Request::SwitchTo { pid: child });
        assert_eq!(ended, Reply::Done(Value::ExitStatus(5 << 8)));
        let gone = perform(&mut state, Request::SwitchTo { pid: child });
        assert_eq!(gone, Reply::Errno(libc::ESRCH));
    }

    #[test]
    fn the_doorbell_stays_in_the_family() {
        let state = &mut State::unguarded();
        for stranger in [0, -1, 1, i32::MIN, i32::MAX] {
            let reply = perform(state, Request::SwitchTo { pid: stranger });
            assert_eq!(reply, Reply::Errno(libc::ESRCH), "{stranger}");
        }
        let this = perform(state, Request::SwitchTo { pid: sys::pid() });
        assert_eq!(this, Reply::Done(Value::Unit));
    }

    /// A child that does this and ends, without having been reaped.
    fn ended_child(act: impl FnOnce(i32)) -> i32 {
        // SAFETY: the child calls what a child of a process with threads may call.
        match unsafe { libc::fork() } {
            -1 => panic!("no child: {}", io::Error::last_os_error()),
            0 => {
                act(sys::pid());
                // SAFETY: _exit(2) has no preconditions.
                unsafe { libc::_exit(7) }
            }
            child => {
                assert_eq!(has_ended(child, 0), Ok(true));
                child
            }
        }
    }

    /// The child says that it ends, and does, after it was seen to hold the doorbell.
    #[test]
    fn a_doorbell_is_taken_from_the_dead_whatever_they_said_last() {
        let lineage = Lineage::of_test();
        let (doorbell, this) = (lineage.doorbell, Holder::Process(sys::pid()));
        let ends_with = |last: fn(i32) -> Holder| {
            let child = ended_child(|child| doorbell.pass(this, last(child)));
            assert_eq!(lineage.inherit(child), Ok(Some(7 << 8)));
            assert_eq!(doorbell.holder(), this);
            assert_eq!(has_ended(child, 0), Ok(false), "reaped");
        };
        ends_with(Holder::Ending);
        ends_with(Holder::Process);
        doorbell.pass(this, Holder::NewbornOf(sys::pid()));
        ends_with(Holder::Ending);
    }

    /// The child passes it on and dies, after it was seen to hold the doorbell.
    #[test]
    fn what_the_dead_passed_on_is_not_taken() {
        let lineage = Lineage::of_test();
        let (doorbell, this) = (lineage.doorbell, Holder::Process(sys::pid()));
        let other = Holder::Process(1);
        let child = ended_child(|_| doorbell.pass(this, other));
        assert_eq!(lineage.inherit(child), Ok(None));
        assert_eq!(doorbell.holder(), other);
        assert_eq!(wait_for(child, child), Ok(7 << 8), "its status is kept");
    }

    #[test]
    fn a_newborn_is_its_parents_own() {
        let lineage = Lineage::of_test();
        let (doorbell, this) = (lineage.doorbell, Holder::Process(sys::pid()));
        let others = Holder::NewbornOf(1);
        let child = ended_child(|_| doorbell.pass(this, others));
        assert_eq!(lineage.inherit(child), Ok(None));
        assert_eq!(doorbell.holder(), others);
        assert_eq!(wait_for(child, child), Ok(7 << 8));
    }

    /// One that does not hold the doorbell dies unnoticed until it is its turn.
    #[test]
    fn a_death_in_the_background_is_told_in_its_turn() {
        let mut state = State::unguarded();
        let test = sys::pid();
        let reply = perform(&mut state, Request::Fork);
        if sys::pid() != test {
            perform(&mut state, Request::SwitchTo { pid: test });
        }
        assert_eq!(reply, Reply::Done(Value::Unit));
        let child = child_of_this_thread();
        // SAFETY: SIGKILL to a child of this test, not yet waited for.
        unsafe { libc::kill(child, libc::SIGKILL) };
        let ended = perform(&mut state, Request::SwitchTo { pid: child });
        assert_eq!(ended, Reply::Done(Value::ExitStatus(libc::SIGKILL)));
    }

    #[test]
    fn a_debugger_reads_and_writes_the_other_process() {
        let mut state = State::unguarded();
        let test = sys::pid();
        let word = Box::new(7_u64);
        let address = &raw const *word as u64;
        let reply = perform(&mut state, Request::Fork);
        if sys::pid() != test {
            perform(&mut state, Request::SwitchTo { pid: test });
            // SAFETY: the box is live; the tracer may have changed it.
            let poked = unsafe { std::ptr::read_volatile(&raw const *word) };
            let status = if poked == 9 { 5 } else { 6 };
            perform(&mut state, Request::Exit { status });
        }
        assert_eq!(reply, Reply::Done(Value::Unit));
        let pid = child_of_this_thread();
        let peeked = perform(&mut state, Request::Peek { pid, address });
        assert_eq!(peeked, Reply::Done(Value::Words(vec![7])));
        let nowhere = Request::Peek { pid, address: 8 };
        assert_eq!(perform(&mut state, nowhere), Reply::Errno(libc::EIO));
        let poked = Request::Poke {
            pid,
            address,
            word: 9,
        };
        assert_eq!(perform(&mut state, poked), Reply::Done(Value::Unit));
        let ended = perform(&mut state, Request::SwitchTo { pid });
        assert_eq!(ended, Reply::Done(Value::ExitStatus(5 << 8)));
        assert_eq!(*word, 7);
    }

    /// pid of the only child of the thread that runs this test.
    fn child_of_this_thread() -> i32 {
        let children = fs::read_to_string("/proc/thread-self/children").expect("readable");
        children.trim().parse().expect("one child")
    }

    #[test]
    fn the_first_process_does_not_exit() {
        let reply = perform(&mut State::unguarded(), Request::Exit { status: 0 });
        assert_eq!(reply, Reply::Errno(libc::EPERM));
    }
}
