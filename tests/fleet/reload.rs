//! A fleet that is changed while requests come in: what is spent stays spent, and nobody is asked who should not be.

use std::path::Path;

use callerid::{Callers, Fleet, Quota, Scope, identify};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::programs::until;
use crate::server::Redis;
use crate::sharing::{File, status_without_a_runtime, undisturbed};

/// A quota of twenty, and none to come.
pub(crate) fn callers(file: &Path) -> Callers {
    Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .config(file)
        .unwrap()
        .build()
        .unwrap()
}

pub(crate) fn reload(callers: &Callers, file: &File, text: &str) {
    std::fs::write(&file.0, text).unwrap();
    callers.reload([&file.0]).unwrap();
}

/// How many of so many requests are let in.
fn admitted(callers: &Callers, caller: &str, sent: usize) -> usize {
    let statuses = (0..sent).map(|_| status_without_a_runtime(callers, caller));
    statuses.filter(|status| *status == 200).count()
}

fn quota(scope: &str, fleet: &str) -> String {
    format!("[default]\nquota = \"1/h\"\nburst = 20\nscope = \"{scope}\"\n{fleet}\n")
}

fn fleet(redis: &Redis, more: &str) -> String {
    let url = redis.url();
    let table = format!("[fleet]\nnamespace = \"x\"\nredis = \"{url}\"\n{more}\n");
    quota("fleet", &table)
}

fn replicas(redis: &Redis) -> String {
    redis.say(&["ZCARD", "callerid:x:replicas"]).remove(0)
}

/// What a scrape shows.
pub(crate) struct Scrape(PrometheusRecorder);

impl Scrape {
    pub(crate) fn new() -> Self {
        Self(PrometheusBuilder::new().build_recorder())
    }

    /// The sum of a metric over its series, where there are any.
    fn of(&self, callers: &Callers, name: &str) -> Option<f64> {
        metrics::with_local_recorder(&self.0, || callers.flush());
        let text = self.0.handle().render();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let values = series.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let values: Vec<f64> = values.map(Option::unwrap).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    pub(crate) fn degraded(&self, callers: &Callers) -> Option<f64> {
        self.of(callers, "callerid_limiter_degraded")
    }

    /// How often an answer came too late, or none, as far as this has seen it.
    pub(crate) fn late(&self, callers: &Callers) -> f64 {
        let late = self.of(callers, "callerid_limiter_backend_errors_total");
        late.unwrap_or_default()
    }
}

/// How often an answer came too late, or none.
pub(crate) fn late(callers: &Callers) -> f64 {
    Scrape::new().late(callers)
}

#[test]
fn a_scope_that_changes_hands_out_nothing_anew() {
    let redis = Redis::start();
    let file = File::new("");
    let seen = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        std::fs::write(&file.0, quota("instance", "")).unwrap();
        let (one, two) = (callers(&file.0), callers(&file.0));
        let mut seen = vec![admitted(&one, "a", 12), admitted(&two, "a", 3)];
        let strict = fleet(&redis, "mode = \"strict\"");
        for callers in [&one, &two] {
            reload(callers, &file, &strict);
        }
        // Terms are renewed, and tokens taken, with the next request.
        let both = admitted(&one, "a", 1) + admitted(&two, "a", 1);
        seen.push(both + admitted(&one, "a", 20));
        seen.push(admitted(&one, "b", 30));
        (late(&one) + late(&two), seen)
    });
    // What both have spent of their own is spent of the one that they share, and nobody else has paid.
    assert_eq!(seen, [12, 3, 5, 20]);
}

#[test]
fn what_was_spent_of_the_fleets_quota_is_spent_of_ones_own() {
    let redis = Redis::start();
    for mode in ["leased", "strict", "local"] {
        let table = format!("mode = \"{mode}\"\nreplicas = 1");
        let file = File::new(&fleet(&redis, &table));
        let callers = callers(&file.0);
        let caller = format!("a-{mode}");
        let spent = admitted(&callers, &caller, 15);
        assert!(spent > 0, "{mode}");
        reload(&callers, &file, &quota("instance", ""));
        assert_eq!(admitted(&callers, &caller, 30), 20 - spent, "{mode}");
    }
}

#[test]
fn a_changed_quota_of_the_fleet_keeps_the_tokens_that_are_spent() {
    let redis = Redis::start();
    let strict = fleet(&redis, "mode = \"strict\"");
    let file = File::new("");
    let seen = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        std::fs::write(&file.0, &strict).unwrap();
        let callers = callers(&file.0);
        let mut seen = vec![admitted(&callers, "a", 15)];
        // A rate ten times as high: time that is owed would be ten times the tokens.
        for text in [
            strict.replace("\"1/h\"", "\"10/h\""),
            strict.clone(),
            strict.replace("burst = 20", "burst = 24"),
        ] {
            reload(&callers, &file, &text);
            seen.push(admitted(&callers, "a", 30));
        }
        (late(&callers), seen)
    });
    assert_eq!(seen, [15, 5, 0, 4]);
}

