//! The loop in which a run is awaited: reports of vCPUs, the watchdog, a stop,
//! lines of the console.

use std::io;
use std::time::Duration;

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::error::VmError;

/// Why the loop came back, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wakeup {
    /// Another thread asked to stop.
    Stop,
    /// A vCPU reported.
    Reported,
    /// The guest has not rung for too long.
    Watchdog,
    /// The console has a new line.
    Console,
    /// It is time for the next step of a clock.
    Tick,
}

/// Descriptors that wake the loop, and what they have said.
struct Wakers {
    reported: EventFd,
    stop: EventFd,
    console: EventFd,
    watchdog: TimerFd,
    tick: TimerFd,
    pending: Vec<Wakeup>,
}

impl MutEventSubscriber for Wakers {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        let wakeup = match events.data() {
            0 => {
                // The report itself lies in a channel; the count says nothing.
                let _ = self.reported.read();
                Wakeup::Reported
            }
            // A stop is never taken back, so its count is left standing.
            1 => Wakeup::Stop,
            2 => {
                let _ = self.console.read();
                Wakeup::Console
            }
            3 => {
                let _ = self.watchdog.wait();
                Wakeup::Watchdog
            }
            _ => {
                let _ = self.tick.wait();
                Wakeup::Tick
            }
        };
        self.pending.push(wakeup);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let sources = [
            Events::with_data(&self.reported, 0, EventSet::IN),
            Events::with_data(&self.stop, 1, EventSet::IN),
            Events::with_data(&self.console, 2, EventSet::IN),
            Events::with_data(&self.watchdog, 3, EventSet::IN),
            Events::with_data(&self.tick, 4, EventSet::IN),
        ];
        for source in sources {
            if let Err(error) = ops.add(source) {
                tracing::error!(?error, "an event source cannot be watched");
            }
        }
    }
}

/// The event loop of one VM.
pub(crate) struct EventLoop {
    manager: EventManager<Wakers>,
    wakers: SubscriberId,
}

fn failed(error: event_manager::Error) -> VmError {
    VmError::EventLoop(error.to_string())
}

fn timer() -> Result<TimerFd, VmError> {
    TimerFd::new().map_err(timer_failed("create a timer"))
}

fn timer_failed(what: &'static str) -> impl FnOnce(vmm_sys_util::errno::Error) -> VmError {
    move |error| VmError::host(what)(io::Error::from_raw_os_error(error.errno()))
}

fn clone(fd: &EventFd) -> Result<EventFd, VmError> {
    fd.try_clone()
        .map_err(VmError::host("duplicate an eventfd"))
}

impl EventLoop {
    pub(crate) fn new(reported: &EventFd, console: &EventFd) -> Result<Self, VmError> {
        let wakers = Wakers {
            reported: clone(reported)?,
            stop: EventFd::new(EFD_NONBLOCK).map_err(VmError::host("create an eventfd"))?,
            console: clone(console)?,
            watchdog: timer()?,
            tick: timer()?,
            pending: Vec::new(),
        };
        let mut manager = EventManager::new().map_err(failed)?;
        let wakers = manager.add_subscriber(wakers);
        Ok(Self { manager, wakers })
    }

    fn wakers(&mut self) -> Result<&mut Wakers, VmError> {
        self.manager.subscriber_mut(self.wakers).map_err(failed)
    }

    /// Starts the watchdog anew.
    pub(crate) fn arm(&mut self, after: Duration) -> Result<(), VmError> {
        let wakers = self.wakers()?;
        wakers.pending.retain(|wakeup| *wakeup != Wakeup::Watchdog);
        wakers
            .watchdog
            .reset(after, None)
            .map_err(timer_failed("arm the watchdog"))
    }

    /// Wakes the loop each time that `step` has passed, from now on; `None` no more.
    pub(crate) fn tick_every(&mut self, step: Option<Duration>) -> Result<(), VmError> {
        let wakers = self.wakers()?;
        wakers.pending.retain(|wakeup| *wakeup != Wakeup::Tick);
        match step {
            Some(step) => wakers.tick.reset(step, Some(step)),
            None => wakers.tick.clear(),
        }
        .map_err(timer_failed("set the timer of a clock"))
    }

    /// Waits for the next event.
    pub(crate) fn wait(&mut self) -> Result<Wakeup, VmError> {
        loop {
            let pending = &mut self.wakers()?.pending;
            pending.sort_unstable();
            if !pending.is_empty() {
                return Ok(pending.remove(0));
            }
            self.manager.run().map_err(failed)?;
        }
    }

    pub(crate) fn stop_handle(&mut self) -> Result<EventFd, VmError> {
        clone(&self.wakers()?.stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventfd() -> EventFd {
        EventFd::new(EFD_NONBLOCK).expect("an eventfd")
    }

    #[test]
    fn a_stop_comes_before_everything_else_and_stays() {
        let (reported, console) = (eventfd(), eventfd());
        let mut events = EventLoop::new(&reported, &console).expect("a loop");
        console.write(1).expect("written");
        reported.write(1).expect("written");
        events
            .stop_handle()
            .expect("a handle")
            .write(1)
            .expect("written");
        assert_eq!(events.wait().expect("an event"), Wakeup::Stop);
        assert_eq!(events.wait().expect("an event"), Wakeup::Reported);
        assert_eq!(events.wait().expect("an event"), Wakeup::Console);
        assert_eq!(events.wait().expect("an event"), Wakeup::Stop);
    }

    #[test]
    fn ticks_come_until_they_are_called_off() {
        let (reported, console) = (eventfd(), eventfd());
        let mut events = EventLoop::new(&reported, &console).expect("a loop");
        let step = Duration::from_millis(1);
        events.tick_every(Some(step)).expect("set");
        assert_eq!(events.wait().expect("an event"), Wakeup::Tick);
        assert_eq!(events.wait().expect("an event"), Wakeup::Tick);
        events.tick_every(None).expect("called off");
        events.arm(10 * step).expect("armed");
        assert_eq!(events.wait().expect("an event"), Wakeup::Watchdog);
    }

    #[test]
    fn the_watchdog_barks_once_each_time_it_is_armed() {
        let (reported, console) = (eventfd(), eventfd());
        let mut events = EventLoop::new(&reported, &console).expect("a loop");
        events.arm(Duration::from_millis(1)).expect("armed");
        assert_eq!(events.wait().expect("an event"), Wakeup::Watchdog);
        reported.write(1).expect("written");
        assert_eq!(events.wait().expect("an event"), Wakeup::Reported);
    }
}
