//! The lease arithmetic in a fleet that is made up: several replicas, one bucket, time as a number, and answers that
//! are under way for a while.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::cell::{Cell, Known};
use super::desk::{Answer, Ask, Call, Desk, LEASE, TICK};
use super::exchange::Reply;
use crate::admit::quota::Quota;
use crate::clock::Timestamp;

const START: Timestamp = Timestamp::from_secs(1_700_000_000);

/// What the script does, with exact whole microseconds.
#[derive(Debug)]
pub(super) struct Exact {
    emission: u64,
    tolerance: u64,
    arrival: u64,
}

impl Exact {
    pub(super) fn new(quota: &Quota) -> Self {
        let emission = (1e6 / quota.rate()).ceil() as u64;
        Self {
            emission,
            tolerance: emission * u64::from(quota.max_burst()),
            arrival: 0,
        }
    }

    pub(super) fn take(&mut self, want: u32, least: u32, now: Timestamp) -> Reply {
        let now = now.as_nanos() / 1_000;
        let debt = self.arrival.saturating_sub(now);
        let there = self.tolerance.saturating_sub(debt) / self.emission;
        let granted = if there < u64::from(least) {
            0
        } else {
            there.min(u64::from(want)) as u32
        };
        let debt = debt + u64::from(granted) * self.emission;
        if granted > 0 {
            self.arrival = now + debt;
        }
        Reply {
            granted,
            next: (debt + self.emission) as i64 - self.tolerance as i64,
        }
    }
}

/// One replica, and what it has asked.
struct Replica {
    cell: Arc<Cell>,
    desk: Desk,
    waiting: Vec<(oneshot::Receiver<Answer>, u32)>,
    /// Questions that are answered at this time.
    asked: Option<(Timestamp, Timestamp, Vec<Call>, Vec<Reply>)>,
    asks: Vec<Ask>,
}

struct World {
    exact: Exact,
    replicas: Vec<Replica>,
    admitted: Vec<(Timestamp, u32)>,
    now: Timestamp,
}

impl World {
    fn new(quota: Quota, replicas: u32) -> Self {
        let replica = |_| Replica {
            cell: Arc::new(Cell::new(quota, [0; 16], None, replicas, None, START)),
            desk: Desk::new(true),
            waiting: Vec::new(),
            asked: None,
            asks: Vec::new(),
        };
        Self {
            exact: Exact::new(&quota),
            replicas: (0..replicas).map(replica).collect(),
            admitted: Vec::new(),
            now: START,
        }
    }

    /// A request at one of the replicas.
    fn request(&mut self, at: usize, cost: u32) {
        let now = self.now;
        let replica = &mut self.replicas[at];
        let cost = cost.min(replica.cell.quota.max_burst());
        match replica.cell.take(cost, now) {
            Known::Granted => self.admitted.push((now, cost)),
            Known::Denied(wait) => assert!(wait > Duration::ZERO),
            Known::Unknown => {
                let (answer, receiver) = oneshot::channel();
                replica.waiting.push((receiver, cost));
                replica.asks.push(Ask {
                    cell: Arc::clone(&replica.cell),
                    cost,
                    since: now,
                    answer,
                });
            }
        }
    }

    /// A moment of the thread of each replica; questions are under way for `trip`, half of it on the way there.
    fn work(&mut self, due: bool, trip: Duration) {
        let now = self.now;
        let count = self.replicas.len() as u32;
        for replica in &mut self.replicas {
            if let Some((_, sent, calls, replies)) = replica.asked.take_if(|asked| now >= asked.0) {
                for (call, reply) in calls.into_iter().zip(replies) {
                    replica.desk.share_out(call, reply, sent, now);
                }
            }
            if replica.asked.is_none() {
                let mut calls = replica.desk.group(std::mem::take(&mut replica.asks), now);
                if due {
                    calls.extend(replica.desk.renewals(count, now));
                }
                let there = now + trip / 2;
                let ask = |call: &Call| {
                    let want = call.want();
                    self.exact.take(want.want, want.least, there)
                };
                let replies = calls.iter().map(ask).collect();
                replica.asked = Some((now + trip, now, calls, replies));
            }
            let admitted = &mut self.admitted;
            replica
                .waiting
                .retain_mut(|(answer, cost)| match answer.try_recv() {
                    Ok(Answer::Granted) => {
                        admitted.push((now, *cost));
                        false
                    }
                    Ok(_) => false,
                    Err(oneshot::error::TryRecvError::Empty) => true,
                    Err(oneshot::error::TryRecvError::Closed) => {
                        panic!("nobody is left without an answer")
                    }
                });
        }
    }

    fn total(&self) -> f64 {
        self.admitted.iter().map(|(_, cost)| f64::from(*cost)).sum()
    }

