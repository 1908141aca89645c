//! The processor's counter of time: it is read in half the time that the system's clock takes, twice in every request.
//!
//! It is used only where the system's own clock is made of it, and brought back in step with that clock at every tick.
//! Where the two part (a virtual machine has moved to another processor, or has slept) the system's clock is used from then
//! on.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use quanta::Clock;

/// The kernel's names of clocks that are made of the counter that [`quanta`] reads.
const MADE_OF_IT: [&str; 4] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
];

/// The counter is taken slow by a 32,768th, which is more than it is wrong, so that time is only ever put forward.
const SLOW: u32 = 15;

/// How far the clocks may part, in nanoseconds, beside a thousandth of the time since they were compared last.
const APART: u64 = 10_000_000;

/// A reading of the system's clock is good where it took no longer than this: nobody came between.
const AT_ONCE: u64 = 20_000;

static COUNTER: LazyLock<Counter> = LazyLock::new(Counter::new);

/// Nanoseconds since the first look at any clock in this process.
#[inline]
pub(super) fn nanos() -> u64 {
    COUNTER.nanos()
}

/// Brings the counter back in step with the system's clock.
pub(super) fn keep_in_step() {
    COUNTER.keep_in_step();
}

struct Counter {
    clock: Clock,
    raw: u64,
    origin: Instant,
    step: Step,
}

/// What is known of the counter.
#[derive(Debug)]
struct Step {
    trusted: AtomicBool,
    /// What it is behind by, in nanoseconds.
    behind: AtomicU64,
    /// When it was compared last, by the system's clock.
    compared: AtomicU64,
}

impl Counter {
    #[allow(
        clippy::disallowed_methods,
        reason = "one of the two places that read the time"
    )]
    fn new() -> Self {
        let clock = Clock::new();
        let origin = Instant::now();
        Self {
            raw: clock.raw(),
            origin,
            step: Step::new(is_the_system_s()),
            clock,
        }
    }

    #[inline]
    fn nanos(&self) -> u64 {
        if self.step.trusted.load(Ordering::Relaxed) {
            self.step.time(self.counted())
        } else {
            self.system()
        }
    }

    #[inline]
    fn counted(&self) -> u64 {
        self.clock.delta_as_nanos(self.raw, self.clock.raw())
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "one of the two places that read the time"
    )]
    fn system(&self) -> u64 {
        let since = Instant::now().duration_since(self.origin);
        since
            .as_secs()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(u64::from(since.subsec_nanos()))
    }

    fn keep_in_step(&self) {
        if !self.step.trusted.load(Ordering::Relaxed) {
            return;
        }
        let (before, counted, after) = (self.system(), self.counted(), self.system());
        if after.saturating_sub(before) < AT_ONCE && !self.step.follow(before, counted) {
            tracing::info!(
                "callerid: the processor's counter of time does not keep step with the system's clock, which is read \
                 instead from now on"
            );
        }
    }
}

impl Step {
    const fn new(trusted: bool) -> Self {
        Self {
            trusted: AtomicBool::new(trusted),
            behind: AtomicU64::new(0),
            compared: AtomicU64::new(0),
        }
    }

    #[inline]
    fn time(&self, counted: u64) -> u64 {
        let slow = counted - (counted >> SLOW);
        slow.wrapping_add(self.behind.load(Ordering::Relaxed))
    }

    /// Puts the time forward to the system's. Says whether the counter is still to be trusted.
    fn follow(&self, system: u64, counted: u64) -> bool {
        let since = system.saturating_sub(self.compared.swap(system, Ordering::Relaxed));
        let time = self.time(counted);
        if system.abs_diff(time) > APART + since / 1_000 {
            self.trusted.store(false, Ordering::Relaxed);
            return false;
        }
        let more = system.saturating_sub(time);
        self.behind.fetch_add(more, Ordering::Relaxed);
        true
    }
}

/// Whether the kernel trusts the counter: it knows of processors whose counters differ.
fn is_the_system_s() -> bool {
    const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(CURRENT).is_ok_and(|name| MADE_OF_IT.contains(&name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 250_000_000;

    /// What a counter shows that is wrong by so many millionths.
    fn wrong(system: u64, millionths: i64) -> u64 {
        system.saturating_add_signed(system as i64 / 1_000_000 * millionths)
    }

    #[test]
    fn time_keeps_step_and_never_runs_backwards() {
        for millionths in [-200, -1, 0, 1, 25] {
            let step = Step::new(true);
            let mut before = 0;
            for tick in 1..=40_000 {
                let system = tick * TICK;
                for moment in [system, system + TICK / 2] {
                    let time = step.time(wrong(moment, millionths));
                    assert!(time >= before, "{millionths}: {time} after {before}");
                    assert!(time.abs_diff(moment) < 100_000, "{millionths}");
                    before = time;
                    if moment == system {
                        assert!(step.follow(system, wrong(system, millionths)));
                        before = step.time(wrong(moment, millionths));
                    }
                }
            }
        }
    }

    #[test]
    fn a_counter_that_does_not_keep_step_is_not_trusted() {
        // It slept, it leapt, it began anew, it runs at another pace.
        let shown: [fn(u64) -> u64; 4] = [
            |system| system - 10 * TICK,
            |system| system + 10 * TICK,
            |_| 0,
            |system| 100 * TICK + (system - 100 * TICK) * 11 / 10,
        ];
        for counted in shown {
            let step = Step::new(true);
            for tick in 1..=100 {
                assert!(step.follow(tick * TICK, tick * TICK));
            }
            let system = 101 * TICK;
            assert!(!step.follow(system, counted(system)));
            assert!(!step.trusted.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn an_hour_without_a_tick_is_no_reason_for_mistrust() {
        let step = Step::new(true);
        let hour = 3_600_000_000_000;
        assert!(step.follow(hour, wrong(hour, -100)));
        assert_eq!(step.time(wrong(hour, -100)), hour);
    }

    #[test]
    fn both_ways_tell_the_same_time() {
        let counter = Counter::new();
        for _ in 0..1_000 {
            let (before, counted, after) = (counter.system(), counter.counted(), counter.system());
            // The counter may be wrong by a little, and its first reading lies a little apart from the clock's.
            let little = 1_000_000 + after / 1_000;
            assert!(counted + little >= before && counted <= after + little);
            counter.keep_in_step();
        }
    }
}
