//! Quota, in flight, totals, blocks: who is refused, who is not, and what is counted.

use callerid::{Account, Class, Fault, Mode, Policy, Provenance, Quota, Reason};
use http::Request;

use crate::support::{Rig, START, builder, claimed, from};

#[test]
fn with_no_policy_nothing_is_ever_refused() {
    let rig = Rig::new(|builder| builder);
    assert_eq!(rig.burst("a", 10_000), 10_000);
    assert_eq!(rig.counts("a").refused.total(), 0);
}

#[test]
fn a_quota_refuses_the_runaway_and_spares_the_rest() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(10).burst(20)));
    assert_eq!(rig.burst("runaway", 100), 20);
    assert_eq!(rig.burst("calm", 5), 5);
    rig.wait(1_000);
    assert_eq!(rig.burst("runaway", 100), 10);
    assert_eq!(rig.reached(), 35);
    let counts = rig.counts("runaway");
    assert_eq!(
        (
            counts.started,
            counts.refused[Reason::Quota],
            counts.in_flight
        ),
        (200, 170, 0)
    );
    assert_eq!(
        counts.started,
        counts.by_class.total() + counts.refused.total()
    );
}

#[test]
fn trap_25_our_own_refusals_never_feed_an_error_class() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)));
    rig.burst("a", 500);
    let caller = rig.caller("a");
    assert_eq!(caller.counts.refused.total(), 499);
    assert_eq!(caller.counts.by_class.with_fault(Fault::Caller), 0);
    assert_eq!(
        (
            caller.counts.by_class.total(),
            caller.counts.by_class[Class::Throttled]
        ),
        (1, 0)
    );
    assert!(caller.failures.is_empty());
    assert_eq!(caller.first_byte.unwrap().count, 1);
}

#[test]
fn a_caller_without_a_row_is_refused_and_counted_too() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_second(5))
            .max_exported(37)
            .max_tracked(100)
    });
    for caller in 0..60 {
        assert_eq!(rig.burst(&format!("c{caller}"), 7), 5);
    }
    let snapshot = rig.callers.snapshot();
    for caller in &snapshot.callers {
        let counts = caller.counts;
        assert_eq!(
            counts.started,
            counts.by_class.total() + counts.refused.total() + counts.in_flight
        );
    }
    let unexported = snapshot
        .callers
        .iter()
        .find(|caller| !caller.exported)
        .unwrap();
    assert_eq!(
        (unexported.counts.started, unexported.counts.refused.total()),
        (7, 2)
    );
}

#[test]
fn a_block_has_an_end_or_has_none() {
    let end = START + std::time::Duration::from_secs(90);
    let rig = Rig::new(|builder| {
        builder
            .caller(Account::new("gone").policy(Policy::new().block()))
            .caller(Account::new("later").policy(Policy::new().block_until(end)))
    });
    let gone = rig.send(from("gone"));
    assert_eq!(gone.status(), 403);
    assert_eq!(gone.headers().get("retry-after"), None);
    let later = rig.send(from("later"));
    assert_eq!(later.status(), 429);
    let after: u64 = crate::support::header(&later, "retry-after")
        .unwrap()
        .parse()
        .unwrap();
    assert!((90..=121).contains(&after), "{after}");
    assert_eq!(rig.counts("later").refused[Reason::Blocked], 1);
    rig.wait(90_000);
    assert_eq!((rig.get("gone"), rig.get("later")), (403, 200));
}

#[test]
fn a_policy_is_found_field_by_field() {
    let rig = Rig::new(|builder| {
        builder
            .default_policy(Policy::new().quota(Quota::per_second(50)).max_in_flight(7))
            .provenance(Provenance::Verified, Policy::new().weight(2.0))
            .tier("batch", Policy::new().quota(Quota::per_second(10)).shadow())
            .caller(
                Account::new("night")
                    .tier("batch")
                    .policy(Policy::new().burst(3).enforce()),
            )
    });
    assert_eq!(rig.burst("night", 10), 3);
    assert_eq!(rig.burst("other", 60), 50);
    let night = rig.caller("night").policy.unwrap();
    assert_eq!(
        (night.quota, night.burst, night.max_in_flight, night.weight),
        (Some(10.0), Some(3), Some(7), 2.0)
    );
    assert_eq!(night.mode, Mode::Enforce);
}