    /// The most that any window had beyond `B + r(W + L)`.
    fn excess(&self, quota: &Quota) -> f64 {
        let mut worst = f64::NEG_INFINITY;
        for (from, (start, _)) in self.admitted.iter().enumerate() {
            let mut sum = 0.0;
            for (at, cost) in &self.admitted[from..] {
                sum += f64::from(*cost);
                let window = (at.since(*start) + LEASE).as_secs_f64();
                worst = worst.max(sum - f64::from(quota.max_burst()) - quota.rate() * window);
            }
        }
        worst
    }
}

/// What happens next in a made up world.
#[derive(Clone, Copy, Debug)]
struct Step {
    gap: Duration,
    replica: usize,
    requests: u32,
    cost: u32,
}

fn step() -> impl Strategy<Value = Step> {
    // Now and then for so long that a bucket fills and what is in hand lapses.
    let gap = prop_oneof![9 => 0u64..150, 1 => 2_000u64..40_000];
    (gap, 0usize..8, 0u32..60, 1u32..4).prop_map(|(gap, replica, requests, cost)| Step {
        gap: Duration::from_millis(gap),
        replica,
        requests,
        cost,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn trap_20_no_window_has_more_than_burst_and_rate_for_itself_and_a_lease(
        rate in 1u32..400,
        burst in 1u32..200,
        replicas in 1u32..9,
        trip in 0u64..20,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let quota = Quota::per_second(rate).burst(burst);
        let mut world = World::new(quota, replicas);
        let trip = Duration::from_millis(trip);
        let mut ticked = START;
        for step in steps {
            for _ in 0..step.requests {
                world.request(step.replica % replicas as usize, step.cost);
            }
            // The threads run every millisecond or so of what passes.
            let end = world.now + step.gap;
            loop {
                let due = world.now.since(ticked) >= TICK;
                if due {
                    ticked = world.now;
                }
                world.work(due, trip);
                if world.now >= end {
                    break;
                }
                world.now = (world.now + (step.gap / 30).max(Duration::from_millis(5))).min(end);
            }
        }
        let excess = world.excess(&quota);
        prop_assert!(excess <= 1e-6, "{excess} tokens too many");
    }
}

/// How much of what one exact limiter would admit a fleet admits under a flood of so many requests a second.
fn flood(quota: Quota, replicas: u32, requests: u32, uneven: bool) -> f64 {
    let mut world = World::new(quota, replicas);
    let millis = 20_000;
    for milli in 0..millis {
        for at in 0..requests / 1_000 {
            let at = if uneven { 0 } else { (milli + at) % replicas };
            world.request(at as usize, 1);
        }
        world.work(milli % 100 == 0, Duration::from_micros(500));
        world.now = world.now + Duration::from_millis(1);
    }
    assert!(world.excess(&quota) <= 1e-6);
    let exact = f64::from(quota.max_burst()) + quota.rate() * f64::from(millis) / 1_000.0;
    world.total() / exact
}

#[test]
fn replicas_share_a_quota_under_flood_within_two_percent() {
    for (quota, replicas, requests, uneven) in [
        (Quota::per_second(100), 1, 1_000, false),
        (Quota::per_second(100), 8, 2_000, false),
        (Quota::per_second(100), 8, 1_000, true),
        (Quota::per_second(100).burst(5), 3, 2_000, false),
        (Quota::per_second(500).burst(2_000), 8, 4_000, false),
        (Quota::per_minute(600).burst(1), 3, 1_000, false),
        (Quota::per_second(20).burst(40), 32, 1_000, false),
    ] {
        let share = flood(quota, replicas, requests, uneven);
        assert!(
            (0.98..=1.02).contains(&share),
            "{quota}, {replicas} replicas: {share}"
        );
    }
}

#[test]
fn trap_20_a_lease_is_as_old_as_its_question() {
    let mut world = World::new(Quota::per_second(100), 1);
    let trip = Duration::from_millis(100);
    world.request(0, 1);
    world.work(false, trip);
    world.now = START + trip;
    world.work(false, trip);
    assert_eq!(world.total(), 1.0);
    let cell = &world.replicas[0].cell;
    assert!(cell.left(START + LEASE - Duration::from_millis(1)) > 0);
    assert_eq!(cell.left(START + LEASE), 0);
}

#[test]
fn trap_20_what_is_not_used_lapses_and_is_not_returned() {
    let quota = Quota::per_second(10).burst(100);
    let mut world = World::new(quota, 1);
    let replica = &mut world.replicas[0];
    replica.cell.grant(20, START + LEASE, START);
    assert_eq!(replica.cell.left(START), 20);
    assert_eq!(replica.cell.take(5, START), Known::Granted);
    let end = START + LEASE;
    assert_eq!(replica.cell.left(end), 0);
    assert_eq!(replica.cell.take(1, end), Known::Unknown);
    // The next lease does not bring the last one back.
    replica.cell.grant(3, end + LEASE, end);
    assert_eq!(replica.cell.left(end), 3);
    assert_eq!(
        world.exact.arrival, 0,
        "nothing is given back to the bucket"
    );
}