#[test]
fn another_mode_and_another_remedy_hold_from_the_reload_on() {
    let mut redis = Redis::start();
    let file = File::new(&fleet(&redis, "mode = \"local\""));
    let callers = callers(&file.0);
    assert_eq!(admitted(&callers, "a", 25), 20);
    assert!(redis.buckets().is_empty(), "nobody asks");
    reload(&callers, &file, &fleet(&redis, "mode = \"strict\""));
    assert!(admitted(&callers, "b", 25) > 0);
    until("all is spent", || {
        (admitted(&callers, "b", 25) == 0).then_some(())
    });
    assert_eq!(redis.buckets().len(), 1);
    assert_eq!(replicas(&redis), "1", "still one and the same replica");
    redis.kill();
    let scrape = Scrape::new();
    let degraded = || scrape.degraded(&callers) == Some(1.0);
    until("the loss is said", || degraded().then_some(()));
    let said = |word: &str| {
        fleet(
            &redis,
            &format!("mode = \"strict\"\non_failure = \"{word}\""),
        )
    };
    reload(&callers, &file, &said("open"));
    assert_eq!(admitted(&callers, "b", 25), 25);
    reload(&callers, &file, &said("closed"));
    assert_eq!(admitted(&callers, "c", 5), 0);
    reload(&callers, &file, &said("local_share"));
    assert_eq!(
        admitted(&callers, "b", 25),
        0,
        "an outage hands out nothing anew"
    );
    redis.run();
    until("it is whole again", || (!degraded()).then_some(()));
}

#[test]
fn another_address_or_namespace_is_asked_from_the_reload_on() {
    let (mut old, new) = (Redis::start(), Redis::start());
    let file = File::new(&fleet(&old, ""));
    let callers = callers(&file.0);
    assert_eq!(admitted(&callers, "a", 1), 1);
    assert_eq!((replicas(&old), replicas(&new)), ("1".into(), "0".into()));
    reload(&callers, &file, &fleet(&new, ""));
    assert_eq!(admitted(&callers, "b", 1), 1);
    let there = |redis: &Redis| until("it is asked", || redis.buckets().pop());
    assert_ne!(there(&old), there(&new));
    assert_eq!((replicas(&old), replicas(&new)), ("0".into(), "1".into()));
    old.kill();
    assert_eq!(admitted(&callers, "c", 1), 1);
    assert_eq!(Scrape::new().degraded(&callers), Some(0.0));
    reload(&callers, &file, &fleet(&new, "").replace("\"x\"", "\"y\""));
    assert_eq!(replicas(&new), "0");
    assert_eq!(new.say(&["ZCARD", "callerid:y:replicas"]), ["1"]);
}

#[test]
fn a_fleet_comes_and_goes_with_a_reload() {
    let mut redis = Redis::start();
    let file = File::new(&quota("instance", ""));
    let callers = callers(&file.0);
    let scrape = Scrape::new();
    assert_eq!(scrape.degraded(&callers), None);
    redis.kill();
    reload(&callers, &file, &fleet(&redis, ""));
    assert_eq!(scrape.degraded(&callers), Some(1.0));
    redis.run();
    until("it is found", || {
        (scrape.degraded(&callers) == Some(0.0)).then_some(())
    });
    assert_eq!(admitted(&callers, "a", 1), 1);
    assert_eq!(replicas(&redis), "1");
    // A fleet that cannot be is refused as a whole, and the old one stays.
    for (wrong, said) in [
        (fleet(&redis, "replicas = 0"), "fleet.replicas: 0 is not"),
        (
            fleet(&redis, "").replace("redis://", "redis//"),
            "fleet.redis: is not an address",
        ),
        (quota("fleet", ""), "default.scope: \"fleet\" needs [fleet]"),
    ] {
        std::fs::write(&file.0, wrong).unwrap();
        let error = callers.reload([&file.0]).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
        assert_eq!(admitted(&callers, "b", 1), 1);
        assert_eq!(replicas(&redis), "1");
    }
    reload(&callers, &file, &quota("instance", ""));
    assert_eq!(replicas(&redis), "0", "it has said goodbye");
    assert!(admitted(&callers, "a", 30) >= 18);
    reload(&callers, &file, &fleet(&redis, ""));
    redis.kill();
    let is = |wanted| scrape.degraded(&callers) == Some(wanted);
    until("the loss is said", || is(1.0).then_some(()));
    reload(&callers, &file, &quota("instance", ""));
    assert!(is(0.0), "a fleet that was left is not missed");
}

#[test]
fn what_the_program_says_of_the_fleet_stays_under_what_a_reload_says() {
    let redis = Redis::start();
    let file = File::new("[fleet]\nmode = \"strict\"\n");
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .quota(Quota::per_hour(1).burst(20))
        .scope(Scope::Fleet)
        .fleet(Fleet::new("x").redis(redis.url()))
        .config(&file.0)
        .unwrap()
        .build()
        .unwrap();
    assert!(admitted(&callers, "a", 15) > 0);
    for text in ["[fleet]\nmode = \"leased\"\n", ""] {
        reload(&callers, &file, text);
        assert!(admitted(&callers, "a", 30) <= 20);
        assert_eq!(replicas(&redis), "1");
    }
}
