//! A high precision event timer (IA-PC HPET specification 1.0a) whose registers are
//! a page of host memory: the guest reaches them without an exit, so that a mapping
//! of them can be followed from below like one of any window.
//!
//! What such a page can be is limited: nothing happens when the guest stores to it.
//! The main counter runs while the guest does and the enable bit is set, in steps of
//! [`STEP`]; comparators never fire.

use std::time::{Duration, Instant};

use addr::PAGE_SIZE;

use crate::config::WindowConfig;
use crate::window::Window;

/// Name of the page among the windows.
pub const HPET_NAME: &str = "hpet";
/// Bytes of the register block; the rest of the page has no meaning.
pub const HPET_REGISTERS_LEN_BYTES: u64 = 1024;

/// General capabilities and identification register (2.3.4).
const CAPABILITIES: u64 = 0x000;
/// General configuration register (2.3.5).
const CONFIGURATION: u64 = 0x010;
/// Bit of the configuration that lets the counter run.
const ENABLE: u64 = 1 << 0;
/// Main counter value register (2.3.7).
const COUNTER: u64 = 0x0f0;

/// Number of comparators, the least that there must be.
const TIMERS: u64 = INTERRUPTS.len() as u64;
/// Inputs of the I/O APIC that the comparators' interrupts are said to be wired to,
/// beyond the sixteen of old. None is ever raised.
pub(crate) const INTERRUPTS: [u32; 3] = [20, 21, 22];

/// Femtoseconds per tick: 10 MHz, the slowest that there may be (2.2).
const PERIOD_FS: u64 = 100_000_000;
/// Nanoseconds per tick.
const PERIOD_NS: u64 = PERIOD_FS / 1_000_000;

/// Time from one step of the counter to the next. A guest that waits for a
/// millisecond to pass by this clock waits for one step.
pub(crate) const STEP: Duration = Duration::from_millis(4);

/// The timer of a VM.
#[derive(Debug)]
pub struct Hpet {
    window: usize,
    capabilities: u64,
    /// Up to when the counter has been brought, while the guest runs.
    counted_to: Option<Instant>,
}

/// The page, as a window of its own.
pub(crate) fn page() -> WindowConfig {
    WindowConfig {
        name: HPET_NAME.to_owned(),
        npages: 1,
        read_only: false,
        align_bytes: PAGE_SIZE,
    }
}

impl Hpet {
    /// Puts the registers into `page`, the window of index `window`. The vendor is
    /// made up from `seed`, so that no two VMs need have the same.
    pub(crate) fn new(window: usize, page: &Window, seed: u64) -> Self {
        let vendor = (seed ^ (seed >> 16) ^ (seed >> 32) ^ (seed >> 48)) & 0xffff;
        let revision = 1;
        let counter_is_64_bit = 1 << 13;
        let timers = (TIMERS - 1) << 8;
        let capabilities = PERIOD_FS << 32 | vendor << 16 | counter_is_64_bit | timers | revision;
        // The page is as long as a page, so that all registers are in it.
        let _ = page.store(0, CAPABILITIES, capabilities);
        Self {
            window,
            capabilities,
            counted_to: None,
        }
    }

    /// Index of its page among the VM's windows.
    pub fn window(&self) -> usize {
        self.window
    }

    /// What stands in its first register.
    pub fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// What its registers hold: a kernel that has a driver for it sets it going before
    /// anybody asks.
    pub(crate) fn registers(page: &Window) -> Vec<u64> {
        let words = (0..HPET_REGISTERS_LEN_BYTES).step_by(8);
        words.filter_map(|at| page.load(0, at)).collect()
    }

    /// Gives its registers these values, but for the one that tells what it is.
    pub(crate) fn resume(page: &Window, registers: &[u64]) {
        let words = (0..HPET_REGISTERS_LEN_BYTES).step_by(8).zip(registers);
        for (at, word) in words.filter(|(at, _)| *at != CAPABILITIES) {
            // The registers are in the page.
            let _ = page.store(0, at, *word);
        }
    }

    /// The guest begins to run.
    pub(crate) fn start(&mut self, now: Instant) {
        self.counted_to = Some(now);
    }

