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
#[path = "dashboard/visit.rs"]
mod visit;

use std::process::Command;
use std::time::{Duration, Instant};

use callerid::Fleet;
use callerid::dashboard::{Access, Grant};
use http_body_util::Full;
use serde_json::{Value, json};

use tower::{Layer, ServiceExt};

use programs::{Demo, Running, build, call};
use server::Redis;
use visit::{Answer, Table, request, table, with};

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
    until(&both, "blocked there", || said(&b, "held, as on the other"));
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
        b.callers.incidents().len() == 2
            && said(&b, "new cache")
            && said(&b, "held, as on the other")
    });
    assert_ne!(status(&b, "loud").await, 200);

    // It is lifted there too, by a replica that did not set it.
    let answer = act(&b, "release", json!({"caller": "loud"})).await.json();
    assert_eq!(answer["scope"], "fleet");
    until(&[&a, &b], "lifted there", || {
        said(&a, "released, as on the other")
    });
    assert_eq!(status(&a, "loud").await, 200);

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

    let mut status = Command::new(build("status"));
    status
        .args(["--fleet", "demo", "127.0.0.1:0"])
        .env("REDIS_URL", redis.url());
    let status = Running::start(&mut status);
    let line = status.line().unwrap();
    let address = line
        .strip_prefix("listening on http://")
        .unwrap()
        .parse()
        .unwrap();
    let get = |path: &str| call(address, "GET", path, &[], "");
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

    // Without the Redis nobody knows, which is not the same as that all is well.
    redis.kill();
    let away = get("/summary.json");
    assert_eq!(away.status, 503, "{}", away.body);
    assert!(away.body.contains("does not answer"), "{}", away.body);
    redis.run();
    assert!(
        get("/summary.json").body.contains("All is well"),
        "it has come back empty"
    );
    redis.say(&["SET", "callerid:demo:shared", &"nonsense ".repeat(10)]);
    assert_eq!(get("/summary.json").status, 503);
}

#[test]
fn a_status_of_a_fleet_without_a_redis_is_an_error_that_shows_no_password() {
    for (args, url, said) in [
        (&["--fleet"][..], "redis://127.0.0.1:1", "usage: status"),
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