#[test]
fn routes_have_a_cost_and_a_quota_of_their_own() {
    let rig = Rig::new(|builder| {
        builder.default_policy(
            Policy::new()
                .quota(Quota::per_second(10))
                .cost("POST /v1/orders", 5)
                .route_quota("GET /v1/export", Quota::per_hour(2).burst(2)),
        )
    });
    let ask = |method: &str, path: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-client-id", "a");
        rig.ask(request.body(String::new()).unwrap()).0
    };
    assert_eq!(
        [
            ask("POST", "/v1/orders"),
            ask("POST", "/v1/orders"),
            ask("POST", "/v1/orders")
        ],
        [200, 200, 429]
    );
    assert_eq!(ask("GET", "/v1/prices"), 429, "the orders spent it");
    assert_eq!(
        [
            ask("GET", "/v1/export"),
            ask("GET", "/v1/export"),
            ask("GET", "/v1/export")
        ],
        [200, 200, 429]
    );
}

#[test]
fn a_cost_may_come_from_the_head_of_the_request() {
    let rig = Rig::new(|builder| {
        builder.quota(Quota::per_second(10)).cost(|head| {
            let rows = head
                .headers()
                .get("x-rows")
                .and_then(|rows| rows.to_str().ok()?.parse().ok());
            rows.unwrap_or(1)
        })
    });
    let ask = |rows: &str| {
        let request = Request::get("/")
            .header("x-client-id", "a")
            .header("x-rows", rows);
        rig.ask(request.body(String::new()).unwrap()).0
    };
    assert_eq!(
        [ask("6"), ask("6"), ask("4"), ask("1")],
        [200, 429, 200, 429]
    );
    rig.wait(60_000);
    assert_eq!(
        ask("1000000"),
        200,
        "a cost above the burst takes all of it"
    );
    assert_eq!(ask("0"), 429);
}

#[test]
fn trap_21_what_is_refused_narrowly_never_spends_what_is_shared() {
    let rig = Rig::new(|builder| {
        builder.provenance(
            Provenance::Claimed,
            Policy::new()
                .quota(Quota::per_second(5))
                .total(Quota::per_second(12)),
        )
    });
    let runaway = (0..1_000)
        .filter(|_| rig.ask(claimed("runaway")).0 == 200)
        .count();
    assert_eq!(runaway, 5);
    let calm = (0..5).filter(|_| rig.ask(claimed("calm")).0 == 200).count();
    assert_eq!(
        calm, 5,
        "the runaway's refused requests took nothing of the total"
    );
    let third = (0..5)
        .filter(|_| rig.ask(claimed("third")).0 == 200)
        .count();
    assert_eq!(third, 2);
    assert_eq!(rig.counts("third").refused[Reason::Quota], 3);
}

#[test]
fn a_total_is_spent_by_what_requests_cost() {
    let rig = Rig::new(|builder| {
        let policy = Policy::new().total(Quota::per_hour(12).burst(12));
        builder.provenance(Provenance::Claimed, policy).cost(|_| 5)
    });
    let names = ["a", "b", "c"].map(|name| rig.ask(claimed(name)).0);
    assert_eq!(names, [200, 200, 429]);
}

/// Room for four rows, and for 44 callers.
fn crowded() -> Rig {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(60).burst(5))
            .max_tracked(46)
            .max_exported(40)
    });
    // Two who owe nothing any more when the others come, and two who owe all they have, and weigh less than those.
    for name in ["light", "lighter"] {
        assert_eq!(rig.get(name), 200);
    }
    rig.wait(120_000);
    for name in ["spent", "owing"] {
        assert_eq!(rig.burst(name, 20), 5);
        assert!(rig.caller(name).exported);
    }
    rig
}

