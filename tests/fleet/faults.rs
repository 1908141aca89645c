//! A Redis that turns us away, dies with our question in hand, or has another clock: no request fails of it, it is said
//! once and without a secret, and the limit is whole again once the cause is gone.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use crate::outages::{all_are, calmly, is_whole, is_whole_soon, troubles};
use crate::programs::{Demo, until};
use crate::server::{Redis, calls};
use crate::sharing::{all_troubles, degraded, replica};

/// A quota whose tokens do not come back while a test runs.
const SPENT: &str = "[default]\nquota = \"1/h\"\nburst = 20\n";
const FLOWING: &str = "[default]\nquota = \"60/s\"\n[caller.calm]\nquota = \"2000/s\"\n";

/// How often the loss was said, and that nothing that was said shows the secret.
fn said(demo: &Demo, secrets: &[&str]) -> usize {
    let (log, page) = (demo.running.all_said(), demo.plain("/metrics").body);
    for secret in secrets {
        assert!(!log.contains(secret) && !page.contains(secret), "{secret}");
    }
    log.matches("does not answer as it should").count()
}

fn admitted(demo: &Demo, caller: &str, sent: usize) -> usize {
    let statuses = (0..sent).map(|_| demo.get("/v1/prices/a", caller).status);
    statuses.filter(|status| *status == 200).count()
}

#[test]
fn a_password_that_is_wrong_is_said_once_and_hidden_and_found_when_it_is_right() {
    let mut redis = Redis::reserved(&[]);
    redis.run();
    assert_eq!(
        redis.say(&["CONFIG", "SET", "requirepass", "correcthorse"]),
        ["OK"]
    );
    let url = format!("redis://:hunter2@127.0.0.1:{}", redis.port);
    let demo = replica(&url, SPENT);
    assert!(degraded(&demo));
    assert_eq!(admitted(&demo, "a", 30), 20, "its share");
    until("some attempts more have failed", || {
        (troubles(&demo, "connect") >= 5.0).then_some(())
    });
    assert_eq!(said(&demo, &["hunter2", "correcthorse"]), 1);
    let mend = [
        ["AUTH", "correcthorse", "", ""],
        ["CONFIG", "SET", "requirepass", "hunter2"],
    ];
    assert_eq!(redis.say_all(&[&mend[0][..2], &mend[1]]), ["OK", "OK"]);
    all_are(std::slice::from_ref(&demo), "it is let in", false);
    // A password that is changed under a connection turns nobody out; one that is turned out cannot come back.
    let mend = [
        ["AUTH", "hunter2", "", ""],
        ["CONFIG", "SET", "requirepass", "swordfish"],
        ["CLIENT", "KILL", "TYPE", "normal"],
    ];
    redis.say_all(&[&mend[0][..2], &mend[1], &mend[2]]);
    calmly(std::slice::from_ref(&demo), || {
        all_are(std::slice::from_ref(&demo), "the loss is said", true);
        let before = troubles(&demo, "connect");
        until("some attempts more have failed", || {
            (troubles(&demo, "connect") >= before + 5.0).then_some(())
        });
        assert_eq!(said(&demo, &["hunter2", "correcthorse", "swordfish"]), 2);
        let mend = [
            ["AUTH", "swordfish", "", ""],
            ["CONFIG", "SET", "requirepass", "hunter2"],
        ];
        assert_eq!(redis.say_all(&[&mend[0][..2], &mend[1]]), ["OK", "OK"]);
        is_whole_soon(std::slice::from_ref(&demo));
    });
}

#[test]
fn a_right_that_is_taken_away_under_a_connection_is_missed_until_it_is_back() {
    let redis = Redis::start();
    let user = |rule: &str| {
        let set = ["ACL", "SETUSER", "prices", "on", ">hunter2", "+@all", rule];
        assert_eq!(redis.say(&set), ["OK"]);
    };
    user("~callerid:*");
    let url = format!("redis://prices:hunter2@127.0.0.1:{}", redis.port);
    let demo = [replica(&url, FLOWING)];
    assert!(!degraded(&demo[0]));
    calmly(&demo, || {
        user("resetkeys");
        all_are(&demo, "the loss is said", true);
        assert!(troubles(&demo[0], "script") >= 1.0);
        assert_eq!(said(&demo[0], &["hunter2"]), 1);
        user("~callerid:*");
        is_whole_soon(&demo);
    });
    is_whole(&demo, "after-the-loss");
}

