//! What an adaptive ceiling would be, from how latency changes with the load.
//!
//! The rule is that of `Gradient2Limit` in Netflix' concurrency-limits, with its constants: while requests take
//! longer than one and a half times their long-term mean, the limit shrinks in proportion; while they do not, it
//! grows by a few. It follows the load only where half of it is used. It is measured on windows of a second, as
//! `WindowedLimit` does there. Nothing is refused by it: on a cold start, in a stall, or when a dependency becomes
//! slow it can mistake slowness for load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::lock::lock;

/// Windows that the long-term mean remembers.
const LONG: f64 = 600.0;
/// Windows in which it is a plain mean.
const WARM_UP: u32 = 10;
/// How much longer than the long-term mean requests may take.
const TOLERANCE: f64 = 1.5;
const SMOOTHING: f64 = 0.2;
/// What may queue.
const QUEUE: f64 = 4.0;
const WINDOW: Duration = Duration::from_secs(1);
/// Requests that a window needs.
const SAMPLES: u64 = 10;

/// An adaptive limit, as pure arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gradient {
    min: u32,
    max: u32,
    limit: f64,
    /// The long-term mean of latency, in seconds.
    long: f64,
    windows: u32,
}

impl Gradient {
    fn new(min: u32, max: u32, start: u32) -> Self {
        Self {
            min,
            max,
            limit: f64::from(start.clamp(min, max.max(min))),
            long: 0.0,
            windows: 0,
        }
    }

    /// A window has ended in which requests took `short` seconds, and at most `in_flight` were in flight.
    fn update(&mut self, short: f64, in_flight: u32) {
        if !(short.is_finite() && short > 0.0) {
            return;
        }
        self.windows = self.windows.saturating_add(1);
        let part = if self.windows <= WARM_UP {
            1.0 / f64::from(self.windows)
        } else {
            2.0 / (LONG + 1.0)
        };
        self.long += (short - self.long) * part;
        let long = self.long;
        if long / short > 2.0 {
            // After a time of overload: the mean comes down faster than it went up.
            self.long *= 0.95;
        }
        if f64::from(in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * long / short).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + QUEUE;
        let limit = self.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING;
        self.limit = limit.max(f64::from(self.min)).min(f64::from(self.max));
    }
}

/// The adaptive limit, what it is computed from, and what it would have refused.
#[derive(Debug)]
pub(super) struct Adaptive {
    /// [`u32::MAX`] where there is none.
    limit: AtomicU32,
    nanos: AtomicU64,
    samples: AtomicU64,
    peak: AtomicU32,
    would_refuse: AtomicU64,
    state: Mutex<Option<(Gradient, Timestamp)>>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            limit: AtomicU32::new(u32::MAX),
            nanos: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            would_refuse: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }
}

impl Adaptive {
    /// Other bounds; where they are new, the limit starts at `start`.
    pub(super) fn set(&self, bounds: Option<(u32, u32)>, start: u32) {
        let mut state = lock(&self.state);
        let before = state.take();
        *state = bounds.map(|(min, max)| match before {
            Some((known, since)) => {
                let limit = known.limit.max(f64::from(min)).min(f64::from(max));
                let moved = Gradient {
                    min,
                    max,
                    limit,
                    ..known
                };
                (moved, since)
            }
            None => (Gradient::new(min, max, start), Timestamp::ZERO),
        });
        self.publish(state.as_ref());
    }

