//! Letting a VM run to its agent's doorbell, and bringing all of it to a halt.

use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::error::{End, Ended, VmError};
use crate::events::Wakeup;
use crate::hpet;
use crate::stuck;
use crate::vcpu::{Report, Vcpu};
use crate::vm::Vm;

/// Lines of the console that an error carries.
const TAIL_LINES: usize = 20;
/// How long a kicked vCPU is given before it is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(10);

/// Who brought the guest to a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rang {
    /// The agent, at its port.
    Agent,
    /// A driver, at the device's doorbell register.
    Device,
}

impl Vm {
    /// Lets the guest run until its agent rings, and stops all of its vCPUs.
    ///
    /// # Errors
    /// [`VmError::Ended`] when the guest ends or hangs instead; ever after, too.
    pub fn run_to_doorbell(&mut self) -> Result<(), VmError> {
        self.shared.bus().stop_at_device = false;
        self.run_until_rung().map(|_| ())
    }

    /// Lets the guest run until a driver stores to the device's doorbell register or
    /// the agent rings, whichever comes first. At the device's, the vCPU stands in that
    /// store, in the middle of the driver.
    ///
    /// # Errors
    /// As [`Vm::run_to_doorbell`].
    pub fn run_to_any_doorbell(&mut self) -> Result<Rang, VmError> {
        self.shared.bus().stop_at_device = true;
        self.run_until_rung()
    }

    fn run_until_rung(&mut self) -> Result<Rang, VmError> {
        if let Some(ended) = &self.ended {
            return Err(VmError::Ended(ended.clone()));
        }
        self.shared.pause.store(false, Ordering::Release);
        self.events.arm(self.hang_after)?;
        self.start_clock()?;
        self.vcpus.iter().for_each(Vcpu::run);
        let mut running = self.vcpus.len();
        let first = loop {
            match self.events.wait()? {
                Wakeup::Stop => break Outcome::End(End::Stopped),
                Wakeup::Watchdog => break Outcome::Hang,
                Wakeup::Console => self.echo_console(),
                Wakeup::Tick => self.step_clock(),
                Wakeup::Reported => {
                    if let Ok((index, report)) = self.reports.try_recv() {
                        running -= 1;
                        break Outcome::of(index, report);
                    }
                }
            }
        };
        let run = self.conclude(first, running);
        self.stop_clock()?;
        self.echo_console();
        run
    }

    /// The event timer's counter is about to run.
    fn start_clock(&mut self) -> Result<(), VmError> {
        if let Some(hpet) = &mut self.hpet {
            hpet.start(Instant::now());
            self.events.tick_every(Some(hpet::STEP))?;
        }
        Ok(())
    }

    fn step_clock(&mut self) {
        if let Some(hpet) = &mut self.hpet
            && let Some(page) = self.windows.get(hpet.window())
        {
            hpet.step(page, Instant::now());
        }
    }

    fn stop_clock(&mut self) -> Result<(), VmError> {
        if let Some(hpet) = &mut self.hpet
            && let Some(page) = self.windows.get(hpet.window())
        {
            hpet.stop(page, Instant::now());
            self.events.tick_every(None)?;
        }
        Ok(())
    }

    /// Prints new lines of the console when the configuration asks for it.
    pub(crate) fn echo_console(&self) {
        if self.echo {
            for line in self.console.take_lines() {
                eprintln!("guest| {line}");
            }
        }
    }

    /// Brings the remaining vCPUs to a halt and says how the run ended.
    fn conclude(&mut self, first: Outcome, running: usize) -> Result<Rang, VmError> {
        let mut outcome = first;
        for (index, report) in self.pause_all(running) {
            outcome = outcome.and(Outcome::of(index, report));
        }
        match outcome {
            Outcome::Doorbell(index, who) => {
                self.at_doorbell = Some(index);
                Ok(who)
            }
            Outcome::Hang => {
                let after = self.hang_after;
                let vcpus = self.vcpus.iter().map(|vcpu| stuck::describe(&vcpu.fd()));
                let vcpus = vcpus.collect();
                Err(self.end(End::Hang { after, vcpus }))
            }
            Outcome::End(cause) => Err(self.end(cause)),
            // A pause that nobody asked for cannot be told from a stop.
            Outcome::Paused => Err(self.end(End::Stopped)),
        }
    }

    /// Stops `running` vCPUs and gives what each says, in the order of arrival.
    fn pause_all(&self, running: usize) -> Vec<(usize, Report)> {
        self.shared.pause.store(true, Ordering::Release);
        let mut reports = Vec::new();
        while reports.len() < running {
            self.vcpus.iter().for_each(Vcpu::kick);
            match self.reports.recv_timeout(KICK_AGAIN) {
                Ok(report) => reports.push(report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        reports
    }

    fn end(&mut self, cause: End) -> VmError {
        let cause = match (cause, self.console.find_line("Kernel panic - not syncing")) {
            (End::Reset | End::TripleFault { .. }, Some(line)) => End::Panic { line },
            (cause, _) => cause,
        };
        let ended = Box::new(Ended {
            cause,
            console_tail: self.console.tail(TAIL_LINES),
        });
        self.ended = Some(ended.clone());
        VmError::Ended(ended)
    }
}

/// How a run ended, the most serious report of all vCPUs.
enum Outcome {
    Doorbell(usize, Rang),
    Paused,
    Hang,
    End(End),
}

impl Outcome {
    fn of(index: usize, report: Report) -> Self {
        match report {
            Report::Doorbell => Self::Doorbell(index, Rang::Agent),
            Report::DeviceDoorbell => Self::Doorbell(index, Rang::Device),
            Report::Paused => Self::Paused,
            Report::Ended(end) => Self::End(end),
        }
    }

    fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Doorbell(..), Self::Doorbell(..)) => Self::End(End::DoorbellCollision),
            (Self::Doorbell(..), Self::End(end)) => Self::End(end),
            (first, _) => first,
        }
    }
}
