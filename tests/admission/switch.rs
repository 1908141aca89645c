//! The switch, and clamps: what an operator reaches for in an incident.

use callerid::{Mode, Policy, Quota};
use http::Request;

use crate::support::{Rig, claimed, from};

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
        tower::service_fn(async |request: Request<()>| {
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
