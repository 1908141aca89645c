//! What a reload changes while requests come in, and what it leaves.

use std::time::Duration;

use callerid::clock::ManualClock;
use callerid::{Account, Callers, Mode, Policy, Provenance, Quota, Reason, identify};
use http::Request;

use crate::support::{File, Rig, START, claimed};

/// `test` and `other`, hashed.
const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

fn rig(file: &File) -> Rig {
    Rig::new(|builder| builder.config(&file.0).unwrap())
}

fn reload(rig: &Rig, file: &File, text: &str) {
    file.write(text);
    rig.callers.reload([&file.0]).unwrap();
}

/// The lines of a metric, as a scrape shows them.
struct Scrape {
    recorder: metrics_exporter_prometheus::PrometheusRecorder,
}

impl Scrape {
    fn new() -> Self {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        Self { recorder }
    }

    /// The lines that are not zero.
    fn of(&self, rig: &Rig, name: &str) -> Vec<String> {
        metrics::with_local_recorder(&self.recorder, || rig.callers.flush());
        let text = self.recorder.handle().render();
        let lines = text.lines().filter(|line| line.starts_with(name));
        let mut lines: Vec<_> = lines
            .filter(|line| !line.ends_with(" 0"))
            .map(|line| line[name.len()..].to_owned())
            .collect();
        lines.sort();
        lines
    }
}

#[test]
fn a_reload_takes_the_roster_and_old_labels_do_not_linger() {
    let file = File::new("[caller.a]\nowner = \"Payments\"\n[caller.b]\nowner = \"Search\"\n");
    let (rig, scrape) = (rig(&file), Scrape::new());
    let info = || scrape.of(&rig, "callerid_caller_info");
    assert_eq!(info().len(), 2);
    assert!(info()[0].contains("owner=\"Payments\""));
    let text = "[tier.t]\nquota = \"9/s\"\n[caller.a]\nowner = \"Orders\"\ncontact = \"#o\"\ntier = \"t\"\n[caller.c]\n";
    reload(&rig, &file, text);
    assert_eq!(
        info(),
        [
            "{caller=\"a\",owner=\"Orders\",contact=\"#o\",tier=\"t\",provenance=\"verified\"} 1",
            "{caller=\"c\",owner=\"\",contact=\"\",tier=\"\",provenance=\"verified\"} 1",
        ]
    );
    let a = rig.caller("a");
    assert_eq!(
        (a.owner.as_deref(), a.contact.as_deref()),
        (Some("Orders"), Some("#o"))
    );
    assert_eq!(rig.burst("a", 20), 9, "its tier is a new one");
    let c = rig.caller("c");
    assert!(c.exported && c.on_roster, "a row before its first request");
    rig.get("b");
    assert!(!rig.caller("b").on_roster);
    assert_eq!(rig.caller("b").owner, None);
}

#[test]
fn a_claim_reaches_an_account_from_the_reload_on_that_lets_it_and_no_longer_than_that() {
    let file = File::new("");
    let rig = rig(&file);
    let ask = |times: usize| {
        (0..times).for_each(|_| assert_eq!(rig.ask(claimed("a")).0, 200));
        rig.callers.snapshot()
    };
    // Often enough for threads to remember who it is.
    assert_eq!(ask(100).impersonations, 0);
    reload(&rig, &file, "[caller.a]\n");
    let snapshot = ask(100);
    assert_eq!(snapshot.impersonations, 100);
    assert_eq!(
        snapshot.caller("claimed:a").unwrap().counts.started,
        100,
        "nothing is spent on the account"
    );
    reload(&rig, &file, "[caller.a]\naccept = \"claimed\"\n");
    let snapshot = ask(100);
    assert_eq!(snapshot.impersonations, 100);
    assert_eq!(snapshot.caller("a").unwrap().counts.started, 100);
    reload(&rig, &file, "[caller.a]\n");
    assert_eq!(ask(100).impersonations, 200);
    reload(&rig, &file, "");
    let snapshot = ask(100);
    assert_eq!(snapshot.impersonations, 200);
    assert_eq!(rig.reached(), 500);
}

