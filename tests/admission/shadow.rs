//! Shadow: everything is let in, and counted is exactly what enforcement would have refused.

use std::collections::VecDeque;
use std::time::Duration;

use callerid::snapshot::{ByReason, Counts};
use callerid::{
    Account, Builder, Ceiling, Fleet, FleetMode, Mode, Policy, Provenance, Quota, Reason, Scope,
};
use proptest::prelude::*;

use crate::support::{Answer, Rig, START, from};

/// What policies say in one run: each limit may be there or not.
#[derive(Clone, Debug)]
struct Limits {
    quota: Option<(u32, u32)>,
    in_flight: Option<u32>,
    cost: u32,
    /// Of a route.
    route: Option<(u32, u32)>,
    /// Of all whose name is only claimed.
    total: Option<(u32, u32)>,
    ceiling: Option<(u32, u32)>,
    weight: f64,
    blocked: Option<u64>,
    allowed: bool,
    fleet: bool,
}

fn limits() -> impl Strategy<Value = Limits> {
    let quota = || prop::option::of((1u32..40, 2u32..10));
    let in_flight = prop::option::of(1u32..5);
    let own = (quota(), in_flight, 1u32..3, quota(), quota());
    let ceiling = prop::option::of((1u32..6, 0u32..5));
    let blocked = prop::option::of(1u64..4);
    let rest = (ceiling, 1u32..4, blocked, any::<bool>(), any::<bool>());
    (own, rest).prop_map(|(own, rest)| {
        let (quota, in_flight, cost, route, total) = own;
        let (ceiling, weight, blocked, allowed, fleet) = rest;
        Limits {
            quota,
            in_flight,
            cost,
            route,
            total,
            ceiling,
            weight: f64::from(weight) / 2.0,
            blocked,
            allowed,
            fleet,
        }
    })
}

impl Limits {
    /// The same for all, and for three of them more.
    fn set(&self, builder: Builder, shadow: bool) -> Builder {
        let quota = |(rate, burst): (u32, u32)| Quota::per_second(rate).burst(burst);
        let policy = || {
            if shadow {
                Policy::new().shadow()
            } else {
                Policy::new()
            }
        };
        let mut default = policy();
        if let Some(of_all) = self.quota {
            default = default.quota(quota(of_all)).cost("GET /dear", self.cost);
        }
        if let Some(of_route) = self.route {
            default = default.route_quota("GET /own", quota(of_route));
        }
        if let Some(most) = self.in_flight {
            default = default.max_in_flight(most);
        }
        let mut claimed = policy();
        if let Some(total) = self.total {
            claimed = claimed.total(quota(total));
        }
        let mut builder = builder
            .default_policy(default)
            .provenance(Provenance::Claimed, claimed);
        if let Some((soft, more)) = self.ceiling {
            let ceiling = Ceiling::new(soft).hard_max(soft + more);
            builder = builder.ceiling(if shadow { ceiling.shadow() } else { ceiling });
        }
        if self.fleet {
            let fleet = Fleet::new("x").mode(FleetMode::Local).replicas(2);
            builder = builder.fleet(fleet).scope(Scope::Fleet);
        }
        let mut blocked = policy();
        if let Some(end) = self.blocked {
            blocked = blocked.block_until(START + Duration::from_secs(end));
        }
        let mut allowed = policy().weight(self.weight);
        if self.allowed {
            allowed = allowed.allow();
        }
        builder
            .caller(Account::new("b").policy(blocked))
            .caller(Account::new("c").policy(allowed))
            .caller(Account::new("d").policy(policy().weight(self.weight)))
    }
}