#[test]
fn trap_5_eviction_is_not_amnesty() {
    let rig = crowded();
    // Heavy callers, who are in the table, ask for the four rows.
    for name in 0..6 {
        for _ in 0..200 {
            rig.ask(claimed(&format!("heavy{name}")));
        }
    }
    let table = rig.callers.snapshot();
    for name in ["light", "lighter"] {
        assert!(table.caller(name).is_none(), "{name} was to be displaced");
    }
    let rows = (0..6).filter(|name| rig.caller(&format!("heavy{name}")).exported);
    assert_eq!(rows.count(), 2);
    for name in ["spent", "owing"] {
        assert_eq!(rig.burst(name, 20), 0, "the bucket of {name} was forgotten");
    }
}

#[test]
fn trap_5_a_full_table_forgets_nobody_who_owes() {
    let rig = crowded();
    // They fill the table, and owe as much as they may.
    let mut known = 2;
    while rig.callers.snapshot().tracked < 46 {
        known += 1;
        rig.burst(&format!("known{known}"), 6);
    }
    // Nobody could be told from a stranger but the two who owe nothing.
    for name in 0..100 {
        for _ in 0..200 {
            rig.ask(claimed(&format!("heavy{name}")));
        }
    }
    let table = rig.callers.snapshot();
    let came_in = (0..100).filter(|name| table.caller(&format!("heavy{name}")).is_some());
    assert_eq!(came_in.count(), 2);
    for name in ["spent", "owing"] {
        assert_eq!(rig.burst(name, 20), 0, "the bucket of {name} was forgotten");
    }
    for name in 3..=known {
        assert_eq!(rig.burst(&format!("known{name}"), 6), 0);
    }
}

#[test]
fn trap_5_a_caller_without_a_row_is_not_forgotten_for_idleness_while_it_owes() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(60).burst(5))
            .max_exported(37)
            .idle_after(std::time::Duration::from_secs(1))
    });
    for name in 0..50 {
        rig.get(&format!("first{name}")); // they take the rows
    }
    assert_eq!(rig.burst("spent", 20), 5);
    assert!(!rig.caller("spent").exported);
    for _ in 0..20 {
        rig.wait(1_000);
    }
    assert_eq!(rig.burst("spent", 20), 0);
}

#[test]
fn trap_5_callers_without_room_share_one_bucket() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_second(10))
            .max_tracked(46)
            .max_exported(37)
    });
    let mut overflow = 0;
    for name in 0..1_000 {
        overflow += u64::from(rig.ask(claimed(&format!("n{name}"))).0 == 200);
    }
    // 46 names with a bucket of their own, and ten requests of all the others.
    assert_eq!(overflow, 46 + 10);
    assert_eq!(rig.counts("__other__").refused[Reason::Quota], 1_000 - 56);
}

#[test]
fn a_default_never_refuses_requests_without_a_caller() {
    let proxied = || {
        let request = Request::get("/").header("x-forwarded-for", "203.0.113.9");
        request.body(String::new()).unwrap()
    };
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(2)).max_in_flight(1));
    let admitted = (0..100).filter(|_| rig.ask(proxied()).0 == 200).count();
    assert_eq!(admitted, 100);
    // Only a policy that names them.
    let rig = Rig::new(|builder| {
        builder.provenance(
            Provenance::Unknown,
            Policy::new().quota(Quota::per_second(3)),
        )
    });
    let admitted = (0..100).filter(|_| rig.ask(proxied()).0 == 200).count();
    assert_eq!(admitted, 3);
}

