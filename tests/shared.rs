//! What a person says on one replica holds on all, through a real Redis.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic
)]
#![allow(clippy::disallowed_methods, reason = "real servers are polled")]

#[path = "programs/mod.rs"]
mod programs;
#[path = "fleet/server.rs"]
mod server;
#[path = "support/mod.rs"]
mod support;
#[path = "dashboard/visit.rs"]
mod visit;
#[path = "live/world.rs"]
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

use callerid::dashboard::{Access, Grant};
use callerid::events::{Event, Finding};
use callerid::{Ceiling, Fleet, Mode};
use http_body_util::Full;
use serde_json::{Value, json};

use tower::{Layer, ServiceExt};

use programs::{Demo, Running, build, call};
use server::Redis;
use support::START;
use visit::{Answer, Table, request, table, with};
use world::{Load, World};

fn replica(redis: &Redis, name: &str) -> Table {
    let fleet = Fleet::new("prices").redis(redis.url());
    table(|builder| builder.service("prices").instance(name).fleet(fleet))
}

async fn act(table: &Table, action: &str, body: Value) -> Answer {
    let page = table.page(Access::from_fn(|_| Grant::nothing().read().operate("anna")));
    let path = format!("/v1/do/{action}");
    let headers = [("content-type", "application/json")];
    let mut post = with(request("POST", &path, Some("127.0.0.1")), &headers);
    *post.body_mut() = Full::from(body.to_string());
    page.ask(post).await
}

async fn live(table: &Table) -> Value {
    let page = table.page(Access::from_fn(|_| Grant::nothing().read()));
    page.get("/v1/overview").await.json()
}

/// Ticks as the thread does, on a clock that stands still, until it is so.
fn until(tables: &[&Table], what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        for table in tables {
            table.callers.tick(table.clock.advance(Duration::ZERO));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    eprintln!("{what}: {:?}", started.elapsed());
}

/// The status that a request of this caller gets.
async fn status(table: &Table, caller: &'static str) -> u16 {
    let inner = tower::service_fn(|_: http::Request<Full<bytes::Bytes>>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::default()))
    });
    let request = with(request("GET", "/", None), &[("x-client-id", caller)]);
    let answer = table.callers.layer().layer(inner).oneshot(request).await;
    answer.unwrap().status().as_u16()
}

fn said(table: &Table, text: &str) -> bool {
    let events = table.callers.events();
    events
        .iter()
        .any(|event| format!("{event:?}").contains(text))
}

async fn shared(redis: &Redis) -> [Table; 2] {
    let tables = [replica(redis, "a"), replica(redis, "b")];
    for table in &tables {
        table.send("x-client-id", "calm", 200, 1).await;
        table.send("x-client-id", "loud", 200, 1).await;
    }
    tables
}