#[test]
fn claims_beside_a_proven_caller_that_comes_onto_the_roster_are_impersonations() {
    let file = File::new("");
    let rig = rig(&file);
    let ask = || (0..100).for_each(|_| assert_eq!(rig.ask(claimed("b")).0, 200));
    rig.get("b");
    ask();
    reload(&rig, &file, "[caller.b]\n");
    ask();
    assert_eq!(rig.callers.snapshot().impersonations, 100);
    assert_eq!(rig.caller("b").counts.started, 1);
}

#[test]
fn a_reload_rotates_api_keys() {
    let keys = |keys: &[(&str, &str)]| {
        let keys = keys
            .iter()
            .map(|(id, hash)| format!("{{ id = \"{id}\", sha256 = \"{hash}\" }}"));
        let keys: Vec<_> = keys.collect();
        format!("[caller.a]\napi_key = [{}]\n", keys.join(", "))
    };
    let file = File::new(&keys(&[("old", TEST)]));
    let clock = ManualClock::at(START);
    let callers = Callers::builder()
        .identify(identify::api_key("x-api-key"))
        .clock(clock.clone())
        .manual_tick()
        .config(&file.0)
        .unwrap()
        .build()
        .unwrap();
    let rig = Rig {
        callers,
        clock,
        reached: std::sync::Arc::default(),
    };
    let scrape = Scrape::new();
    let used = || scrape.of(&rig, "callerid_api_key_last_used_timestamp_seconds");
    let ask = |key: &str| {
        rig.ask(
            Request::get("/")
                .header("x-api-key", key)
                .body(String::new())
                .unwrap(),
        );
        rig.callers
            .snapshot()
            .caller("a")
            .map_or(0, |caller| caller.counts.started)
    };
    assert_eq!((ask("test"), ask("other")), (1, 1));
    let old = used();
    assert_eq!(old.len(), 1);
    rig.wait(5_000);
    reload(&rig, &file, &keys(&[("old", TEST), ("new", OTHER)]));
    assert_eq!(used(), old, "when it was used last is not forgotten");
    assert_eq!((ask("test"), ask("other")), (2, 3));
    assert_eq!(used().len(), 2);
    reload(&rig, &file, &keys(&[("new", OTHER)]));
    assert_eq!((ask("test"), ask("other")), (3, 4));
    assert!(
        used().len() == 1 && used()[0].contains("new"),
        "{:?}",
        used()
    );
}

#[test]
fn a_reload_takes_the_exempt_paths_and_gives_the_programs_own_back() {
    let file = File::new("exempt = [\"/ping\"]\n[default]\nquota = \"1/h\"\n");
    let rig = rig(&file);
    let statuses = |path: &str| {
        let ask = || {
            Request::get(path)
                .header("x-client-id", "a")
                .body(String::new())
        };
        [rig.ask(ask().unwrap()).0, rig.ask(ask().unwrap()).0]
    };
    assert_eq!(
        (statuses("/ping"), statuses("/healthz")),
        ([200; 2], [200, 429])
    );
    reload(&rig, &file, "[default]\nquota = \"1/h\"\n");
    assert_eq!(
        (statuses("/ping"), statuses("/healthz")),
        ([429; 2], [200; 2])
    );
}

#[test]
fn more_callers_than_there_are_rows_for_are_refused_and_nothing_changes() {
    let file = File::new("[caller.a]\nowner = \"A\"\n");
    let rig = Rig::new(|builder| builder.max_exported(45).config(&file.0).unwrap());
    let many = |n: usize| {
        (0..n)
            .map(|n| format!("[caller.c{n}]\n"))
            .collect::<String>()
    };
    file.write(&many(6));
    let error = rig.callers.reload([&file.0]).unwrap_err().to_string();
    assert!(
        error.contains("6 callers are more than the 5 that have room"),
        "{error}"
    );
    assert_eq!(rig.caller("a").owner.as_deref(), Some("A"));
    assert!(rig.callers.snapshot().caller("c0").is_none());
    reload(&rig, &file, &many(5));
    assert!(rig.caller("c4").exported);
}

