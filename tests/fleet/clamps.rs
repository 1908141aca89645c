//! What is put beside the fleet's quota: a clamp that replicas share, a block, a brake, the ceiling.

use callerid::{Builder, Callers, Fleet, FleetMode, Mode, Policy, Quota, Reason, Scope};
use callerid::{Provenance, identify};
use serde_json::{Value, json};
use std::time::Duration;

use crate::programs::{Demo, call, until};
use crate::reload::late;
use crate::server::Redis;
use crate::sharing::{all_troubles, replica, status_without_a_runtime, undisturbed};

fn act(demo: &Demo, action: &str, body: &Value) -> Value {
    let path = format!("/callerid/v1/do/{action}");
    let headers = [("content-type", "application/json")];
    let answer = call(demo.address, "POST", &path, &headers, &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// How many of so many requests to each replica in turn are let in.
fn admitted(demos: &[Demo], rounds: usize) -> usize {
    let statuses = (0..rounds).flat_map(|_| {
        let each = demos.iter();
        each.map(|demo| demo.get("/v1/prices/a", "loud").status)
    });
    statuses.filter(|status| *status == 200).count()
}

/// What the page of a replica says that the caller is held to.
fn held(demo: &Demo) -> Value {
    let overview = demo.plain("/callerid/v1/overview").body;
    let overview: Value = serde_json::from_str(&overview).unwrap();
    overview["braked"]["loud"].clone()
}

#[test]
fn a_clamp_on_two_processes_leaves_the_fleets_quota_in_force_and_hands_out_nothing_anew() {
    let redis = Redis::start();
    let policies =
        "[default]\nquota = \"1/h\"\nburst = 24\n[fleet]\nnamespace = \"x\"\nmode = \"strict\"\n";
    let (seen, in_force) = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        let demos = [(); 2].map(|()| replica(&redis.url(), policies));
        let mut seen = vec![admitted(&demos, 5)];
        let clamp = |quota: &str| {
            let body = json!({"caller": "loud", "quota": quota, "seconds": 600});
            until("the Redis is found by the page", || {
                let answer = act(&demos[0], "clamp", &body);
                (answer["scope"] == "fleet").then(|| answer["in_force"].clone())
            })
        };
        let both_hold = |to: Value| {
            for demo in &demos {
                until("it is so on both", || (held(demo) == to).then_some(()));
            }
        };
        // Wider than the quota, and far more of it than is left.
        let wider = clamp("1000/s");
        both_hold(json!("1000/s"));
        seen.push(admitted(&demos, 5));
        // Narrower: one for each replica, and then none.
        let narrower = clamp("1/h");
        both_hold(json!("1/h"));
        seen.push(admitted(&demos, 10));
        act(&demos[1], "release", &json!({"caller": "loud"}));
        both_hold(Value::Null);
        seen.push(admitted(&demos, 10));
        for reason in ["quota", "fleet"] {
            let of = [("caller", "loud"), ("reason", reason)];
            let refused = |demo: &Demo| demo.metric("callerid_refused_total", &of) as usize;
            seen.push(demos.iter().map(refused).sum());
        }
        let late = demos.iter().map(all_troubles).sum();
        (late, (seen, [wider, narrower]))
    });
    // Of twenty-four: ten before, ten under the wider clamp, one for each replica under the narrower, and the rest.
    assert_eq!(seen, [10, 10, 2, 2, 18, 18]);
    assert_eq!(
        in_force,
        [
            json!({"quota": "1/h, burst 24", "scope": "fleet", "by": "policy"}),
            json!({"quota": "1/h, burst 1", "scope": "instance", "by": "clamp"}),
        ]
    );
}

/// One replica, whose quota of the fleet is twenty.
fn callers(redis: &Redis, mode: FleetMode, set: impl FnOnce(Builder) -> Builder) -> Callers {
    let builder = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .quota(Quota::per_hour(1).burst(20))
        .scope(Scope::Fleet)
        .fleet(Fleet::new("x").redis(redis.url()).mode(mode).replicas(1));
    set(builder).build().unwrap()
}

fn admitted_here(callers: &Callers, sent: usize) -> usize {
    let statuses = (0..sent).map(|_| status_without_a_runtime(callers, "a"));
    statuses.filter(|status| *status == 200).count()
}

#[test]
fn what_a_block_a_clamp_or_a_total_refuses_takes_nothing_of_the_fleets_quota() {
    let lasting = Duration::from_secs(3_600);
    for mode in [FleetMode::Strict, FleetMode::Leased, FleetMode::Local] {
        for (which, reason) in [
            ("block", Reason::Blocked),
            ("clamp", Reason::Quota),
            ("total", Reason::Quota),
        ] {
            let redis = Redis::start();
            let let_in = usize::from(which != "block");
            let (callers, seen) = undisturbed(|| {
                redis.say(&["FLUSHALL"]);
                let callers = callers(&redis, mode, |builder| match which {
                    "total" => builder.provenance(
                        Provenance::Verified,
                        Policy::new().total(Quota::per_hour(1).burst(1)),
                    ),
                    _ => builder,
                });
                match which {
                    "block" => callers.block("a", lasting),
                    "clamp" => callers.clamp("a", "1/h", lasting).unwrap(),
                    _ => {}
                }
                let held = admitted_here(&callers, 30);
                let asked = redis.buckets().len();
                callers.lift_clamp("a");
                let after = admitted_here(&callers, 30);
                (late(&callers), (callers, (held, asked, after)))
            });
            let refused = callers.snapshot().caller("a").unwrap().counts.refused;
            let (held, asked, after) = seen;
            assert_eq!(held, let_in, "{which}, {mode:?}");
            assert!(refused[reason] >= 30 - let_in as u64, "{which}, {mode:?}");
            if which == "block" {
                assert_eq!(asked, 0, "nobody was asked");
            }
            // A total does not end, and leases that lapse are gone.
            if which != "total" && mode != FleetMode::Leased {
                assert_eq!(after, 20 - let_in, "{which}, {mode:?}");
            }
            callers.set_mode(Mode::Off);
            assert_eq!(status_without_a_runtime(&callers, "a"), 200);
        }
    }
}