/// One step of a story: who asks for what after how many milliseconds, and whether the answer is held back or an older
/// one that was held is let go.
#[derive(Clone, Copy, Debug)]
struct Step {
    gap: u64,
    caller: usize,
    path: &'static str,
    hold: bool,
    release: bool,
    /// A person clamps or blocks the caller first, or lifts that.
    said: Option<Said>,
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Clamp,
    Block,
    Lift,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = prop::sample::select(&["/v1", "/dear", "/own"][..]);
    let said = prop::sample::select(&[Said::Clamp, Said::Block, Said::Lift][..]);
    let said = prop::option::weighted(0.02, said);
    let step = (
        0u64..60,
        0usize..6,
        path,
        any::<bool>(),
        any::<bool>(),
        said,
    );
    let step = step.prop_map(|(gap, caller, path, hold, release, said)| Step {
        gap,
        caller,
        path,
        hold,
        release,
        said,
    });
    prop::collection::vec(step, 1..250)
}

/// The last two are only claimed.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Plays the story and returns why a request was, or would have been, refused, request by request.
fn play(rig: &Rig, steps: &[Step], refused: fn(&Counts) -> &ByReason) -> Vec<Option<Reason>> {
    // An answer is held under the number of its step, so that both worlds let go of the same.
    let mut held: VecDeque<Option<Answer>> = VecDeque::new();
    let mut before = [[0; Reason::ALL.len()]; NAMES.len()];
    let story = steps.iter().map(|step| {
        rig.wait(step.gap);
        let name = NAMES[step.caller];
        match step.said {
            Some(Said::Clamp) => rig.callers.clamp(name, "3/s", LASTS).unwrap(),
            Some(Said::Block) => rig.callers.block(name, LASTS),
            Some(Said::Lift) => {
                rig.callers.lift_clamp(name);
            }
            None => {}
        }
        if step.release {
            held.pop_front();
        }
        let header = if step.caller < 4 {
            "x-client-id"
        } else {
            "x-claimed"
        };
        let request = http::Request::get(step.path)
            .header(header, name)
            .body(String::new());
        let answer = rig.send(request.unwrap());
        held.push_back(step.hold.then_some(answer));
        if held.len() > 12 {
            held.pop_front();
        }
        let counts = rig.counts(name);
        let now = Reason::ALL.map(|reason| refused(&counts)[reason]);
        let before = std::mem::replace(&mut before[step.caller], now);
        let more = now.iter().zip(before).map(|(now, before)| now - before);
        let mut reasons = Reason::ALL
            .into_iter()
            .zip(more)
            .filter(|(_, more)| *more > 0);
        let reason = reasons.next();
        assert!(reason.is_none_or(|(_, more)| more == 1) && reasons.next().is_none());
        reason.map(|(reason, _)| reason)
    });
    story.collect()
}

const LASTS: Duration = Duration::from_secs(1);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn shadow_admits_all_and_counts_what_enforcement_refuses(limits in limits(), steps in steps()) {
        let enforced = Rig::new(|builder| limits.set(builder, false));
        let really = play(&enforced, &steps, |counts| &counts.refused);
        let shadow = Rig::new(|builder| limits.set(builder, false).mode(Mode::Shadow));
        let would = play(&shadow, &steps, |counts| &counts.would_refuse);
        prop_assert_eq!(&really, &would);
        prop_assert_eq!(shadow.reached(), steps.len() as u64);
        let refused = really.iter().flatten().count() as u64;
        prop_assert_eq!(enforced.reached(), steps.len() as u64 - refused);
        // The same where each policy says it of itself; what a person says holds all the same.
        if steps.iter().all(|step| step.said.is_none()) {
            let alone = Rig::new(|builder| limits.set(builder, true));
            prop_assert_eq!(&really, &play(&alone, &steps, |counts| &counts.would_refuse));
            prop_assert_eq!(alone.reached(), steps.len() as u64);
        }
    }
}

#[test]
fn trap_18_a_limit_in_shadow_beside_one_that_is_enforced_refuses_nothing_of_its_own() {
    let rig = Rig::new(|builder| {
        builder
            .default_policy(Policy::new().quota(Quota::per_second(2)).shadow())
            .ceiling(Ceiling::new(3).hard_max(3))
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