#[test]
fn who_comes_onto_the_roster_late_has_a_row_and_stays_and_who_leaves_it_may_go() {
    let file = File::new("");
    let rig = Rig::new(|builder| {
        let builder = builder.max_exported(42).max_tracked(60);
        builder
            .idle_after(Duration::from_secs(1))
            .config(&file.0)
            .unwrap()
    });
    let flood = |names: &str| {
        for round in 0..40 {
            for name in 0..100 {
                rig.ask(claimed(&format!("{names}{name}")));
            }
            rig.wait(1_000 * (round % 3));
        }
    };
    flood("n");
    // The table is full: there is room for those whom the operator names.
    reload(&rig, &file, "[caller.late]\n");
    assert!(rig.caller("late").exported);
    flood("m");
    assert!(rig.caller("late").exported);
    assert_eq!(rig.burst("late", 3), 3);
    reload(&rig, &file, "");
    assert!(!rig.caller("late").on_roster);
}

#[test]
fn without_a_mode_in_the_file_the_programs_own_is_in_force() {
    let file = File::new("mode = \"enforce\"\n[default]\nquota = \"1/h\"\n");
    let rig = Rig::new(|builder| builder.mode(Mode::Shadow).config(&file.0).unwrap());
    assert_eq!(rig.callers.mode(), Mode::Enforce);
    reload(&rig, &file, "[default]\nquota = \"1/h\"\n");
    assert_eq!(rig.callers.mode(), Mode::Shadow);
}

#[test]
fn the_quota_in_force_is_shown_before_a_caller_asks_again() {
    let file = File::new("[default]\nquota = \"10/s\"\n");
    let (rig, scrape) = (rig(&file), Scrape::new());
    let shown = || scrape.of(&rig, "callerid_quota_limit");
    rig.get("a");
    assert_eq!(shown(), ["{caller=\"a\",scope=\"instance\"} 10"]);
    reload(
        &rig,
        &file,
        "[default]\nquota = \"20/s\"\n[caller.b]\nquota = \"30/s\"\n",
    );
    assert_eq!(
        shown(),
        [
            "{caller=\"a\",scope=\"instance\"} 20",
            "{caller=\"b\",scope=\"instance\"} 30"
        ]
    );
    assert_eq!(rig.caller("a").policy.unwrap().quota, Some(20.0));
    rig.callers
        .clamp("a", "3/s", Duration::from_secs(9))
        .unwrap();
    assert_eq!(shown()[0], "{caller=\"a\",scope=\"instance\"} 3");
    rig.wait(9_000);
    assert_eq!(shown()[0], "{caller=\"a\",scope=\"instance\"} 20");
    rig.callers.set_mode(Mode::Observe);
    assert!(shown().is_empty(), "no quota is in force: {:?}", shown());
    rig.callers.set_mode(Mode::Enforce);
    reload(&rig, &file, "");
    assert!(shown().is_empty(), "{:?}", shown());
}

#[test]
fn neither_a_smaller_quota_nor_none_for_a_while_gives_tokens_back() {
    let text = |quota: &str| format!("[default]\n{quota}\n");
    let whole = text("quota = \"60/h\"\nburst = 100");
    let file = File::new(&whole);
    let rig = rig(&file);
    assert_eq!(rig.burst("a", 200), 100);
    for between in [
        text("quota = \"5/s\""),
        text("max_in_flight = 9"),
        text("quota = \"60/h\"\nburst = 10"),
    ] {
        reload(&rig, &file, &between);
        rig.get("a");
        reload(&rig, &file, &whole);
        assert_eq!(rig.burst("a", 200), 0, "{between}");
    }
    rig.wait(600_000);
    assert_eq!(rig.burst("a", 200), 10);
}