    /// The guest stands still, after a last step.
    pub(crate) fn stop(&mut self, page: &Window, now: Instant) {
        self.step(page, now);
        self.counted_to = None;
    }

    /// Brings the counter up to `now`.
    pub(crate) fn step(&mut self, page: &Window, now: Instant) {
        let Some(counted_to) = self.counted_to else {
            return;
        };
        let elapsed = now.saturating_duration_since(counted_to).as_nanos();
        let ticks = u64::try_from(elapsed / u128::from(PERIOD_NS)).unwrap_or(u64::MAX);
        // What is left of a tick counts towards the next.
        let whole = Duration::from_nanos(ticks.saturating_mul(PERIOD_NS));
        self.counted_to = counted_to.checked_add(whole).or(Some(now));
        let enabled = page
            .load(0, CONFIGURATION)
            .is_some_and(|configuration| configuration & ENABLE != 0);
        if let (true, Some(counter)) = (enabled, page.load(0, COUNTER)) {
            // As above, the counter is in the page.
            let _ = page.store(0, COUNTER, counter.wrapping_add(ticks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::Gpa;

    const MS: Duration = Duration::from_millis(1);

    fn timer() -> (Hpet, Window) {
        let page = Window::new(&page(), Gpa::new(0xfed0_0000), 1).expect("built");
        (Hpet::new(4, &page, 0xabcd), page)
    }

    fn counter(page: &Window) -> u64 {
        page.load(0, COUNTER).expect("inside")
    }

    #[test]
    fn the_first_register_tells_of_three_timers_at_10_mhz() {
        let (hpet, page) = timer();
        let word = page.load(0, CAPABILITIES).expect("inside");
        assert_eq!(word, hpet.capabilities());
        assert_eq!(word >> 32, 100_000_000);
        assert_eq!(word >> 16 & 0xffff, 0xabcd);
        assert_eq!(word >> 8 & 0x1f, 2);
    }

    #[test]
    fn the_counter_runs_while_the_guest_does_and_it_is_enabled() {
        let (mut hpet, page) = timer();
        let begin = Instant::now();
        hpet.start(begin);
        hpet.step(&page, begin + MS);
        assert_eq!(counter(&page), 0, "not enabled");
        page.store(0, CONFIGURATION, ENABLE).expect("inside");
        hpet.step(&page, begin + 2 * MS);
        assert_eq!(counter(&page), 10_000);
        hpet.stop(&page, begin + 3 * MS);
        hpet.step(&page, begin + 9 * MS);
        assert_eq!(counter(&page), 20_000, "the guest stood still");
        hpet.start(begin + 9 * MS);
        hpet.step(&page, begin + 10 * MS);
        assert_eq!(counter(&page), 30_000);
    }

    #[test]
    fn registers_go_over_to_another_timer_which_stays_itself() {
        let (_, page) = timer();
        page.store(0, CONFIGURATION, ENABLE).expect("inside");
        page.store(0, COUNTER, 77).expect("inside");
        page.store(0, HPET_REGISTERS_LEN_BYTES, 5).expect("inside");
        let other = Window::new(&super::page(), Gpa::new(0xfed0_0000), 1).expect("built");
        let hpet = Hpet::new(4, &other, 0x1234);
        Hpet::resume(&other, &Hpet::registers(&page));
        let load = |at| other.load(0, at);
        assert_eq!(load(CAPABILITIES), Some(hpet.capabilities()));
        assert_eq!((load(CONFIGURATION), load(COUNTER)), (Some(1), Some(77)));
        assert_eq!(load(HPET_REGISTERS_LEN_BYTES), Some(0));
    }

    #[test]
    fn no_part_of_a_tick_is_lost() {
        let (mut hpet, page) = timer();
        page.store(0, CONFIGURATION, ENABLE).expect("inside");
        let begin = Instant::now();
        hpet.start(begin);
        for step in 1..=10 {
            hpet.step(&page, begin + step * Duration::from_nanos(150));
        }
        assert_eq!(counter(&page), 15);
    }
}
