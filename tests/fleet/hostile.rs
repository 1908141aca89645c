//! A Redis that others misuse, and answers that are none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use crate::outages::troubles;
use crate::server::Redis;
use crate::sharing::{all_troubles, degraded, replica, undisturbed};

const POLICIES: &str = "[default]\nquota = \"1/h\"\nburst = 20\n";

#[test]
fn scripts_that_the_server_has_forgotten_are_told_again() {
    let redis = Redis::start();
    let demo = replica(&redis.url(), POLICIES);
    for caller in ["a", "b", "c"] {
        assert_eq!(redis.say(&["SCRIPT", "FLUSH"]), ["OK"]);
        assert_eq!(demo.get("/v1/prices/a", caller).status, 200);
    }
    assert_eq!(redis.buckets().len(), 3);
    assert_eq!(
        demo.metric("callerid_limiter_backend_errors_total", &[]),
        0.0
    );
    assert!(!degraded(&demo));
}

#[test]
fn names_in_keys_are_bounded_and_hidden() {
    let redis = Redis::start();
    let longest = "x".repeat(64);
    let _demo = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        let demo = replica(&redis.url(), POLICIES);
        for name in ["alice@example.com", "a:b{c}d*", &longest, "\"'$(reboot)"] {
            assert_eq!(demo.get("/v1/prices/a", name).status, 200, "{name}");
        }
        (all_troubles(&demo), demo)
    });
    let keys = redis.keys();
    assert_eq!(keys.len(), 5, "{keys:?}");
    for key in redis.buckets() {
        let hash = key.strip_prefix("callerid:demo:").unwrap();
        assert!(
            hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
            "{key}"
        );
        // It goes by itself.
        let ttl: i64 = redis.say(&["PTTL", &key])[0].parse().unwrap();
        assert!(ttl > 0, "{ttl}");
    }
}

#[test]
fn what_others_write_under_our_keys_costs_nobody_a_request() {
    let redis = Redis::start();
    let policies =
        "[default]\nquota = \"1/h\"\nburst = 5\n[fleet]\nnamespace = \"x\"\nmode = \"strict\"\n";
    for (at, words) in [
        &["LPUSH", "a list"][..],
        &["SET", "garbage"],
        &["SET", "nan"],
        &["SET", "inf"],
        &["SET", "-99999999999999999999"],
        &["HSET", "field", "value"],
    ]
    .into_iter()
    .enumerate()
    {
        let caller = format!("caller-{at}");
        let admitted = undisturbed(|| {
            let demo = replica(&redis.url(), policies);
            redis.say(&["FLUSHALL"]);
            assert_eq!(demo.get("/v1/prices/a", &caller).status, 200);
            let Some(key) = redis.buckets().pop() else {
                return (1.0, 0);
            };
            redis.say(&["DEL", &key]);
            let mut write = vec![words[0], &*key];
            write.extend(&words[1..]);
            redis.say(&write);
            let statuses = (0..7).map(|_| demo.get("/v1/prices/a", &caller).status);
            let admitted = statuses.filter(|status| *status == 200).count();
            // What others write is no trouble.
            for kind in ["script", "protocol", "connect"] {
                assert_eq!(troubles(&demo, kind), 0.0, "{words:?}");
            }
            (all_troubles(&demo), admitted)
        });
        // "inf" is an arrival beyond the burst: an empty bucket, as after a failover. The others are full ones.
        let wanted = if words == ["SET", "inf"] { 0 } else { 5 };
        assert_eq!(admitted, wanted, "{words:?}");
    }
}

#[test]
fn a_server_that_lets_us_touch_no_key_is_no_engine() {
    let redis = Redis::start();
    let acl = ["ACL", "SETUSER", "narrow", "on", ">pw", "+@all", "~other:*"];
    assert_eq!(redis.say(&acl), ["OK"]);
    let url = format!("redis://narrow:pw@127.0.0.1:{}", redis.port);
    let demo = replica(&url, POLICIES);
    assert_eq!(demo.get("/v1/prices/a", "a").status, 200);
    assert!(degraded(&demo) && troubles(&demo, "script") >= 1.0);
}

/// A server that says the same to everything, once for each command.
fn parrot(says: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = [0; 65536];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let commands = buffer[..read].iter().filter(|byte| **byte == b'*').count();
                    if stream.write_all(says.repeat(commands).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[test]
fn answers_that_are_none_of_ours_are_not_believed() {
    for says in [
        "+OK\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "*2\r\n:-5\r\n:-5\r\n",
        ":99999999999\r\n",
        "*2\r\n$3\r\nabc\r\n:1\r\n",
        "$-1\r\n",
        "*1\r\n*1\r\n*1\r\n:1\r\n",
    ] {
        let demo = replica(&parrot(says), POLICIES);
        let statuses = (0..30).map(|_| demo.get("/v1/prices/a", "a").status);
        assert_eq!(
            statuses.filter(|status| *status == 200).count(),
            20,
            "{says:?}"
        );
        assert!(degraded(&demo), "{says:?}");
    }
    // It passes the trial, and says of every bucket what is no grant.
    let demo = replica(&parrot(":1\r\n"), POLICIES);
    let statuses = (0..30).map(|_| demo.get("/v1/prices/a", "a").status);
    assert_eq!(statuses.filter(|status| *status == 200).count(), 20);
    assert!(troubles(&demo, "protocol") >= 1.0);
}