#[test]
fn a_total_and_a_routes_quota_remember_too() {
    let limited = "[provenance.claimed]\ntotal = \"60/h\"\n[caller.b]\nroute.\"GET /v1/prices\".quota = \"60/h\"\n";
    let file = File::new(limited);
    let rig = rig(&file);
    assert_eq!((rig.ask(claimed("x")).0, rig.get("b")), (200, 200));
    assert_eq!((rig.ask(claimed("y")).0, rig.get("b")), (429, 429));
    reload(&rig, &file, "[default]\nquota = \"99/s\"\n");
    assert_eq!((rig.ask(claimed("y")).0, rig.get("b")), (200, 200));
    reload(&rig, &file, limited);
    assert_eq!((rig.ask(claimed("y")).0, rig.get("b")), (429, 429));
}

#[test]
fn a_clamp_is_no_amnesty_and_touches_nothing_but_the_quota() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(60).burst(50))
            .caller(Account::new("trial").policy(Policy::new().block().shadow()))
            .caller(Account::new("allowed").policy(Policy::new().allow()))
    });
    let clamp = |name: &str| {
        rig.callers
            .clamp(name, "5/s", Duration::from_secs(60))
            .unwrap();
    };
    assert_eq!(rig.burst("a", 99), 50);
    clamp("a");
    rig.wait(30_000);
    assert_eq!(rig.burst("a", 99), 0, "the quota stays in force");
    rig.wait(31_000);
    assert_eq!(rig.burst("a", 99), 1, "a token a minute");
    // A block that is tried in shadow stays in shadow.
    clamp("trial");
    assert_eq!(rig.burst("trial", 9), 5);
    assert_eq!(rig.counts("trial").refused[Reason::Blocked], 0);
    // What a person says now goes over what was written once.
    clamp("allowed");
    assert_eq!(rig.burst("allowed", 9), 5);
    rig.wait(61_000);
    assert_eq!(rig.burst("allowed", 99), 99);
}

#[test]
fn a_later_file_ends_a_block_of_an_earlier_one() {
    let earlier =
        File::new("[caller.a]\nblock_until = \"2030-01-01T00:00:00Z\"\n[caller.b]\nblock = true\n");
    let later = File::new(
        "[caller.a]\nblock = false\n[caller.b]\nblock_until = \"2030-01-01T00:00:00Z\"\n",
    );
    let rig = Rig::new(|builder| {
        builder
            .config(&earlier.0)
            .unwrap()
            .config(&later.0)
            .unwrap()
    });
    assert_eq!((rig.get("a"), rig.get("b")), (200, 429));
}

