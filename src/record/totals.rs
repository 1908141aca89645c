//! Counts of a row, and the integral of what is in flight.

use std::sync::Arc;
use std::time::Duration;

use super::lane::Lane;
use crate::clock::Timestamp;
use crate::outcome::{Class, Reason};

/// Nanoseconds that requests may have taken in sum: 36 years, less than what a count without its begin is off by.
const LONG: u128 = 1 << 60;

/// Counts of a row since its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) started: u64,
    pub(crate) by_class: [u64; Class::COUNT],
    pub(crate) refused: [u64; Reason::COUNT],
    /// Let in, and refused if shadow were none. Counted among the classes too.
    pub(crate) would_refuse: [u64; Reason::COUNT],
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// The times at which requests ended less those at which they began, in nanoseconds, modulo 2^64.
    pub(crate) clock: u64,
}

impl Totals {
    pub(crate) fn flow(&self, at: Timestamp) -> Flow {
        Flow {
            at,
            started: self.started,
            ended: self.ended(),
            clock: self.clock,
        }
    }

    /// Requests that left, refused ones included.
    pub(crate) fn ended(&self) -> u64 {
        self.by_class.iter().chain(&self.refused).sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.clock = self.clock.wrapping_add(other.clock);
        self.request_bytes = self.request_bytes.wrapping_add(other.request_bytes);
        self.response_bytes = self.response_bytes.wrapping_add(other.response_bytes);
        for (sum, count) in self.by_class.iter_mut().zip(other.by_class) {
            *sum += count;
        }
        for (sum, count) in self.refused.iter_mut().zip(other.refused) {
            *sum += count;
        }
        for (sum, count) in self.would_refuse.iter_mut().zip(other.would_refuse) {
            *sum += count;
        }
    }

    /// Never negative: what ended is read before what started.
    pub(crate) fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.ended())
    }
}

/// Requests that came and went up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) at: Timestamp,
    pub(crate) started: u64,
    pub(crate) ended: u64,
    /// As in [`Totals`].
    pub(crate) clock: u64,
}

impl Flow {
    pub(crate) fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.ended)
    }

    /// How much request time has passed in flight since `before`: two requests that are in flight for a second are
    /// two seconds.
    ///
    /// It is the integral of the requests in flight, exact to the nanosecond without a look at any of them: the sum
    /// of the ends less the sum of the begins, and every open request counts as if it ended now. A request that
    /// begins or ends while the counters are read puts that off by decades; then it is estimated from the counts.
    pub(crate) fn busy_since(&self, before: &Self) -> Duration {
        let clock = |flow: &Self| {
            let open = flow.started.wrapping_sub(flow.ended);
            open.wrapping_mul(flow.at.as_nanos())
                .wrapping_add(flow.clock)
        };
        let nanos = clock(self).wrapping_sub(clock(before));
        let passed = self.at.since(before.at).as_nanos();
        let (first, last) = (before.in_flight(), self.in_flight());
        let begun = self.started.saturating_sub(before.started);
        // What began in between may have been in flight for all of the time, and not longer.
        let mut most = passed.saturating_mul(u128::from(first.saturating_add(begun)));
        if first == 0 && last == 0 {
            // A log tells of a request when it has ended, however long ago that began.
            most = most.max(LONG);
        }
        if u128::from(nanos) <= most {
            return Duration::from_nanos(nanos);
        }
        let mean = u128::from(first.saturating_add(last)) * passed / 2;
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }
}

pub(crate) fn totals(lanes: &[Arc<Lane>]) -> Totals {
    let mut totals = Totals::default();
    for lane in lanes {
        lane.ended(|class, count, _| totals.by_class[class] += count);
        lane.read_refusals(&mut totals.refused, &mut totals.would_refuse);
    }
    for lane in lanes {
        let (request, response) = lane.bytes();
        // A request that is moved away on another thread than it began on is taken off the lane that all write,
        // where fewer may have begun: only the sum is never negative.
        totals.started = totals.started.wrapping_add(lane.started());
        totals.clock = totals.clock.wrapping_add(lane.clock());
        // A client declares what it likes, and a sum of it may run over.
        totals.request_bytes = totals.request_bytes.wrapping_add(request);
        totals.response_bytes = totals.response_bytes.wrapping_add(response);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_the_integral_of_what_is_in_flight() {
        let at = |millis: u64| Timestamp::from_secs(1_700_000_000) + Duration::from_millis(millis);
        let mut totals = Totals::default();
        let begin = |totals: &mut Totals, t: Timestamp| {
            totals.started += 1;
            totals.clock = totals.clock.wrapping_sub(t.as_nanos());
        };
        let before = totals.flow(at(0));
        begin(&mut totals, at(0));
        begin(&mut totals, at(100));
        let middle = totals.flow(at(200));
        assert_eq!(middle.busy_since(&before), Duration::from_millis(300));
        totals.by_class[0] += 1;
        totals.clock = totals.clock.wrapping_add(at(250).as_nanos());
        let end = totals.flow(at(400));
        assert_eq!(end.busy_since(&middle), Duration::from_millis(250));
        assert_eq!(end.busy_since(&before), Duration::from_millis(550));
        // Read in the middle of a start: a count without its begin, then whole again.
        let torn = Flow {
            started: end.started + 1,
            ..end
        };
        assert_eq!(torn.busy_since(&before), Duration::from_millis(400));
        let later = totals.flow(at(500));
        assert_eq!(later.busy_since(&torn), Duration::from_millis(150));
    }

    #[test]
    fn a_request_that_is_told_of_at_its_end_counts_in_full() {
        let at = |secs: u64| Timestamp::from_secs(secs);
        let before = Totals::default().flow(at(1_700_000_000));
        let totals = Totals {
            started: 1,
            by_class: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            clock: 90_000_000_000,
            ..Totals::default()
        };
        let after = totals.flow(at(1_700_000_001));
        assert_eq!(after.busy_since(&before), Duration::from_secs(90));
        // Nothing is open, and an end was read without its begin: no time of that length has passed.
        let torn = Totals {
            clock: at(1_700_000_001).as_nanos(),
            ..totals
        };
        let torn = torn.flow(at(1_700_000_001)).busy_since(&before);
        assert_eq!(torn, Duration::ZERO);
    }
}
