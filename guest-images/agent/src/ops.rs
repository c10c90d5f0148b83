//! What each request does.

use std::io;

use wire::{Fd, Reply, Request, Value};

use crate::coverage::Coverage;
use crate::files;
use crate::kmsg;
use crate::memory::{self, Mapping, Remapping};
use crate::outcome::{Outcome, Refusal};
use crate::own::Own;
use crate::process::{self, Lineage};
use crate::ptrace;
use crate::sys::{self, Errno};
use crate::words;

/// What the agent knows from one request to the next.
#[derive(Debug)]
pub struct State {
    own: Own,
    lineage: Lineage,
    coverage: Coverage,
}

impl State {
    /// State of the first process. To be made last at start-up: what is mapped then
    /// is the agent's own.
    ///
    /// # Errors
    /// When there is no memory to share with forked processes, or /proc/self/maps
    /// cannot be read.
    pub fn of_init() -> io::Result<Self> {
        // Before what is the agent's own is looked at: its memory is a part of that.
        let lineage = Lineage::of_first_process()?;
        Ok(Self {
            own: Own::of_this_process()?,
            lineage,
            coverage: Coverage::default(),
        })
    }

    /// State that guards nothing of the test's process.
    #[cfg(test)]
    pub fn unguarded() -> Self {
        Self {
            own: Own::nothing(),
            lineage: Lineage::of_test(),
            coverage: Coverage::default(),
        }
    }
}

/// Carries `request` out. Does not return from those that end the process or the
/// guest; returns twice, one process after the other, from [`Request::Fork`].
pub fn perform(state: &mut State, request: Request) -> Reply {
    match request {
        Request::Several { requests } => several(state, &requests),
        request => perform_one(state, request),
    }
}

fn several(state: &mut State, requests: &[Vec<u8>]) -> Reply {
    let mut one = |bytes: &Vec<u8>| {
        let reply = match wire::whole(bytes) {
            Ok(request) if stands_alone(&request) => Reply::Rejected {
                reason: "not among several requests".into(),
            },
            Ok(request) => perform_one(state, request),
            Err(garbled) => Reply::Rejected {
                reason: garbled.to_string(),
            },
        };
        wire::part(&reply)
    };
    match requests.iter().map(&mut one).collect() {
        Ok(replies) => Reply::Done(Value::Replies(replies)),
        Err(error) => Reply::Rejected {
            reason: error.to_string(),
        },
    }
}

/// Whether who answers after it may be another process, or nobody.
const fn stands_alone(request: &Request) -> bool {
    matches!(
        request,
        Request::Several { .. }
            | Request::Fork
            | Request::Exit { .. }
            | Request::SwitchTo { .. }
            | Request::Crash(_)
    )
}

fn perform_one(state: &mut State, request: Request) -> Reply {
    match execute(state, request) {
        Ok(value) => Reply::Done(value),
        Err(Refusal::Errno(Errno(errno))) => Reply::Errno(errno),
        Err(Refusal::Signal(signal)) => Reply::Signal(signal),
        Err(Refusal::Rejected(reason)) => Reply::Rejected { reason },
    }
}

fn execute(state: &mut State, request: Request) -> Outcome {
    if let Some(fd) = descriptor(&request) {
        sys::spare(fd)?;
    }
    // The processes that these let go on may want the recording for themselves.
    let hands_over = matches!(request, Request::SwitchTo { .. } | Request::Exit { .. });
    if !hands_over {
        state.coverage.resume()?;
    }
    let outcome = carry_out(state, request);
    state.coverage.pause();
    outcome
}

/// The descriptor that a request is about.
fn descriptor(request: &Request) -> Option<Fd> {
    match request {
        Request::Close { fd }
        | Request::Read { fd, .. }
        | Request::Write { fd, .. }
        | Request::Ioctl { fd, .. } => Some(*fd),
        Request::Map { fd, .. } => *fd,
        _ => None,
    }
}

