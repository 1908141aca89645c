//! The brake on a caller in a runaway: a quota beside its own, set by detection and taken away by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Admission;
use super::bucket::Bucket;
use super::mode::Mode;
use super::quota::Quota;
use super::seat::Seat;
use crate::clock::Timestamp;
use crate::lock::lock;

/// What a caller in a runaway is held to.
#[derive(Debug)]
pub(crate) struct Brake {
    pub(super) bucket: Arc<Bucket>,
    pub(super) max_in_flight: Option<u32>,
    /// Requests in flight that came before it, and so have no place under it.
    older: AtomicU32,
    pub(super) mode: Mode,
}

impl Brake {
    /// How many requests in flight may have a place under it.
    pub(super) fn places(&self) -> Option<u32> {
        let older = self.older.load(Ordering::Acquire);
        self.max_in_flight.map(|max| max.saturating_sub(older))
    }
}

impl Admission {
    /// Holds a caller to a quota, and to requests in flight where those are what runs away, until it is released. It
    /// has one brake: another takes the place of the first, and what was spent under that is spent. `in_flight` says
    /// how many requests it has in flight.
    pub(crate) fn brake(
        &self,
        seat: &Seat,
        quota: Quota,
        max_in_flight: Option<u32>,
        mode: Mode,
        in_flight: impl Fn() -> u64,
        now: Timestamp,
    ) {
        let _one_at_a_time = lock(&self.changing);
        let bucket = match &*seat.brake.load() {
            Some(before) => before.bucket.under(quota, now),
            None => Arc::new(Bucket::new(quota)),
        };
        // A brake in shadow would take what it would have refused for what is in flight.
        let counts = mode.min(self.mode()) == Mode::Enforce && max_in_flight.is_some();
        let older = if counts { older(seat, in_flight) } else { 0 };
        let brake = Brake {
            bucket,
            max_in_flight,
            older: older.into(),
            mode,
        };
        if seat.brake.swap(Some(Arc::new(brake))).is_none() {
            self.brakes.fetch_add(1, Ordering::AcqRel);
        }
        self.set_gate();
    }

    /// What came before the brake ends by and by. Call it a few times a second.
    pub(crate) fn look_at_brake(&self, seat: &Seat, in_flight: impl Fn() -> u64) {
        let brake = seat.brake.load();
        if let Some(brake) = &*brake
            && brake.older.load(Ordering::Acquire) > 0
        {
            brake
                .older
                .fetch_min(older(seat, in_flight), Ordering::AcqRel);
        }
    }

    /// Takes the brake away.
    pub(crate) fn release(&self, seat: &Seat) {
        let _one_at_a_time = lock(&self.changing);
        if seat.brake.swap(None).is_some() {
            self.brakes.fetch_sub(1, Ordering::AcqRel);
        }
        self.set_gate();
    }
}