/// A way to a Redis that dies with a question in hand: from the `at`th on that spends tokens, once.
struct Trap {
    port: u16,
    questions: Arc<AtomicU32>,
}

impl Trap {
    fn new(redis: u16, at: u32, answered: bool, die: impl Fn() + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (questions, die) = (Arc::new(AtomicU32::new(0)), Arc::new(die));
        let (count, asked) = (Arc::clone(&questions), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // While nobody is there, nobody answers here.
                let Ok(server) = TcpStream::connect(("127.0.0.1", redis)) else {
                    continue;
                };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || pass(back.0, back.1, |_| true));
                let (count, die) = (Arc::clone(&count), Arc::clone(&die));
                let asked = Arc::clone(&asked);
                let mut told = server.try_clone().unwrap();
                let hang_up = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    pass(client, server, |question| {
                        let scripts = question.windows(7).filter(|word| word == b"EVALSHA");
                        let scripts = scripts.count();
                        let asked = asked.fetch_add(scripts, Ordering::SeqCst) + scripts;
                        if scripts == 0 || count.fetch_add(1, Ordering::SeqCst) + 1 != at {
                            return true;
                        }
                        let _ = hang_up.1.shutdown(Shutdown::Write);
                        if answered {
                            // It is done, and nobody hears of it.
                            let _ = told.write_all(question);
                            let _ = told.flush();
                            until("it is done", || {
                                (calls(redis, "evalsha") >= asked).then_some(())
                            });
                        } else {
                            let _ = told.write_all(&question[..question.len() / 2]);
                        }
                        die();
                        let _ = hang_up.1.shutdown(Shutdown::Both);
                        let _ = hang_up.0.shutdown(Shutdown::Both);
                        false
                    });
                });
            }
        });
        Self { port, questions }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 65536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !look(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_redis_that_is_killed_with_a_lease_in_hand_fails_no_request_and_grants_it_once() {
    for answered in [false, true] {
        // On a busy machine answers come too late now and then, and that is a loss too.
        until("one loss is said, and no other", || {
            let redis = Redis::start();
            let kill = redis.killer();
            let trap = Trap::new(redis.port, 12, answered, kill);
            let demo = [replica(
                &format!("redis://127.0.0.1:{}", trap.port),
                FLOWING,
            )];
            let mut redis = redis;
            calmly(&demo, || {
                all_are(&demo, "the loss is said", true);
                assert!(trap.questions.load(Ordering::SeqCst) >= 12);
                redis.kill();
                redis.run();
                is_whole_soon(&demo);
            });
            is_whole(&demo, "after-the-kill");
            (said(&demo[0], &[]) == 1).then_some(())
        });
    }
}

#[test]
fn a_redis_that_comes_back_empty_has_one_burst_more_and_no_more() {
    let mut redis = Redis::start();
    let demo = replica(&redis.url(), SPENT);
    assert!(admitted(&demo, "a", 40) <= 20);
    redis.kill();
    until("the loss is said", || degraded(&demo).then_some(()));
    assert_eq!(
        admitted(&demo, "a", 40),
        0,
        "an outage hands out nothing anew"
    );
    redis.run();
    until("it is whole again", || (!degraded(&demo)).then_some(()));
    assert!(admitted(&demo, "a", 60) <= 20);
}

#[test]
fn a_redis_whose_clock_is_stepped_locks_nobody_out_for_longer_than_a_burst_takes() {
    let redis = Redis::start();
    let policies = format!(
        "{FLOWING}[caller.a]\nquota = \"5/s\"\n[fleet]\nnamespace = \"x\"\nmode = \"strict\"\n"
    );
    let demo = replica(&redis.url(), &policies);
    let key = until("a key is there", || {
        admitted(&demo, "a", 30);
        redis.buckets().pop()
    });
    let now: u64 = redis.say(&["TIME"])[0].parse().unwrap();
    // An hour back: what was written lies an hour ahead. An hour on: it lies an hour behind.
    for seconds in [now + 3_600, now - 3_600] {
        let arrival = format!("{seconds}000000 {} 5", 1e6 / 5.0);
        assert_eq!(redis.say(&["SET", &key, &arrival]), ["OK"]);
        until("it is let in again", || {
            (admitted(&demo, "a", 1) == 1).then_some(())
        });
    }
    is_whole(std::slice::from_ref(&demo), "after-the-step");
}

/// A server is in trouble: who was there before and who starts now are on their own, and say so once.
fn all_are_alone(before: &Demo, redis: &Redis) {
    for caller in 0..10 {
        assert_eq!(admitted(before, &format!("caller-{caller}"), 1), 1);
    }
    all_are(std::slice::from_ref(before), "it is said", true);
    let late = replica(&redis.url(), SPENT);
    assert_eq!(admitted(&late, "late", 30), 20, "its share");
    assert!(degraded(&late));
    for demo in [before, &late] {
        until("some attempts more have failed", || {
            (all_troubles(demo) >= 5.0).then_some(())
        });
        assert_eq!(said(demo, &[]), 1);
    }
}

#[test]
fn a_server_that_is_not_ready_is_no_engine_until_it_is() {
    let dead = &["REPLICAOF", "127.0.0.1", "1"][..];
    let alive = &["REPLICAOF", "NO", "ONE"][..];
    let stale = &["CONFIG", "SET", "replica-serve-stale-data", "no"][..];
    for (says, to, break_it, mend_it) in [
        ("READONLY", &["SET", "x", "1"][..], &[dead][..], alive),
        ("MASTERDOWN", &["GET", "x"], &[stale, dead], alive),
        (
            "OOM",
            &["SET", "x", "1"],
            &[&["CONFIG", "SET", "maxmemory", "1"]],
            &["CONFIG", "SET", "maxmemory", "0"],
        ),
    ] {
        let redis = Redis::start();
        let demo = replica(&redis.url(), SPENT);
        assert_eq!(admitted(&demo, "a", 1), 1);
        assert!(redis.say_all(break_it).iter().all(|said| said == "OK"));
        let answer = redis.say(to).join(" ");
        assert!(answer.starts_with(says), "{answer}");
        all_are_alone(&demo, &redis);
        assert!(troubles(&demo, "script") >= 1.0, "{says}");
        assert_eq!(redis.say(mend_it), ["OK"]);
        all_are(&[demo], "it is whole again", false);
    }
}

#[test]
fn a_server_that_still_loads_is_no_engine_until_it_has() {
    // So slow that it is not done before it is told to be.
    let slow = [
        ["--key-load-delay", "50000"],
        ["--loading-process-events-interval-bytes", "1024"],
    ];
    let mut redis = Redis::reserved(&slow.concat());
    redis.run();
    let demo = replica(&redis.url(), SPENT);
    assert_eq!(admitted(&demo, "a", 1), 1);
    let fill = "for key = 1, 4000 do redis.call('SET', key, string.rep('x', 2048)) end return 'OK'";
    assert_eq!(redis.say(&["EVAL", fill, "0"]), ["OK"]);
    assert_eq!(redis.say(&["SAVE"]), ["OK"]);
    redis.kill();
    redis.run();
    let answer = redis.say(&["GET", "x"]).join(" ");
    assert!(answer.starts_with("LOADING"), "{answer}");
    all_are_alone(&demo, &redis);
    assert_eq!(redis.say(&["CONFIG", "SET", "key-load-delay", "0"]), ["OK"]);
    all_are(&[demo], "it is whole again", false);
}

#[test]
fn a_server_that_takes_no_more_connections_is_no_engine_until_it_does() {
    let redis = Redis::start();
    let demo = replica(&redis.url(), SPENT);
    assert_eq!(admitted(&demo, "a", 1), 1);
    let mut only = redis.connection();
    let full = [
        &["CONFIG", "SET", "maxclients", "1"][..],
        &["CLIENT", "KILL", "TYPE", "normal"],
    ];
    let said: Vec<_> = full.iter().flat_map(|words| only.say(words)).collect();
    assert_eq!(said, ["OK", "1"]);
    all_are_alone(&demo, &redis);
    assert_eq!(only.say(&["CONFIG", "SET", "maxclients", "100"]), ["OK"]);
    all_are(&[demo], "it is whole again", false);
}

#[test]
fn a_redis_that_is_busy_with_another_script_fails_no_request() {
    let redis = Redis::start();
    assert_eq!(
        redis.say(&["CONFIG", "SET", "busy-reply-threshold", "50"]),
        ["OK"]
    );
    let demo = [replica(&redis.url(), FLOWING)];
    assert!(!degraded(&demo[0]));
    calmly(&demo, || {
        let mut other = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
        other
            .write_all(b"EVAL \"while true do end\" 0\r\n")
            .unwrap();
        all_are(&demo, "the loss is said", true);
        until("the script is ended", || {
            (redis.say(&["SCRIPT", "KILL"]) == ["OK"]).then_some(())
        });
        is_whole_soon(&demo);
    });
}