fn carry_out(state: &mut State, request: Request) -> Outcome {
    let own = &state.own;
    match request {
        Request::LoadModule { path, parameters } => files::load_module(path, parameters),
        Request::UnloadModule { name } => files::unload_module(name),
        Request::Open { path, mode } => files::open(path, mode),
        Request::Close { fd } => files::close(fd),
        Request::Read {
            fd,
            offset_bytes,
            len_bytes,
        } => files::read(fd, offset_bytes, len_bytes),
        Request::Write {
            fd,
            offset_bytes,
            bytes,
        } => files::write(fd, offset_bytes, &bytes),
        Request::Ioctl {
            fd,
            command,
            argument,
        } => files::ioctl(fd, command, argument),
        Request::Map {
            fd,
            fixed_at,
            len_bytes,
            prot,
            sharing,
            offset_bytes,
        } => {
            let mapping = Mapping {
                fd,
                fixed_at,
                len_bytes,
                prot,
                sharing,
                offset_bytes,
            };
            memory::map(own, &mapping)
        }
        Request::Unmap { address, len_bytes } => memory::unmap(own, address, len_bytes),
        Request::Protect {
            address,
            len_bytes,
            prot,
        } => memory::protect(own, address, len_bytes, prot),
        Request::Advise {
            address,
            len_bytes,
            advice,
        } => memory::advise(own, address, len_bytes, advice),
        Request::Remap {
            address,
            old_len_bytes,
            new_len_bytes,
            may_move,
            fixed_at,
        } => {
            let remapping = Remapping {
                address,
                old_len_bytes,
                new_len_bytes,
                may_move,
                fixed_at,
            };
            memory::remap(own, &remapping)
        }
        Request::Load {
            address,
            stride_bytes,
            count,
        } => words::load(address, stride_bytes, count),
        Request::Store {
            address,
            stride_bytes,
            words,
        } => words::store(own, address, stride_bytes, &words),
        Request::Fork => process::fork(&mut state.lineage, &mut state.coverage),
        Request::SwitchTo { pid } => process::switch_to(&state.lineage, pid),
        Request::Exit { status } => process::exit(&state.lineage, status),
        Request::Peek { pid, address } => ptrace::peek(pid, address),
        Request::Poke { pid, address, word } => ptrace::poke(own, pid, address, word),
        Request::ReadFile { path } => files::read_file(path),
        Request::Pagemap { address, npages } => files::pagemap(address, npages),
        Request::Log { text } => {
            kmsg::log(&text)?;
            Ok(Value::Unit)
        }
        Request::KernelLog => kmsg::read_all(),
        Request::StartCoverage => state.coverage.start(&state.lineage, &mut state.own),
        Request::Crash(how) => process::crash(&state.lineage, how),
        // Its requests come here one by one.
        Request::Several { .. } => Err(Refusal::Rejected("several requests in one".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_requests_are_answered_each_and_in_order() {
        let missing = Request::ReadFile {
            path: "/nonexistent".into(),
        };
        let there = Request::ReadFile {
            path: "/proc/sys/kernel/ostype".into(),
        };
        let nested = Request::Several {
            requests: Vec::new(),
        };
        let mut requests: Vec<Vec<u8>> = [&missing, &Request::Fork, &nested, &there]
            .map(|request| wire::part(request).expect("plain data"))
            .into();
        requests.push(vec![0xff]);
        let reply = perform(&mut State::unguarded(), Request::Several { requests });
        let Reply::Done(Value::Replies(replies)) = reply else {
            panic!("{reply:?}");
        };
        let replies = replies
            .iter()
            .map(|bytes| wire::whole(bytes).expect("a reply"));
        let replies: Vec<Reply> = replies.collect();
        let rejected = |reply: &Reply| matches!(reply, Reply::Rejected { .. });
        assert_eq!(replies.len(), 5);
        assert_eq!(replies[0], Reply::Errno(libc::ENOENT));
        assert!(rejected(&replies[1]) && rejected(&replies[2]) && rejected(&replies[4]));
        assert_eq!(replies[3], Reply::Done(Value::Bytes(b"Linux\n".to_vec())));
    }
}
