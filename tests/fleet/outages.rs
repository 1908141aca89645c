//! A Redis that is killed, frozen, restarted, or never there. Time is measured by counts: a request that had to wait for
//! it in vain is counted as a timeout after 25 ms, and after three rounds of them nobody waits.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use callerid::{Callers, Fleet, Quota, Scope, identify};

use crate::programs::{Demo, Running, demo, until};
use crate::server::{Redis, calls};
use crate::sharing::{ask, degraded, flood, get, replica};

const POLICIES: &str = "[default]\nquota = \"60/s\"\n[caller.calm]\nquota = \"2000/s\"\n";

/// Sends what is within its quota, all the while.
pub(crate) fn calmly<T>(demos: &[Demo], meanwhile: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let sent = AtomicU32::new(0);
    thread::scope(|scope| {
        for demo in demos {
            let (stop, sent, address) = (&stop, &sent, demo.address);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(get(address, "calm"), 200);
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        assert!(sent.load(Ordering::Relaxed) > 0);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn all_are(demos: &[Demo], what: &str, wanted: bool) {
    for demo in demos {
        until(what, || (degraded(demo) == wanted).then_some(()));
    }
}

/// Says how long that takes. That it takes two seconds at most is shown where time is a parameter, in
/// `src/admit/fleet/outages.rs`.
pub(crate) fn is_whole_soon(demos: &[Demo]) {
    let back = Instant::now();
    all_are(demos, "the fleet is whole again", false);
    eprintln!("whole again after {:?}", back.elapsed());
}

pub(crate) fn troubles(demo: &Demo, kind: &str) -> f64 {
    demo.metric("callerid_limiter_backend_errors_total", &[("kind", kind)])
}

/// The limit is whole again: all replicas together have no more than one bucket.
pub(crate) fn is_whole(demos: &[Demo], caller: &str) {
    let quota = Quota::per_second(60).burst(60);
    let flooded = flood(demos, caller, &quota, Duration::from_secs(3));
    let admitted = f64::from(flooded.admitted);
    assert!(
        admitted <= 1.02 * flooded.most,
        "{admitted} of {}",
        flooded.most
    );
}

#[test]
fn a_redis_that_is_killed_and_started_again_fails_no_request() {
    let mut redis = Redis::start();
    let demos = [
        replica(&redis.url(), POLICIES),
        replica(&redis.url(), POLICIES),
    ];
    all_are(&demos, "the fleet is whole", false);
    calmly(&demos, || {
        redis.kill();
        all_are(&demos, "the loss is said", true);
        for demo in &demos {
            assert!(troubles(demo, "connect") >= 1.0);
        }
        redis.run();
        is_whole_soon(&demos);
    });
    is_whole(&demos, "after-the-kill");
}

#[test]
fn a_redis_that_is_frozen_fails_no_request_and_makes_few_wait() {
    let redis = Redis::start();
    let demos = [
        replica(&redis.url(), POLICIES),
        replica(&redis.url(), POLICIES),
    ];
    all_are(&demos, "the fleet is whole", false);
    calmly(&demos, || {
        redis.signal("STOP");
        all_are(&demos, "the freeze is said", true);
        let waited: Vec<_> = demos.iter().map(|demo| troubles(demo, "timeout")).collect();
        // Callers that hold no lease: nobody asks about them any more.
        for (demo, waited) in demos.iter().zip(waited) {
            assert!(waited >= 1.0);
            let before = demo.metric("callerid_requests_total", &[("class", "ok")]);
            for caller in 0..30 {
                assert_eq!(
                    demo.get("/v1/prices/a", &format!("new-{caller}")).status,
                    200
                );
            }
            assert!(demo.metric("callerid_requests_total", &[("class", "ok")]) >= before + 30.0);
        }
        redis.signal("CONT");
        is_whole_soon(&demos);
    });
    is_whole(&demos, "after-the-freeze");
}

#[test]
fn while_nobody_answers_each_has_its_share() {
    let mut redis = Redis::start();
    let policies = "[default]\nquota = \"1/h\"\nburst = 40\n";
    let demos = [
        replica(&redis.url(), policies),
        replica(&redis.url(), policies),
    ];
    // Both have counted both, which they do once a second.
    until("both are counted twice", || {
        (calls(redis.port, "zcard") >= 6).then_some(())
    });
    redis.kill();
    all_are(&demos, "the loss is said", true);
    for demo in &demos {
        let statuses = (0..30).map(|_| demo.get("/v1/prices/a", "a").status);
        assert_eq!(statuses.filter(|status| *status == 200).count(), 20);
    }
}

#[test]
fn on_failure_open_lets_in_and_closed_refuses() {
    for (word, status) in [("open", 200), ("closed", 429)] {
        let redis = Redis::reserved(&[]);
        let policies = format!(
            "[default]\nquota = \"1/h\"\nburst = 1\n[fleet]\nnamespace = \"x\"\non_failure = \"{word}\"\n"
        );
        let demo = replica(&redis.url(), &policies);
        for _ in 0..3 {
            assert_eq!(demo.get("/v1/prices/a", "a").status, status, "{word}");
        }
        assert_eq!(
            demo.get("/healthz", "a").status,
            200,
            "a probe is never refused"
        );
    }
}

#[test]
fn a_redis_that_is_not_there_at_the_start_is_said_and_found_later() {
    let mut redis = Redis::reserved(&["--requirepass", "hunter2"]);
    let url = format!("redis://:hunter2@127.0.0.1:{}", redis.port);
    let mut command = demo();
    command.args(["--listen", "127.0.0.1:0", "--no-traffic", "--redis", &url]);
    let demo = Demo::ready(Running::start(&mut command));
    let said = demo.running.logged("does not answer as it should").unwrap();
    assert!(
        said.contains("connect") && said.contains("local_share"),
        "{said}"
    );
    assert!(degraded(&demo));
    assert_eq!(demo.get("/v1/prices/a", "a").status, 200);
    redis.run();
    let found = demo
        .running
        .logged("the Redis of the fleet answers")
        .unwrap();
    all_are(std::slice::from_ref(&demo), "the fleet is whole", false);
    for line in [said, found] {
        assert!(
            !line.contains("hunter2") && !line.contains(&redis.port.to_string()),
            "{line}"
        );
    }
    let page = demo.plain("/metrics").body;
    assert!(!page.contains("hunter2"));
}

/// Takes connections and what comes over them, answers the greeting of a client, and nothing after `silent`.
fn black_hole() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
                let _ = stream.flush();
            });
        }
    });
    port
}