#[test]
fn a_probe_gets_its_answer_with_every_limit_exhausted() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(1))
            .max_in_flight(1)
            .ceiling(callerid::Ceiling::new(1).hard_max(1))
            .provenance(Provenance::Unknown, Policy::new().block())
    });
    let _held = rig.send(from("a"));
    assert_eq!(rig.get("a"), 429);
    assert_eq!(
        rig.get("b"),
        503,
        "full, and nobody has more than its share"
    );
    let anonymous = || Request::get("/v1/prices").body(String::new()).unwrap();
    assert_eq!(rig.ask(anonymous()).0, 403);
    for path in ["/healthz", "/livez", "/readyz", "/metrics"] {
        assert_eq!(
            rig.ask(Request::get(path).body(String::new()).unwrap()).0,
            200,
            "{path}"
        );
    }
    // The health check of gRPC, in both of its methods.
    for method in ["Check", "Watch"] {
        let probe = Request::post(format!("/grpc.health.v1.Health/{method}"))
            .header("content-type", "application/grpc");
        let answer = rig.send(probe.body(String::new()).unwrap());
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().get("grpc-status").is_none(), "{method}");
    }
    assert_eq!(rig.counts("__exempt__").refused.total(), 0);
}

#[test]
fn allowed_callers_are_never_refused() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_second(1))
            .ceiling(callerid::Ceiling::new(1).hard_max(1))
            .caller(Account::new("health-check").policy(Policy::new().allow()))
    });
    let _held = rig.send(from("a"));
    let held: Vec<_> = (0..50).map(|_| rig.send(from("health-check"))).collect();
    assert!(held.iter().all(|answer| answer.status() == 200));
}

#[test]
fn what_is_wrong_with_limits_is_said_at_once_with_its_path() {
    let clock = callerid::clock::ManualClock::at(START);
    let error = builder(&clock)
        .quota(Quota::per_second(0))
        .max_in_flight(0)
        .ceiling(callerid::Ceiling::new(10).hard_max(5))
        .provenance(
            Provenance::Claimed,
            Policy::new().burst(0).cost("orders", 0),
        )
        .tier(
            "batch",
            Policy::new().weight(-1.0).total(Quota::per_second(1)),
        )
        .caller(
            Account::new("a")
                .tier("none")
                .policy(Policy::new().block_until(START))
                .expect(0.5, START),
        )
        .caller(
            Account::new("b").policy(Policy::new().quota(Quota::per_second(2)).cost("GET /x", 3)),
        )
        .build()
        .unwrap_err();
    let problems: Vec<_> = error.problems().collect();
    for path in [
        "default.quota: \"0/s, burst 1\" lets nothing through",
        "default.max_in_flight: 0",
        "ceiling.hard_max: is below",
        "provenance.claimed.burst: 0",
        "provenance.claimed.cost.\"orders\": is not a route",
        "provenance.claimed.cost.\"orders\": 0 is not a cost",
        "tier.batch.weight: is not a weight",
        "tier.batch.total: belongs to a provenance",
        "caller.a.tier: there is no tier \"none\"",
        "caller.a.block_until: is in the past; use a later time, or leave it out",
        "caller.a.expect.factor: is not a factor; use 1 or more, times the caller's own baseline",
        "caller.a.expect.until: is in the past; use a later time, or leave `expect` out",
        "caller.b.cost.\"GET /x\": 3 is above the burst of \"2/s, burst 2\"",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(path)),
            "{path}: {problems:#?}"
        );
    }
}

#[test]
fn in_every_snapshot_what_started_is_what_ended_was_refused_or_is_in_flight() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(5_000).burst(5_000))
            .ceiling(3)
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (rig, stop) = (&rig, &stop);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    rig.get(["a", "b"][thread % 2]);
                }
            });
        }
        // Nothing may panic before the threads are told to stop.
        let mut unequal = Vec::new();
        for _ in 0..2_000 {
            for caller in rig.callers.snapshot().callers {
                let counts = caller.counts;
                let left = counts.by_class.total() + counts.refused.total();
                if counts.started != left + counts.in_flight {
                    unequal.push(counts);
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(unequal, []);
    });
    let sent: u64 = ["a", "b"]
        .iter()
        .map(|name| rig.counts(name).by_class.total())
        .sum();
    assert_eq!(sent, rig.reached());
}