#[test]
fn requests_that_race_with_reloads_are_bounded_by_the_largest_bucket() {
    let file = File::new("[default]\nquota = \"1/h\"\nburst = 500\n");
    let rig = rig(&file);
    let done = std::sync::atomic::AtomicBool::new(false);
    let admitted: usize = std::thread::scope(|scope| {
        let flood = || {
            let mut admitted = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                admitted += usize::from(rig.get("a") == 200);
            }
            admitted
        };
        let threads = [scope.spawn(flood), scope.spawn(flood)];
        for round in 0..200 {
            let text = match round % 4 {
                0 => "[default]\nquota = \"2/h\"\nburst = 300\n",
                1 => "[default]\nmax_in_flight = 99\nquota = \"1/h\"\nburst = 20\n",
                2 => "[ceiling]\nmax_in_flight = 99\n[default]\nquota = \"2/h\"\nburst = 300\n",
                _ => "[default]\nquota = \"1/h\"\nburst = 500\n",
            };
            file.write(text);
            rig.callers.reload([&file.0]).unwrap();
            if round % 3 == 0 {
                rig.callers
                    .clamp("a", "1/h", Duration::from_secs(1))
                    .unwrap();
                rig.callers.lift_clamp("a");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    // Each of the two threads may have had the bucket of before in its hand once for each of 334 changes.
    assert!((500..=500 + 2 * 334).contains(&admitted), "{admitted}");
}

#[test]
fn an_end_that_has_come_stops_a_start_and_a_reload_of_the_file_and_not_one_of_the_program() {
    let later = |rig: &Rig, name: &str| rig.get(name);
    let end = START + Duration::from_secs(60);
    let file = File::new("");
    let rig = Rig::new(|builder| {
        let blocked = Policy::new().block_until(end);
        let builder = builder
            .tier("old", Policy::new().block())
            .caller(Account::new("a").policy(blocked).tier("old"))
            .caller(Account::new("b").expect(5.0, end));
        builder.config(&file.0).unwrap()
    });
    assert_eq!(later(&rig, "a"), 429);
    rig.wait(61_000);
    assert_eq!(later(&rig, "a"), 200, "it ends by itself");
    // No file could mend what the program said.
    reload(&rig, &file, "[default]\nquota = \"5/s\"\n");
    assert_eq!(later(&rig, "a"), 200, "nor is a wider block anew in force");
    assert_eq!(rig.burst("c", 9), 5);
    // What the file says, it could.
    for (table, problem) in [
        (
            "[caller.d]\nblock_until = \"2020-01-01T00:00:00Z\"\n",
            "caller.d.block_until: is in the past; use a later time, or leave it out",
        ),
        (
            "[caller.d]\nexpect = { factor = 2, until = \"2020-01-01T00:00:00Z\" }\n",
            "caller.d.expect.until: is in the past; use a later time, or leave `expect` out",
        ),
    ] {
        file.write(table);
        let error = rig.callers.reload([&file.0]).unwrap_err();
        assert_eq!(error.problems().collect::<Vec<_>>(), [problem]);
        rig.wait(1_000);
        assert_eq!(rig.burst("c", 9), 5, "the old one stays in force");
        let started = crate::support::builder(&rig.clock).config(&file.0);
        assert_eq!(started.err().unwrap().to_string(), problem);
    }
}

#[test]
fn an_account_that_claims_may_reach_is_shown_as_claimed() {
    let file = File::new("[caller.a]\n[caller.b]\naccept = \"claimed\"\n");
    let rig = rig(&file);
    rig.ask(claimed("b"));
    let shown = || ["a", "b"].map(|name| rig.caller(name).provenance);
    let (claims, proven) = (Provenance::Claimed, Provenance::Verified);
    assert_eq!(shown(), [proven, claims]);
    reload(
        &rig,
        &file,
        "[caller.a]\naccept = \"claimed\"\n[caller.b]\n",
    );
    assert_eq!(shown(), [claims, proven]);
    reload(&rig, &file, "[caller.a]\n");
    rig.get("b");
    assert_eq!(shown(), [proven, proven]);
}

#[test]
fn what_is_for_the_proven_is_not_for_an_account_that_claims_may_reach() {
    const PROVENANCE: &str = "\n[provenance.verified]\nquota = \"9/h\"\nburst = 9\n\
        [provenance.claimed]\nquota = \"4/h\"\nburst = 4\ntotal = \"6/s\"\n";
    let all = |callers: &str| format!("{callers}{PROVENANCE}");
    let file = File::new(&all("[caller.a]\n[caller.b]\naccept = \"claimed\"\n"));
    let rig = rig(&file);
    let claims = |name, requests| {
        let answers = (0..requests).map(|_| rig.ask(claimed(name)));
        answers.filter(|answer| answer.0 == 200).count()
    };
    assert_eq!(rig.burst("a", 12), 9);
    assert_eq!(claims("b", 12), 4);
    assert_eq!(claims("c", 12), 2, "what is left to all that claim");
    // Its own table still says more, and another reload makes it proven.
    let own = "[caller.b]\naccept = \"claimed\"\nquota = \"9/h\"\nburst = 9\n";
    reload(&rig, &file, &all(own));
    assert_eq!(rig.caller("b").policy.unwrap().burst, Some(9));
    reload(&rig, &file, &all("[caller.b]\n"));
    assert_eq!(rig.burst("b", 12), 5, "four are spent");
    // What the table of claims says is wrong where it is laid over the account's.
    file.write(&all(
        "[caller.b]\naccept = \"claimed\"\ncost.\"GET /\" = 7\n",
    ));
    let error = rig.callers.reload([&file.0]).unwrap_err().to_string();
    assert!(error.contains("above the burst"), "{error}");
}