#[test]
fn trap_19_a_redis_that_never_answers_delays_nobody() {
    let url = format!("redis://127.0.0.1:{}", black_hole());
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .quota(Quota::per_second(60))
        .scope(Scope::Fleet)
        .fleet(Fleet::new("x").redis(&url))
        .build()
        .unwrap();
    // The library's own defaults would take seconds for each. What waits for nothing is there when it is first asked.
    for caller in 0..1_000 {
        let answer = pin!(ask(&callers, &format!("caller-{caller}")));
        let answer = answer.poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(answer) = answer else {
            panic!("request {caller} waits");
        };
        assert_eq!(answer.status(), 200);
    }
    // Over real sockets nothing but attempts to connect has failed, a few a second.
    let demo = replica(&url, POLICIES);
    assert!(degraded(&demo));
    for caller in 0..100 {
        assert_eq!(get(demo.address, &format!("caller-{caller}")), 200);
    }
    assert_eq!(troubles(&demo, "script") + troubles(&demo, "protocol"), 0.0);
    until("some attempts more have failed", || {
        (troubles(&demo, "timeout") >= 3.0).then_some(())
    });
    assert!(degraded(&demo));
}

/// What comes back over a connection of its own, until it is closed.
fn raw(address: std::net::SocketAddr, path: &str) -> Vec<u8> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nx-client-id: flood\r\nconnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    // Who comes too late is turned away.
    if let Ok(mut stream) = std::net::TcpStream::connect(address)
        && stream.write_all(head.as_bytes()).is_ok()
    {
        let _ = stream.read_to_end(&mut answer);
    }
    answer
}

#[test]
fn a_replica_that_is_told_to_end_under_flood_answers_what_it_has_taken_and_says_goodbye() {
    let redis = Redis::start();
    let mut demo = replica(&redis.url(), POLICIES);
    let address = demo.address;
    thread::scope(|scope| {
        let floods: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    std::iter::repeat_with(|| raw(address, "/v1/prices/a"))
                        .take_while(|answer| !answer.is_empty())
                        .map(|answer| String::from_utf8(answer).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let slow = scope.spawn(move || raw(address, "/v1/slow?ms=1000"));
        until("the slow one is there", || {
            let in_flight = demo.metric("callerid_in_flight_requests", &[("caller", "flood")]);
            (in_flight >= 1.0).then_some(())
        });
        demo.running.signal("TERM");
        let slow = String::from_utf8(slow.join().unwrap()).unwrap();
        assert!(
            slow.starts_with("HTTP/1.1 200 ") || slow.starts_with("HTTP/1.1 429 "),
            "{slow}"
        );
        for answer in floods.into_iter().flat_map(|flood| flood.join().unwrap()) {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 429 "));
            assert!(!body.is_empty(), "{head}");
        }
    });
    assert!(demo.running.ended().success());
    assert_eq!(redis.say(&["ZCARD", "callerid:demo:replicas"]), ["0"]);
}