async fn up(tables: &[&Table]) {
    for _ in 0..800 {
        let mut all = true;
        for table in tables {
            table.callers.tick(table.clock.advance(Duration::ZERO));
            all &= live(table).await["scope"] == "fleet";
        }
        if all {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the Redis is not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_on_one_replica_holds_on_all_and_after_a_restart() {
    let redis = Redis::start();
    let [a, b] = shared(&redis).await;
    up(&[&a, &b]).await;
    let both = [&a, &b];

    let hold = json!({"caller": "loud", "seconds": 600});
    let answer = act(&a, "block", hold).await.json();
    assert_eq!(
        (&answer["scope"], &answer["instance"]),
        (&json!("fleet"), &json!("a"))
    );
    assert_ne!(status(&a, "loud").await, 200);
    let by_anna = "held, as on the other replicas\", author: \"anna\"";
    until(&both, "blocked there", || said(&b, by_anna));
    assert_ne!(status(&b, "loud").await, 200);
    assert_eq!(status(&b, "calm").await, 200);

    let pin = json!({"pin": "flag", "text": "new cache"});
    assert_eq!(act(&b, "pin", pin).await.json()["scope"], "fleet");
    until(&both, "pinned there", || said(&a, "new cache"));

    // Both at once: neither is lost.
    for (table, name) in [(&a, "slow"), (&b, "down")] {
        let answer = act(table, "incident", json!({"name": name})).await;
        assert_eq!(answer.json()["scope"], "fleet", "{answer:?}");
    }
    until(&both, "posted there", || {
        both.iter()
            .all(|table| table.callers.incidents().len() == 2)
    });

    // A replica that starts now knows all of it.
    drop(b);
    let b = replica(&redis, "b");
    until(&[&b], "known after a restart", || {
        b.callers.incidents().len() == 2 && said(&b, "new cache") && said(&b, by_anna)
    });
    assert_ne!(status(&b, "loud").await, 200);

    // It is lifted there too, by a replica that did not set it.
    let answer = act(&b, "release", json!({"caller": "loud"})).await.json();
    assert_eq!(answer["scope"], "fleet");
    let by_anna = "released, as on the other replicas\", author: \"anna\"";
    until(&[&a, &b], "lifted there", || said(&a, by_anna));
    assert_eq!(status(&a, "loud").await, 200);
    // The same in code.
    let bea = b.callers.on_behalf_of("bea");
    bea.block("loud", Duration::from_secs(600));
    until(&[&a, &b], "blocked there in code", || {
        said(&a, "held, as on the other replicas\", author: \"bea\"")
    });
    bea.lift_clamp("loud");
    until(&[&a, &b], "lifted there in code", || {
        said(&a, "released, as on the other replicas\", author: \"bea\"")
    });

    // It ends by itself.
    act(&a, "block", json!({"caller": "loud", "seconds": 5}))
        .await
        .json();
    until(&[&b], "blocked again", || {
        b.callers
            .events()
            .iter()
            .filter(|event| format!("{event:?}").contains("held, as"))
            .count()
            == 2
    });
    assert_ne!(status(&b, "loud").await, 200);
    b.pass(7);
    assert_eq!(status(&b, "loud").await, 200);
}

fn flood() -> Load {
    Load {
        route: "/v1/orders",
        status: 422,
        latency: Duration::from_millis(300),
        ..Load::new("checkout", 100.0)
    }
}

#[test]
fn what_is_announced_or_in_hand_on_one_replica_wakes_nobody_on_another() {
    let redis = Redis::start();
    let replica = |name: &str| {
        let fleet = Fleet::new("prices").redis(redis.url());
        World::new(|builder| {
            let builder = builder.instance(name).ceiling(Ceiling::new(30));
            builder.fleet(fleet)
        })
    };
    let mut worlds = [replica("a"), replica("b")];
    for world in &mut worlds {
        world.run(Duration::from_secs(900));
    }
    worlds[1]
        .table
        .callers
        .on_behalf_of("bea")
        .expect("search", 50.0, Duration::from_secs(3_600));
    for world in &mut worlds {
        world.loads.push(flood());
        world.run(Duration::from_secs(20));
    }
    let anna = worlds[0].table.callers.on_behalf_of("anna");
    assert!(anna.ack(&anna.open_episodes()[0].id));
    // As the thread does, on clocks that stand still.
    let tick = |worlds: &[World; 2]| {
        for world in worlds {
            let now = START + Duration::from_secs_f64(world.seconds());
            world.table.callers.tick(now);
        }
    };
    let open = |world: &World| world.table.callers.open_episodes();
    programs::until("in hand there too", || {
        tick(&worlds);
        let mut findings = Vec::new();
        for event in open(&worlds[1]) {
            findings.push(event.finding().unwrap().clone());
        }
        assert!(findings.len() > 1);
        let by_anna = |of: &Finding| of.acknowledged_by.as_deref() == Some("anna");
        findings.iter().all(by_anna).then_some(())
    });
    programs::until("announced there too", || {
        tick(&worlds);
        let events = worlds[0].table.callers.events();
        let said = |event: &Event| {
            event
                .to_json()
                .contains("expected, as on the other replicas\", \"author\": \"bea\"")
        };
        events.iter().any(|event| said(event)).then_some(())
    });

    // What is over is out of hand on both.
    for world in &mut worlds {
        world.loads.pop();
        world.run(Duration::from_secs(300));
        assert!(open(world).is_empty());
    }
    programs::until("out of hand", || {
        tick(&worlds);
        let shared = &redis.say(&["GET", "callerid:prices:shared"])[0];
        (shared.contains("search") && !shared.contains("anna")).then_some(())
    });
    worlds[0].loads.push(Load::new("search", 80.0));
    worlds[0].run(Duration::from_secs(20));
    let announced = open(&worlds[0]);
    let finding = announced.iter().find_map(|event| event.finding());
    assert!(finding.unwrap().expected, "{announced:?}");
    worlds[1].loads.push(flood());
    worlds[1].run(Duration::from_secs(20));
    let again = open(&worlds[1]);
    let pages = again.iter().filter_map(|event| event.finding());
    assert!(
        pages.clone().count() > 0 && pages.clone().all(Finding::pages),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_only_another_replica_has_seen_can_be_held_from_here() {
    let redis = Redis::start();
    let [a, b] = shared(&redis).await;
    a.send("x-client-id", "only-there", 200, 1).await;
    let hold = |caller: &str| json!({"caller": caller, "seconds": 600, "quota": "1/h"});
    assert_eq!(
        act(&b, "clamp", hold("only-there")).await.status,
        404,
        "alone"
    );
    up(&[&a, &b]).await;
    let answer = act(&b, "clamp", hold("only-there")).await;
    assert_eq!(
        (answer.status, &answer.json()["scope"]),
        (200, &json!("fleet"))
    );
    until(&[&a, &b], "clamped there", || {
        said(&a, "held, as on the other")
    });
    let both = [
        status(&a, "only-there").await,
        status(&a, "only-there").await,
    ];
    assert_eq!(both, [200, 429]);
    let both = [
        status(&b, "only-there").await,
        status(&b, "only-there").await,
    ];
    assert_eq!(both, [200, 429], "also where it comes for the first time");
    let no_name = json!({"caller": "no name\n", "seconds": 600, "quota": "1/h"});
    assert_eq!(act(&b, "clamp", no_name).await.status, 404);
}

#[tokio::test]
async fn a_clamp_that_came_by_itself_is_shown_and_a_person_can_end_it() {
    let mut world = World::new(|builder| {
        let builder = builder.ceiling(Ceiling::new(30));
        builder.clamp_runaways(1.5, Mode::Enforce)
    });
    world.run(Duration::from_secs(900));
    let slow = Duration::from_millis(300);
    world.loads.push(Load {
        latency: slow,
        ..Load::new("checkout", 100.0)
    });
    world.run(Duration::from_secs(10));
    let callers = world.table.callers.clone();
    let page = visit::Page(callers.dashboard().access(Access::from_fn(|_| {
        Grant::nothing().read().self_service().operate("anna")
    })));
    let clamped = page.get("/v1/overview").await.json()["clamped"].clone();
    let quota = clamped["checkout"]["quota"].as_str().unwrap();
    assert!(
        ["11/s", "12/s", "13/s", "14/s"].contains(&quota),
        "{clamped}"
    );
    assert_eq!(clamped["checkout"]["mode"], "enforce");
    let own = with(request("GET", "/me", None), &[("x-client-id", "checkout")]);
    assert_eq!(page.ask(own).await.json()["clamped"]["quota"], quota);

    let headers = [("content-type", "application/json")];
    let mut post = with(request("POST", "/v1/do/release", None), &headers);
    *post.body_mut() = Full::from(json!({"caller": "checkout"}).to_string());
    assert_eq!(page.ask(post).await.json()["scope"], "replica");
    world.run(Duration::from_secs(30));
    let after = page.get("/v1/overview").await.json();
    assert_eq!(after["clamped"], json!({}), "it is left alone for an hour");
    assert!(!callers.open_episodes().is_empty());
}

/// What a demo says of itself.
fn overview(demo: &Demo) -> Value {
    serde_json::from_str(&demo.plain("/callerid/v1/overview").body).unwrap()
}

fn does(demo: &Demo, action: &str, body: Value) -> Value {
    let path = format!("/callerid/v1/do/{action}");
    let headers = [("content-type", "application/json")];
    let answer = call(demo.address, "POST", &path, &headers, &body.to_string());
    assert_eq!(answer.status, 200, "{action}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// Waits for it, and says how long that took.
fn there(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    programs::until(what, || so().then_some(()));
    eprintln!("{what}: {:?}", started.elapsed());
}

/// Whether all that was said in these tests is known.
fn knows_all(demo: &Demo) -> bool {
    let now = overview(demo);
    let events = now["events"].to_string();
    now["incidents"][0]["name"] == "Orders are slow"
        && now["incidents"][0]["eta"].is_number()
        && now["braked"] == json!({"checkout": "blocked", "search": "5/s"})
        && events.contains("new cache")
        && events.contains("up to 20 times the load expected")
}

#[test]
fn two_processes_say_the_same_and_one_that_was_killed_knows_it_again() {
    let redis = Redis::start();
    let url = redis.url();
    let start = || {
        let demo = Demo::start(&["--redis", &url]);
        for caller in ["checkout", "search"] {
            assert_eq!(demo.get("/v1/prices/1", caller).status, 200);
        }
        there("the Redis is found", || overview(&demo)["scope"] == "fleet");
        demo
    };
    let (a, b) = (start(), start());
    let soon = humantime::format_rfc3339_seconds(
        std::time::SystemTime::now() + Duration::from_secs(1_800),
    );
    let incident = json!({"name": "Orders are slow", "eta": soon.to_string()});
    for (demo, action, body) in [
        (&a, "block", json!({"caller": "checkout", "seconds": 600})),
        (
            &b,
            "clamp",
            json!({"caller": "search", "quota": "5/s", "seconds": 600}),
        ),
        (&b, "pin", json!({"pin": "cache", "text": "new cache"})),
        (&a, "incident", incident),
        (
            &b,
            "expect",
            json!({"caller": "search", "factor": 20, "seconds": 600}),
        ),
    ] {
        assert_eq!(does(demo, action, body)["scope"], "fleet", "{action}");
    }
    there("said in both", || knows_all(&a) && knows_all(&b));
    assert_eq!(b.get("/v1/prices/1", "checkout").status, 429);

    b.running.signal("KILL");
    drop(b);
    // It finds a caller blocked whom it has never seen.
    let b = Demo::start(&["--redis", &url]);
    there("known after a kill", || knows_all(&b));
    assert_eq!(b.get("/v1/prices/1", "checkout").status, 429);

    assert_eq!(
        does(&b, "release", json!({"caller": "checkout"}))["scope"],
        "fleet"
    );
    there("released in the other", || {
        a.get("/v1/prices/1", "checkout").status == 200
    });
}

#[test]
fn a_process_that_was_killed_knows_it_again_from_its_file_also_from_a_torn_one() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("state.json");
    let start = || Demo::start(&["--state", file.to_str().unwrap()]);
    let demo = start();
    for caller in ["checkout", "search"] {
        assert_eq!(demo.get("/v1/prices/1", caller).status, 200);
    }
    let soon = humantime::format_rfc3339_seconds(
        std::time::SystemTime::now() + Duration::from_secs(1_800),
    );
    let incident = json!({"name": "Orders are slow", "eta": soon.to_string()});
    for (action, body) in [
        ("pin", json!({"pin": "cache", "text": "new cache"})),
        (
            "expect",
            json!({"caller": "search", "factor": 20, "seconds": 600}),
        ),
        ("block", json!({"caller": "checkout", "seconds": 600})),
        (
            "clamp",
            json!({"caller": "search", "quota": "5/s", "seconds": 600}),
        ),
        ("incident", incident),
    ] {
        assert_eq!(does(&demo, action, body)["scope"], "replica", "{action}");
    }
    let kept = || std::fs::read_to_string(&file).unwrap();
    there("written", || {
        kept().contains("new cache") && kept().contains("factor")
    });
    // The last change, which is what a torn write takes.
    does(&demo, "incident", json!({"name": "And again"}));
    demo.running.signal("KILL");
    drop(demo);

    let demo = start();
    assert!(knows_all(&demo), "{}", overview(&demo));
    assert_eq!(overview(&demo)["incidents"][1]["name"], "And again");
    assert_eq!(demo.get("/v1/prices/1", "checkout").status, 429);
    demo.running.signal("KILL");
    drop(demo);

    std::fs::write(&file, &kept().as_bytes()[..100]).unwrap();
    let demo = start();
    assert!(knows_all(&demo), "{}", overview(&demo));
    assert_eq!(demo.get("/v1/prices/1", "checkout").status, 429);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_is_told_again() {
    let mut redis = Redis::start();
    let [a, b] = shared(&redis).await;
    up(&[&a, &b]).await;
    act(&a, "incident", json!({"name": "slow"})).await.json();
    act(&a, "block", json!({"caller": "loud", "seconds": 600}))
        .await
        .json();
    until(&[&a, &b], "blocked there", || {
        said(&b, "held, as on the other")
    });

    redis.kill();
    let refused = act(&a, "block", json!({"caller": "calm", "seconds": 600})).await;
    assert_eq!(refused.status, 503);
    assert!(refused.problem().contains("shared state is unavailable"));
    assert_eq!(status(&a, "calm").await, 200);
    assert_eq!(
        act(&a, "incident", json!({"name": "more"})).await.status,
        503
    );
    assert_eq!(a.callers.incidents().len(), 1);
    // What was known holds, and a brake can be set on this replica.
    assert_ne!(status(&b, "loud").await, 200);
    let alone = json!({"caller": "calm", "seconds": 600, "keep": false});
    assert_eq!(act(&a, "block", alone).await.json()["scope"], "replica");
    assert_ne!(status(&a, "calm").await, 200);

    redis.run();
    until(&[&a, &b], "told again", || {
        redis
            .keys()
            .iter()
            .any(|key| key == "callerid:prices:shared")
    });
    until(&[&a, &b], "what was done alone is shared", || {
        let events = b.callers.events();
        events.iter().any(|event| {
            let event = format!("{event:?}");
            event.contains("held, as") && event.contains("calm")
        })
    });
    let late = replica(&redis, "c");
    until(&[&late], "a third knows", || {
        late.callers.incidents().len() == 1
    });
    assert_ne!(status(&late, "loud").await, 200);
    assert_ne!(status(&late, "calm").await, 200);
    // What makes no sense is overwritten.
    redis.say(&["SET", "callerid:prices:shared", "nonsense"]);
    until(&[&a, &b], "written anew", || {
        redis.say(&["GET", "callerid:prices:shared"])[0].contains("slow")
    });
    assert_ne!(status(&a, "loud").await, 200);
}

/// The status alone, of the fleet of the demos.
fn status_alone(redis: &Redis) -> Demo {
    let mut status = Command::new(build("status"));
    status
        .args(["--fleet", "demo", "127.0.0.1:0"])
        .env("REDIS_URL", redis.url());
    Demo::ready(Running::start(&mut status))
}

#[test]
fn the_status_alone_outlives_the_service_in_the_redis_of_its_fleet() {
    let mut redis = Redis::start();
    let demo = Demo::start(&["--redis", &redis.url()]);
    let post = r#"{"name": "Orders are slow", "fallback": "use the catalogue", "eta": "2099-01-01T00:00:00Z"}"#;
    let headers = [("content-type", "application/json")];
    let told = |body: &str| {
        call(
            demo.address,
            "POST",
            "/callerid/v1/do/incident",
            &headers,
            body,
        )
    };
    assert_eq!(told(post).status, 422, "in seventy years it is none");
    let soon = std::time::SystemTime::now() + Duration::from_secs(1_800);
    let soon = humantime::format_rfc3339_seconds(soon).to_string();
    let answer = programs::until("the Redis of the fleet is found", || {
        let answer = told(&post.replace("2099-01-01T00:00:00Z", &soon));
        (answer.status == 200).then_some(answer)
    });
    assert!(
        answer.body.contains(r#""scope":"fleet""#),
        "{}",
        answer.body
    );
    demo.running.signal("KILL");
    drop(demo);

    let status = status_alone(&redis);
    let get = |path: &str| call(status.address, "GET", path, &[], "");
    let summary: Value = serde_json::from_str(&get("/summary.json").body).unwrap();
    assert_eq!(summary["page"]["name"], "prices-demo");
    let incident = &summary["incidents"][0];
    assert_eq!(incident["name"], "Orders are slow");
    assert_eq!(incident["fallback"], "use the catalogue");
    assert_eq!(incident["eta"].as_str().unwrap()[..19], soon[..19]);
    let page = get("/").body;
    assert!(
        page.contains("Orders are slow") && page.contains("expected to be over"),
        "{page}"
    );

    assert_eq!(summary["page"]["stale"], Value::Null);
    // Without the Redis it says what it knew, and as of when.
    redis.kill();
    let stale = |why: &str| {
        let answer = get("/summary.json");
        assert!(answer.headers["age"].parse::<u64>().is_ok());
        let stale: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(stale["incidents"], summary["incidents"]);
        assert!(
            stale["page"]["as_of"].as_str().unwrap() >= summary["page"]["as_of"].as_str().unwrap()
        );
        let said = stale["page"]["stale"].as_str().unwrap_or_default();
        said.contains(why).then_some(())
    };
    programs::until("it is away", || stale("does not answer"));
    let page = get("/").body;
    assert!(
        page.contains("Orders are slow") && page.contains("Nothing newer is known: the Redis"),
        "{page}"
    );
    // One that has come back empty does not know that all is well.
    redis.run();
    programs::until("it is empty", || stale("is there no more"));
    redis.say(&["SET", "callerid:demo:shared", &"nonsense ".repeat(10)]);
    programs::until("it is nonsense", || stale("makes no sense"));
    // Who never knew anything says so.
    drop(status);
    let status = status_alone(&redis);
    let never = call(status.address, "GET", "/summary.json", &[], "");
    assert_eq!(never.status, 503, "{}", never.body);
}

#[test]
fn a_status_of_a_fleet_without_a_redis_is_an_error_that_shows_no_password() {
    for (args, url, said) in [
        (&["--fleet"][..], "redis://127.0.0.1:1", "usage: status"),
        (&["--help"], "redis://127.0.0.1:1", "usage: status"),
        (
            &["--fleet", "two words"],
            "redis://127.0.0.1:1",
            "fleet.namespace",
        ),
        (
            &["--fleet", "demo"],
            "hunter2",
            "fleet.redis: is not an address",
        ),
    ] {
        let ended = programs::output(
            Command::new(build("status"))
                .args(args)
                .env("REDIS_URL", url),
        );
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(
            !ended.status.success() && stderr.contains(said),
            "{args:?}: {stderr}"
        );
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_moves_to_another_redis_with_a_reload() {
    let (old, new) = (Redis::start(), Redis::start());
    let file = std::env::temp_dir().join(format!("callerid-moves-{}.toml", std::process::id()));
    let write = |redis: &Redis| {
        let text = format!(
            "[fleet]\nnamespace = \"prices\"\nredis = \"{}\"\n",
            redis.url()
        );
        std::fs::write(&file, text).unwrap();
    };
    write(&old);
    let of = |name| {
        table(|builder| {
            builder
                .service("prices")
                .instance(name)
                .config(&file)
                .unwrap()
        })
    };
    let [a, b] = [of("a"), of("b")];
    let both = [&a, &b];
    for table in both {
        table.send("x-client-id", "loud", 200, 1).await;
    }
    up(&both).await;
    let hold = json!({"caller": "loud", "seconds": 600});
    assert_eq!(act(&a, "block", hold).await.json()["scope"], "fleet");
    until(&both, "blocked there", || said(&b, "held, as on the other"));
    write(&new);
    for table in both {
        table.callers.reload([&file]).unwrap();
    }
    drop(old);
    up(&both).await;
    for table in both {
        assert_ne!(status(table, "loud").await, 200);
    }
    let pin = json!({"pin": "flag", "text": "new cache"});
    assert_eq!(act(&b, "pin", pin).await.json()["scope"], "fleet");
    until(&both, "pinned there", || said(&a, "new cache"));
    assert!(new.keys().contains(&"callerid:prices:shared".to_owned()));
    // And nowhere, where there is no fleet any more.
    std::fs::write(&file, "").unwrap();
    a.callers.reload([&file]).unwrap();
    let pin = json!({"pin": "flag", "text": "old cache"});
    assert_eq!(act(&a, "pin", pin).await.json()["scope"], "replica");
    let _ = std::fs::remove_file(&file);
}