    fn publish(&self, state: Option<&(Gradient, Timestamp)>) {
        let limit = state.map_or(u32::MAX, |(gradient, _)| gradient.limit.floor() as u32);
        self.limit.store(limit, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    #[inline]
    fn is_on(&self) -> bool {
        self.limit() != u32::MAX
    }

    /// A request has come in, beside `held` others.
    #[inline]
    pub(super) fn entered(&self, held: u32) {
        if self.is_on() && held >= self.peak.load(Ordering::Relaxed) {
            self.peak
                .fetch_max(held.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// A request has been answered.
    #[inline]
    pub(super) fn answered(&self, took: Duration) {
        if self.is_on() {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            self.nanos.fetch_add(nanos, Ordering::Relaxed);
            self.samples.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn would_refuse(&self) {
        self.would_refuse.fetch_add(1, Ordering::Relaxed);
    }

    /// The limit with its bounds, and how many requests it would have refused.
    pub(super) fn read(&self) -> Option<(u32, (u32, u32), u64)> {
        let state = lock(&self.state);
        let (gradient, _) = state.as_ref()?;
        let refused = self.would_refuse.load(Ordering::Relaxed);
        Some((self.limit(), (gradient.min, gradient.max), refused))
    }

    /// Computes the limit anew when a window is over.
    pub(super) fn tick(&self, now: Timestamp) {
        if !self.is_on() {
            return;
        }
        let mut state = lock(&self.state);
        let Some((gradient, since)) = state.as_mut() else {
            return;
        };
        if now.since(*since) < WINDOW || self.samples.load(Ordering::Relaxed) < SAMPLES {
            return;
        }
        *since = now;
        let samples = self.samples.swap(0, Ordering::Relaxed);
        let nanos = self.nanos.swap(0, Ordering::Relaxed);
        let peak = self.peak.swap(0, Ordering::Relaxed);
        gradient.update(nanos as f64 / samples as f64 / 1e9, peak);
        self.publish(state.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that answers at once up to `capacity` requests, and beyond that makes them wait.
    fn settle(gradient: &mut Gradient, capacity: f64, windows: usize) {
        for _ in 0..windows {
            let load = gradient.limit.max(1.0);
            gradient.update(0.010 * (load / capacity).max(1.0), load as u32);
        }
    }

    #[test]
    fn it_grows_while_latency_stays_and_stops_near_what_the_service_can_do() {
        let mut gradient = Gradient::new(20, 1_000, 20);
        settle(&mut gradient, 200.0, 10);
        let early = gradient.limit;
        settle(&mut gradient, 200.0, 400);
        assert!(early > 20.0 && gradient.limit > 200.0, "{gradient:?}");
        assert!(gradient.limit < 450.0, "{gradient:?}");
    }

    #[test]
    fn it_shrinks_when_requests_take_longer_and_keeps_its_bounds() {
        let mut gradient = Gradient::new(20, 100, 100);
        for _ in 0..20 {
            gradient.update(0.010, 100);
        }
        assert!(
            (gradient.limit - 100.0).abs() < 1e-9,
            "the most: {gradient:?}"
        );
        gradient.update(0.100, 100);
        assert!(gradient.limit < 100.0);
        for _ in 0..60 {
            gradient.update(1.0, 100);
        }
        assert!((20.0..60.0).contains(&gradient.limit), "{gradient:?}");
    }

    #[test]
    fn it_does_not_grow_where_it_is_not_used_and_survives_what_is_no_latency() {
        let mut gradient = Gradient::new(20, 1_000, 100);
        for _ in 0..50 {
            gradient.update(0.010, 10);
        }
        assert_eq!(gradient.limit, 100.0);
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            gradient.update(odd, 100);
        }
        assert_eq!((gradient.limit, gradient.windows), (100.0, 50));
    }

    #[test]
    fn a_window_needs_its_time_and_its_samples() {
        let adaptive = Adaptive::default();
        adaptive.answered(Duration::from_secs(1));
        assert_eq!(adaptive.read(), None);
        adaptive.set(Some((10, 50)), 30);
        let second = |n: u64| Timestamp::from_secs(1_000 + n);
        for window in 1..=5 {
            for request in 0..20 {
                adaptive.entered(request);
                adaptive.answered(Duration::from_millis(10));
            }
            adaptive.tick(second(window));
            adaptive.tick(second(window));
        }
        let (limit, bounds, refused) = adaptive.read().unwrap();
        assert_eq!((limit, bounds, refused), (34, (10, 50), 0));
        adaptive.set(Some((40, 50)), 30);
        assert_eq!(adaptive.limit(), 40);
        adaptive.set(None, 30);
        assert_eq!((adaptive.limit(), adaptive.read()), (u32::MAX, None));
    }
}
