//! Shadow: everything is let in, and counted is exactly what enforcement would have refused.

use std::time::Duration;

use callerid::{Mode, Policy, Provenance, Quota, Reason};
use proptest::prelude::*;

use crate::support::{Answer, Rig, claimed, from};

fn limited(builder: callerid::Builder) -> callerid::Builder {
    builder
        .quota(Quota::per_second(20).burst(6))
        .max_in_flight(3)
        .ceiling(callerid::Ceiling::new(4).hard_max(6))
        .provenance(
            Provenance::Claimed,
            Policy::new().total(Quota::per_second(30).burst(8)),
        )
}

/// One step of a story: who asks after how many milliseconds, and whether the answer is held back or an older one
/// that was held is let go.
#[derive(Clone, Debug)]
struct Step {
    gap: u64,
    caller: usize,
    hold: bool,
    release: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u64..60, 0usize..5, any::<bool>(), any::<bool>());
    prop::collection::vec(
        step.prop_map(|(gap, caller, hold, release)| Step {
            gap,
            caller,
            hold,
            release,
        }),
        1..250,
    )
}

/// Plays the story and returns who was, or would have been, refused, request by request.
fn play(rig: &Rig, steps: &[Step], refused_in: fn(&Rig, &str) -> u64) -> Vec<bool> {
    // An answer is held under the number of its step, so that both worlds let go of the same.
    let mut held: Vec<(usize, Option<Answer>)> = Vec::new();
    let names = ["a", "b", "c", "d", "e"];
    let mut refused = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        rig.clock.advance(Duration::from_millis(step.gap));
        if step.release && !held.is_empty() {
            held.remove(0);
        }
        let name = names[step.caller];
        let request = if step.caller < 2 {
            from(name)
        } else {
            claimed(name)
        };
        let before = if number == 0 {
            0
        } else {
            total(rig, refused_in)
        };
        let answer = rig.send(request);
        refused.push(total(rig, refused_in) > before);
        held.push((number, step.hold.then_some(answer)));
        if held.len() > 12 {
            held.remove(0);
        }
    }
    refused
}

fn total(rig: &Rig, refused_in: fn(&Rig, &str) -> u64) -> u64 {
    ["a", "b", "c", "d", "e"]
        .iter()
        .map(|name| refused_in(rig, name))
        .sum()
}

fn refused(rig: &Rig, name: &str) -> u64 {
    rig.callers
        .snapshot()
        .caller(name)
        .map_or(0, |caller| caller.counts.refused.total())
}

fn would_refuse(rig: &Rig, name: &str) -> u64 {
    rig.callers
        .snapshot()
        .caller(name)
        .map_or(0, |caller| caller.counts.would_refuse.total())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn shadow_admits_all_and_counts_what_enforcement_refuses(steps in steps()) {
        let enforced = Rig::new(limited);
        let shadow = Rig::new(|builder| limited(builder).mode(Mode::Shadow));
        let really = play(&enforced, &steps, refused);
        let would = play(&shadow, &steps, would_refuse);
        prop_assert_eq!(really, would);
        prop_assert_eq!(shadow.reached(), steps.len() as u64);
        for name in ["a", "b", "c", "d", "e"] {
            let snapshots = (enforced.callers.snapshot(), shadow.callers.snapshot());
            let (Some(real), Some(would)) = (snapshots.0.caller(name), snapshots.1.caller(name)) else { continue };
            for reason in Reason::ALL {
                prop_assert_eq!(real.counts.refused[reason], would.counts.would_refuse[reason]);
            }
            prop_assert_eq!(would.counts.refused.total(), 0);
        }
    }
}

#[test]
fn trap_18_a_limit_in_shadow_beside_one_that_is_enforced_refuses_nothing_of_its_own() {
    let rig = Rig::new(|builder| {
        builder
            .default_policy(Policy::new().quota(Quota::per_second(2)).shadow())
            .ceiling(callerid::Ceiling::new(3).hard_max(3))
    });
    let held: Vec<_> = (0..5).map(|_| rig.send(from("a"))).collect();
    let statuses: Vec<_> = held.iter().map(|answer| answer.status().as_u16()).collect();
    assert_eq!(
        statuses,
        [200, 200, 200, 429, 429],
        "the ceiling counts what really runs"
    );
    let counts = rig.counts("a");
    assert_eq!(
        (
            counts.would_refuse[Reason::Quota],
            counts.refused[Reason::Ceiling]
        ),
        (1, 2)
    );
}

#[test]
fn what_a_limit_in_shadow_would_refuse_takes_no_token_of_another_in_shadow() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(10).burst(10))
            .max_in_flight(2)
            .mode(Mode::Shadow)
    });
    let held: Vec<_> = (0..50).map(|_| rig.send(from("a"))).collect();
    let counts = rig.counts("a").would_refuse;
    assert_eq!((counts[Reason::InFlight], counts[Reason::Quota]), (48, 0));
    drop(held);
    assert_eq!(rig.burst("a", 20), 20);
    assert_eq!(
        rig.counts("a").would_refuse[Reason::Quota],
        12,
        "eight of ten tokens were left"
    );
}
