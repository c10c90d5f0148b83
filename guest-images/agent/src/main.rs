//! The guest's /init: carries out what the host asks, and reports what came of it.
//!
//! It answers through the message area and the doorbell of the [`wire`] crate,
//! never through the serial line, and needs nothing of the driver under test.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the agent is the /init of an x86-64 Linux guest; build it for that target");

mod access;
mod channel;
mod coverage;
mod doorbell;
mod files;
mod kmsg;
mod memory;
mod ops;
mod outcome;
mod own;
mod process;
mod ptrace;
mod startup;
mod sys;
#[cfg(test)]
mod test_support;
mod words;

use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;

use wire::{Answer, Reply};

/// pid of the process that the kernel starts as /init.
const INIT_PID: u32 = 1;

fn main() -> ExitCode {
    if std::process::id() != INIT_PID {
        eprintln!(
            "agent: this program is the /init of a guest and mounts file systems; \
             `mapwitness check` boots a guest that runs it"
        );
        return ExitCode::from(2);
    }
    kmsg::report_panics();
    match process::start_agent() {
        Ok(process::Role::Agent) => {
            let Err(error) = serve();
            kmsg::report(&with_causes(error.as_ref()));
        }
        Ok(process::Role::Init(status)) => kmsg::report(&format!("the agent ended: {status}")),
        Err(error) => kmsg::report(&format!("/init cannot start the agent: {error}")),
    }
    // The end of /init is a kernel panic: the console's last lines are the report.
    ExitCode::FAILURE
}

/// Answers requests until the guest ends.
fn serve() -> Result<Infallible, Box<dyn Error>> {
    let mut area = startup::start()?;
    access::survive_faults()?;
    let log = kmsg::Watch::start().map_err(|errno| startup::StartError::Log(errno.into()))?;
    let mut state = ops::State::of_init()?;
    let mut reply = Reply::Ready {
        kernel_release: sys::kernel_release()?,
    };
    loop {
        // Which process this is changes with every fork.
        let answer = Answer {
            pid: sys::pid(),
            log_has_news: log.has_news(),
            reply,
        };
        reply = match channel::exchange(&mut area, &answer, startup::ring_doorbell)? {
            Ok(request) => ops::perform(&mut state, request),
            Err(garbled) => Reply::Rejected {
                reason: garbled.to_string(),
            },
        };
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
