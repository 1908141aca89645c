//! The switch, and clamps: what an operator reaches for in an incident.

use callerid::{Mode, Policy, Quota, Reason};
use http::Request;

use crate::support::{Rig, claimed, from, header};

#[test]
fn off_is_a_pass_through() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_second(1))
            .response_header("x-caller")
    });
    rig.burst("a", 3);
    rig.callers.set_mode(Mode::Off);
    let answer = rig.send(from("a"));
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("x-caller")),
        (200, None)
    );
    assert_eq!(rig.burst("a", 100), 100);
    assert_eq!(rig.counts("a").started, 3, "nothing is counted");
    let mut service = tower::Layer::layer(
        &rig.callers.layer(),
        tower::service_fn(async |request: Request<String>| {
            assert!(request.extensions().get::<callerid::Caller>().is_none());
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<
                bytes::Bytes,
            >::default()))
        }),
    );
    crate::support::now(tower::Service::call(&mut service, from("a"))).unwrap();
    rig.callers.set_mode(Mode::Enforce);
    assert_eq!(rig.get("a"), 429, "nothing was forgiven meanwhile");
}

#[test]
fn observe_looks_at_no_policy() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)).mode(Mode::Observe));
    assert_eq!(rig.burst("a", 10), 10);
    let counts = rig.counts("a");
    assert_eq!((counts.started, counts.would_refuse.total()), (10, 0));
}

#[test]
fn a_clamp_goes_over_every_policy_and_ends_by_itself() {
    let rig = Rig::new(|builder| {
        builder.default_policy(
            Policy::new()
                .quota(Quota::per_second(100))
                .route_quota("GET /v1/prices", Quota::per_second(80))
                .shadow(),
        )
    });
    let half_an_hour = std::time::Duration::from_secs(1_800);
    rig.callers.clamp("runaway", "5/s", half_an_hour).unwrap();
    assert_eq!((rig.burst("runaway", 50), rig.burst("calm", 50)), (5, 50));
    rig.wait(1_000);
    assert_eq!(rig.burst("runaway", 50), 5);
    rig.wait(1_799_000);
    assert_eq!(rig.burst("runaway", 50), 50);
    rig.callers.clamp("runaway", "5/s", half_an_hour).unwrap();
    assert_eq!(rig.burst("runaway", 50), 5);
    assert!(rig.callers.lift_clamp("runaway") && !rig.callers.lift_clamp("runaway"));
    assert_eq!(rig.burst("runaway", 50), 50);
    let error = rig
        .callers
        .clamp("runaway", "5/d", half_an_hour)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"5/d\" is not a rate; use N/s, N/min or N/h"
    );
    assert!(rig.callers.clamp("runaway", "0/s", half_an_hour).is_err());
}

#[test]
fn a_clamp_holds_where_no_policy_is_written_down_and_for_a_claimed_name() {
    let rig = Rig::new(|builder| builder);
    rig.callers
        .clamp("claimer", "5/s", std::time::Duration::from_secs(60))
        .unwrap();
    let admitted = (0..50)
        .filter(|_| rig.ask(claimed("claimer")).0 == 200)
        .count();
    assert_eq!((admitted, rig.burst("calm", 50)), (5, 50));
    rig.wait(61_000);
    let admitted = (0..50)
        .filter(|_| rig.ask(claimed("claimer")).0 == 200)
        .count();
    assert_eq!(admitted, 50);
}

/// What the refusal after `admitted` requests of `a` says holds it.
fn holds(rig: &Rig, admitted: usize) -> String {
    for _ in 0..admitted {
        assert_eq!(rig.get("a"), 200);
    }
    let refused = rig.send(from("a"));
    assert_eq!(refused.status(), 429);
    header(&refused, "ratelimit-policy").unwrap().to_owned()
}

fn clamp(rig: &Rig, quota: &str) {
    let minute = std::time::Duration::from_secs(60);
    rig.callers.clamp("a", quota, minute).unwrap();
}

#[test]
fn a_clamp_above_an_enforced_quota_loosens_nothing() {
    let quota = Quota::per_second(5);
    let rig = Rig::new(|builder| {
        builder.default_policy(Policy::new().quota(quota).route_quota("GET /v1/x", quota))
    });
    clamp(&rig, "50/s");
    assert_eq!(holds(&rig, 5), "\"quota\";q=5;w=1");
    assert_eq!(rig.caller("a").policy.unwrap().quota, Some(5.0));
    // Nor when it ends.
    assert!(rig.callers.lift_clamp("a"));
    assert_eq!(rig.burst("a", 50), 0);
    rig.wait(1_000);
    assert_eq!(rig.burst("a", 50), 5);
}

#[test]
fn a_clamp_below_an_enforced_quota_holds_and_leaves_it_as_it_was() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(50)));
    clamp(&rig, "5/s");
    assert_eq!(holds(&rig, 5), "\"clamp\";q=5;w=1");
    assert_eq!(rig.caller("a").policy.unwrap().quota, Some(5.0));
    // Who is set free and clamped again has no new burst.
    assert!(rig.callers.lift_clamp("a"));
    clamp(&rig, "5/s");
    assert_eq!(rig.burst("a", 50), 0);
    // What the clamp refused took nothing of the quota.
    assert!(rig.callers.lift_clamp("a"));
    assert_eq!(rig.burst("a", 99), 45);
    clamp(&rig, "5/s");
    rig.wait(59_000);
    assert_eq!(rig.burst("a", 99), 5);
    rig.wait(1_000);
    assert_eq!(rig.burst("a", 99), 50, "it ends by itself");
}

#[test]
fn a_clamp_holds_beside_a_quota_in_shadow_which_still_counts() {
    let policy = Policy::new().quota(Quota::per_second(5)).shadow();
    let rig = Rig::new(|builder| builder.default_policy(policy));
    clamp(&rig, "50/s");
    assert_eq!(holds(&rig, 50), "\"clamp\";q=50;w=1");
    let counts = rig.counts("a");
    assert_eq!(counts.would_refuse[Reason::Quota], 45);
    assert_eq!(counts.refused[Reason::Quota], 1);
    assert_eq!(rig.caller("a").policy.unwrap().quota, Some(50.0));
    rig.callers.set_mode(Mode::Shadow);
    assert_eq!(rig.burst("a", 50), 50, "the switch caps it");
}

#[test]
fn a_block_goes_over_every_policy_for_one_name_and_ends_by_itself() {
    let minute = std::time::Duration::from_secs(60);
    let policies = [
        Policy::new().allow(),
        Policy::new().quota(Quota::per_second(1_000)).shadow(),
        Policy::new(),
    ];
    for policy in policies {
        let rig = Rig::new(|builder| builder.default_policy(policy.clone()));
        assert_eq!(rig.burst("a", 5), 5);
        rig.callers.block("a", minute);
        let refused = rig.send(from("a"));
        assert_eq!(refused.status(), 429, "{policy:?}");
        let after: u64 = header(&refused, "retry-after").unwrap().parse().unwrap();
        assert!((55..=95).contains(&after), "{after}");
        assert_eq!((rig.burst("a", 5), rig.burst("b", 5)), (0, 5), "{policy:?}");
        assert_eq!(rig.counts("a").refused[Reason::Blocked], 6);
        rig.wait(60_000);

        assert_eq!(rig.burst("a", 5), 5, "{policy:?}");
    }
}