/// Of so many requests in flight, those that have no place under the brake and are no streams, which count apart.
fn older(seat: &Seat, in_flight: impl Fn() -> u64) -> u32 {
    let apart = || {
        let streams = match seat.terms().and_then(|terms| terms.max_streams()) {
            Some(_) => seat.streams.load(Ordering::Acquire),
            None => 0,
        };
        u64::from(seat.braked.load(Ordering::Acquire)) + u64::from(streams)
    };
    // Requests come and go meanwhile: rather one too many, until the next look.
    let before = apart();
    let in_flight = in_flight();
    let older = in_flight.saturating_sub(before.min(apart()));
    u32::try_from(older).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::{Ask, Gate, Permit, Policies, Policy, Remembered, Style, Subject, Verdict};
    use crate::caller::Provenance;
    use crate::outcome::Reason;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    const ASK: Ask<'_> = Ask {
        method: "GET",
        template: "/",
        cost: None,
        now: NOW,
    };

    fn subject(name: &str) -> Subject<'_> {
        Subject {
            name,
            provenance: Provenance::Verified,
            proven: true,
        }
    }

    fn admission(policies: Policies) -> Admission {
        Admission::new(policies, Mode::Enforce, Style::default(), NOW)
    }

    fn held(admission: &Admission, seat: &Seat) {
        admission.brake(seat, Quota::per_hour(1), None, Mode::Enforce, || 0, NOW);
    }

    /// What becomes of three requests of a caller with a brake on, and of so many after it is released, while another
    /// has one on.
    fn refused(admission: &Admission, after: usize) -> Vec<Option<Reason>> {
        let other = admission.seat(&subject("other"));
        held(admission, &other);
        let subject = subject("a");
        let seat = admission.seat(&subject);
        held(admission, &seat);
        (0..3 + after)
            .map(|request| {
                if request == 3 {
                    admission.release(&seat);
                }
                let mut denial = None;
                let _ = admission.decide(
                    &seat,
                    &ASK,
                    || subject,
                    &mut Remembered::default(),
                    &mut denial,
                );
                denial.map(|denial| denial.reason)
            })
            .collect()
    }

    const HELD: Option<Reason> = Some(Reason::Runaway);

    #[test]
    fn a_brake_holds_until_it_is_released() {
        let admission = admission(Policies::default());
        assert_eq!(refused(&admission, 1), [None, HELD, HELD, None]);
    }

    /// Requests that stay in flight, of a caller under a policy of its own.
    struct Slow {
        admission: Admission,
        seat: Arc<Seat>,
        open: Vec<Option<Permit>>,
    }

    impl Slow {
        fn under(policy: Policy) -> Self {
            let admission = admission(Policies {
                default: policy,
                ..Policies::default()
            });
            let seat = admission.seat(&subject("a"));
            Self {
                admission,
                seat,
                open: Vec::new(),
            }
        }

        /// Two in flight at most.
        fn brake(&self, mode: Mode) {
            let quota = Quota::per_second(100);
            let in_flight = || self.open.len() as u64;
            self.admission
                .brake(&self.seat, quota, Some(2), mode, in_flight, NOW);
        }

        fn look(&self) {
            let in_flight = || self.open.len() as u64;
            self.admission.look_at_brake(&self.seat, in_flight);
        }

        /// Why they were refused, or would have been.
        fn send(&mut self, requests: usize) -> Vec<(Option<Reason>, Option<Reason>)> {
            let (mut denial, mut said) = (None, Vec::new());
            for _ in 0..requests {
                let verdict = self.admission.decide(
                    &self.seat,
                    &ASK,
                    || subject("a"),
                    &mut Remembered::default(),
                    &mut denial,
                );
                let mut would = None;
                if let Verdict::Admit {
                    permit,
                    would_refuse,
                } = verdict
                {
                    self.open.push(permit);
                    would = would_refuse;
                }
                said.push((denial.take().map(|denial| denial.reason), would));
            }
            said
        }
    }

    const LET_IN: (Option<Reason>, Option<Reason>) = (None, None);
    const REFUSED: (Option<Reason>, Option<Reason>) = (HELD, None);
    const WOULD_BE: (Option<Reason>, Option<Reason>) = (None, HELD);

    #[test]
    fn the_smaller_maximum_in_flight_is_in_force() {
        for policy in [
            Policy::new(),
            Policy::new().max_in_flight(10),
            Policy::new().max_in_flight(10).shadow(),
            Policy::new().max_streams(1),
        ] {
            let mut slow = Slow::under(policy);
            slow.brake(Mode::Enforce);
            assert_eq!(slow.send(4), [LET_IN, LET_IN, REFUSED, REFUSED]);
            slow.open.remove(0);
            assert_eq!(slow.send(2), [LET_IN, REFUSED]);
            slow.open.clear();
            assert!(!slow.seat.owes(NOW));
            slow.admission.release(&slow.seat);
            assert_eq!(slow.send(4), [LET_IN; 4]);
        }
        let mut slow = Slow::under(Policy::new().max_in_flight(1));
        slow.brake(Mode::Enforce);
        let full = (Some(Reason::InFlight), None);
        assert_eq!(slow.send(3), [LET_IN, full, full]);
    }

    #[test]
    fn a_limit_in_shadow_gives_no_place_of_the_brake_back() {
        let quota = Quota::per_hour(1);
        let mut slow = Slow::under(Policy::new().quota(quota).max_in_flight(10).shadow());
        slow.brake(Mode::Enforce);
        let over = (None, Some(Reason::Quota));
        assert_eq!(slow.send(4), [LET_IN, over, REFUSED, REFUSED]);
    }

    #[test]
    fn what_was_spent_under_a_brake_is_spent_under_the_next() {
        let mut slow = Slow::under(Policy::new());
        let [first, none, second] = [[LET_IN, REFUSED], [REFUSED; 2], [LET_IN, REFUSED]];
        for (rate, spent) in [(1, first), (1, none), (2, second)] {
            let quota = Quota::per_hour(rate).burst(rate);
            let Slow {
                admission, seat, ..
            } = &slow;
            admission.brake(seat, quota, None, Mode::Enforce, || 0, NOW);
            assert_eq!(slow.send(2), spent, "{rate}");
        }
    }

    #[test]
    fn what_was_in_flight_before_the_brake_counts() {
        for policy in [
            Policy::new(),
            Policy::new().max_in_flight(10),
            Policy::new().max_in_flight(10).shadow(),
        ] {
            let mut slow = Slow::under(policy);
            assert_eq!(slow.send(5), [LET_IN; 5]);
            slow.brake(Mode::Enforce);
            assert_eq!(slow.send(1), [REFUSED]);
            slow.open.drain(..3);
            slow.look();
            assert_eq!(slow.send(1), [REFUSED]);
            slow.open.pop();
            slow.look();
            assert_eq!(slow.send(2), [LET_IN, REFUSED]);
            // Another brake: what has a place under the first has one under it.
            slow.brake(Mode::Enforce);
            assert_eq!(slow.send(1), [REFUSED]);
            slow.open.remove(0);
            slow.look();
            assert_eq!(slow.send(2), [LET_IN, REFUSED]);
        }
    }

    #[test]
    fn a_brake_in_shadow_counts_what_it_would_refuse_if_it_did() {
        for policy in [Policy::new(), Policy::new().max_in_flight(10)] {
            let mut slow = Slow::under(policy);
            slow.brake(Mode::Shadow);
            assert_eq!(slow.send(4), [LET_IN, LET_IN, WOULD_BE, WOULD_BE]);
            // The third and the fourth would not be there.
            slow.open.remove(0);
            assert_eq!(slow.send(2), [LET_IN, WOULD_BE]);
        }
    }

    #[test]
    fn who_was_released_last_leaves_nobody_to_look_at() {
        let admission = admission(Policies::default());
        let seat = admission.seat(&subject("a"));
        for _ in 0..2 {
            assert_eq!(admission.gate(), Gate::Open);
            held(&admission, &seat);
            assert_eq!(admission.gate(), Gate::Guarded);
            admission.release(&seat);
        }
        admission.release(&seat);
        assert_eq!(admission.gate(), Gate::Open);
    }

    #[test]
    fn who_is_always_allowed_has_no_brake() {
        let admission = admission(Policies {
            default: Policy::new().allow(),
            ..Policies::default()
        });
        assert_eq!(refused(&admission, 1), [None; 4]);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn what_a_brake_refuses_takes_nothing_of_the_fleets_quota() {
        use crate::admit::Scope;
        use crate::admit::fleet::Part;

        let part = Part::of_the_only_one();
        let policies = Policies {
            default: Policy::new().quota(Quota::per_hour(1).burst(3)),
            scope: Scope::Fleet,
            ..Policies::default()
        };
        let admission = admission(policies).with_fleet(part);
        // Of three tokens one is spent under the brake.
        let spent = Some(Reason::Fleet);
        assert_eq!(
            refused(&admission, 3),
            [None, HELD, HELD, None, None, spent]
        );
    }
}
