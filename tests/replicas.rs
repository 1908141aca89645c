//! One trace, split over replicas: what the fleet's alerts say of it, and how late.
//!
//! Each replica is a whole pipeline with a recorder of its own. What they export is handed to `promtool`, which evaluates
//! the shipped rules. The table:
//!
//! ```text
//! cargo test --release --all-features --test replicas -- --nocapture
//! ```
//!
//! `CASE="crowd 4"` runs only the cases whose name contains the words.

#![allow(
    dead_code,
    missing_debug_implementations,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests"
)]

mod situations;
mod support;
mod worlds;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callerid::clock::ManualClock;
use callerid::events::{Harm, Kind};
use callerid::middleware::{CallerService, ResponseBody};
use callerid::{Callers, Class, identify};
use http::{Request, Response};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use situations::{ONSET, Situation, all};
use support::{Answer, Inner, START, Script, Step, drain, now, route_of_header};
use tower::{Layer, Service};
use worlds::{Sent, TICK};

/// Seconds between two scrapes, and between two evaluations, as in the shipped `prometheus.yml` and rules.
const SCRAPE: f64 = 5.0;
/// Connections of a client that keeps them.
const CONNECTIONS: usize = 8;
/// What is fed of a trace, in seconds.
const LENGTH: f64 = ONSET + 300.0;
/// The first wakes somebody, the others are only said.
const ALERTS: [&str; 3] = [
    "CalleridRunawayFleet",
    "CalleridRunawayQuiet",
    "CalleridCallerRises",
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    RoundRobin,
    /// Each connection of a client stays with its replica.
    Sticky,
    /// So it does, until one replica has all of those of the busiest client.
    Rebalanced,
    /// One replica goes at the onset, and comes back half a minute later knowing nothing.
    Restarted,
}

/// What replicas export and rules look at.
#[derive(Default)]
struct Exported(Mutex<BTreeMap<String, (bool, Arc<AtomicU64>)>>);

impl Exported {
    fn cell(&self, key: &Key, gauge: bool) -> Option<Arc<AtomicU64>> {
        let wanted = [
            "callerid_requests_started_total",
            "callerid_runaway",
            "callerid_runaway_pages",
            "callerid_build_info",
            "callerid_caller_info",
            "callerid_callers_tracked",
        ];
        if !wanted.contains(&key.name()) {
            return None;
        }
        let labels = key
            .labels()
            .map(|l| format!("{}=\"{}\"", l.key(), l.value()));
        let name = format!("{}{{{}", key.name(), labels.collect::<Vec<_>>().join(","));
        let mut all = self.0.lock().unwrap();
        Some(Arc::clone(
            &all.entry(name).or_insert_with(|| (gauge, Arc::default())).1,
        ))
    }

    fn values(&self) -> Vec<(String, f64)> {
        let all = self.0.lock().unwrap();
        let value = |(name, (gauge, cell)): (&String, &(bool, Arc<AtomicU64>))| {
            let bits = cell.load(Ordering::Relaxed);
            let value = if *gauge {
                f64::from_bits(bits)
            } else {
                bits as f64
            };
            (name.clone(), value)
        };
        all.iter().map(value).collect()
    }
}

impl Recorder for Exported {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.cell(key, false)
            .map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.cell(key, true)
            .map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// One replica: a pipeline and its recorder.
struct Replica {
    callers: Callers,
    service: CallerService<Inner>,
    exported: Exported,
}

impl Replica {
    fn new(clock: &ManualClock, at: usize) -> Self {
        let callers = Callers::builder()
            .clock(clock.clone())
            .manual_tick()
            .identify(identify::header("x-client-id").verified())
            .route(route_of_header)
            .service("prices")
            .instance(at.to_string())
            .build()
            .unwrap();
        let service = callers.layer().layer(Inner::new(|request| {
            let status = request.headers()["x-status"].to_str().unwrap();
            let mut response = Response::new(Script::new([Step::Data("x")]));
            *response.status_mut() = status.parse().unwrap();
            Answer::Respond(response)
        }));
        Self {
            callers,
            service,
            exported: Exported::default(),
        }
    }

    /// The first harm that it says of each caller.
    fn pages(&self, pages: &mut Vec<(f64, String)>) {
        for event in self.callers.events() {
            let finding = event.finding();
            let Some(finding) = finding.filter(|of| of.harm != Harm::None) else {
                continue;
            };
            if let (Kind::RunawayStarted | Kind::RunawayUpdated, Some(caller)) =
                (event.kind, &finding.caller)
            {
                pages.push((event.t - START.as_secs_f64(), caller.to_string()));
            }
        }
    }
}

/// What a fleet has exported and said.
struct Course {
    series: BTreeMap<String, Vec<Option<f64>>>,
    /// What each replica alone would have paged for.
    alone: Vec<(f64, String)>,
}

fn status(class: Class) -> &'static str {
    match class {
        Class::Ok => "200",
        Class::Validation => "422",
        Class::Auth => "401",
        Class::NotFound => "404",
        Class::Conflict => "409",
        Class::Timeout => "504",
        Class::ServerError => "500",
        _ => "400",
    }
}

fn run(requests: &[Sent], length: f64, replicas: usize, split: Split) -> Course {
    let clock = ManualClock::at(START);
    let mut time = START;
    let mut fleet: Vec<_> = (0..replicas).map(|at| Replica::new(&clock, at)).collect();
    let mut course = Course {
        series: BTreeMap::new(),
        alone: Vec::new(),
    };
    let mut open: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut bodies: HashMap<usize, Response<ResponseBody<Script>>> = HashMap::new();
    let mut sent: HashMap<usize, usize> = HashMap::new();
    let nanos = |t: f64| (t * 1e9) as u64;
    let mut to = |t: u64| {
        let at = START + Duration::from_nanos(t);
        if at > time {
            clock.advance(at.since(time));
            time = at;
        }
        at
    };
    let mut waiting = requests.iter().enumerate().peekable();
    let mut away = false;
    for tick in 1..=(length / TICK) as u64 {
        let end = tick * nanos(TICK);
        let t = end as f64 / 1e9;
        let gone = split == Split::Restarted && (ONSET..ONSET + 30.0).contains(&t);
        if gone && !away {
            fleet[0].pages(&mut course.alone);
        }
        if away && !gone {
            fleet[0] = Replica::new(&clock, 0);
        }
        away = gone;
        loop {
            let start = waiting
                .peek()
                .map(|(_, of)| nanos(of.at))
                .filter(|at| *at < end);
            let ends = open
                .peek()
                .map(|Reverse((at, _))| *at)
                .filter(|at| *at < end);
            match (start, ends) {
                (Some(start), ends) if ends.is_none_or(|ends| start <= ends) => {
                    let (k, of) = waiting.next().unwrap();
                    let count = sent.entry(of.client).or_default();
                    *count += 1;
                    let home = (of.client * 31 + *count % CONNECTIONS * 7) % replicas;
                    let replica = match split {
                        Split::RoundRobin => k % replicas,
                        Split::Rebalanced if of.client == 0 && of.at >= ONSET => 0,
                        Split::Sticky | Split::Rebalanced => home,
                        Split::Restarted if away => 1 + k % (replicas - 1),
                        Split::Restarted => k % replicas,
                    };
                    to(start);
                    let request = Request::builder()
                        .uri("/")
                        .header("x-client-id", format!("client-{}", of.client))
                        .header("x-route", format!("/v1/route-{}", of.route))
                        .header("x-status", status(of.class))
                        .body(String::new())
                        .unwrap();
                    let response = now(fleet[replica].service.call(request)).unwrap();
                    bodies.insert(k, response);
                    open.push(Reverse((nanos(of.at + of.took), k)));
                }
                (_, Some(ends)) => {
                    let Some(Reverse((_, k))) = open.pop() else {
                        break;
                    };
                    to(ends);
                    if let Some(response) = bodies.remove(&k) {
                        drain(&mut response.into_body());
                    }
                }
                _ => break,
            }
        }
        let at = to(end);
        let scraped = (t / SCRAPE).fract() == 0.0;
        for (instance, replica) in fleet.iter().enumerate() {
            if away && instance == 0 {
                continue;
            }
            metrics::with_local_recorder(&replica.exported, || {
                replica.callers.tick(at);
                if scraped {
                    replica.callers.flush();
                }
            });
            if scraped {
                let place = (t / SCRAPE) as usize;
                for (name, value) in replica.exported.values() {
                    let name = format!("{name},job=\"prices\",instance=\"{instance}\"}}");
                    let values = course.series.entry(name).or_default();
                    values.resize(place, None);
                    values.push(Some(value));
                }
            }
        }
    }
    fleet
        .iter()
        .for_each(|replica| replica.pages(&mut course.alone));
    course
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring/callerid.rules.yml")
}

/// When each alert fires first for each caller, by the shipped rules; asked at every evaluation.
fn paged(course: &Course, length: f64, name: &str) -> BTreeMap<(String, String), f64> {
    let shipped = std::fs::read_to_string(rules()).unwrap();
    assert!(shipped.contains(&format!("interval: {SCRAPE}s")));
    let mut test = format!(
        "rule_files: [{:?}]\nevaluation_interval: {SCRAPE}s\ntests:\n- interval: {SCRAPE}s\n  input_series:\n",
        rules()
    );
    for (series, values) in &course.series {
        let series = series.replacen("{,", "{", 1);
        let value = |value: &Option<f64>| value.map_or("_".to_owned(), |value| value.to_string());
        let values: Vec<_> = values.iter().map(value).collect();
        writeln!(
            test,
            "  - series: '{series}'\n    values: '{}'",
            values.join(" ")
        )
        .unwrap();
    }
    test.push_str("  alert_rule_test:\n");
    for step in 1..(length / SCRAPE) as u64 {
        for alert in ALERTS {
            let t = step as f64 * SCRAPE;
            writeln!(
                test,
                "  - {{eval_time: {t}s, alertname: {alert}, exp_alerts: []}}"
            )
            .unwrap();
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replicas-{name}.yml"));
    std::fs::write(&file, test).unwrap();
    let said = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output();
    let said = said.unwrap_or_else(|error| panic!("promtool: {error}; tests/run installs it"));
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    // It tells of every alert that nobody expected: that is how one asks it which fire.
    let mut first = BTreeMap::new();
    let mut at = None;
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix("alertname: ") {
            let (alert, time) = rest.split_once(", time: ").unwrap();
            let time = humantime::parse_duration(time.trim().trim_end_matches(',')).unwrap();
            at = Some((alert.to_owned(), time.as_secs_f64()));
        } else if let (Some((alert, time)), Some((_, rest))) = (&at, line.split_once("caller=\"")) {
            let caller = rest.split('"').next().unwrap().to_owned();
            first.entry((alert.clone(), caller)).or_insert(*time);
        }
    }
    assert_eq!(said.status.success(), first.is_empty(), "{text}");
    first
}

struct Case {
    situation: &'static str,
    replicas: usize,
    split: Split,
    seed: u64,
    /// Seconds within which somebody is to be told.
    within: f64,
}

/// Of the fleet: who is paged for and how late, and how often a replica alone would have paged.
fn judge(case: &Case, situation: &Situation) -> (String, Vec<String>) {
    let said = (situation.build)(case.seed).run(true);
    let course = run(&said.requests, LENGTH, case.replicas, case.split);
    let name = format!(
        "{}-{}-{:?}-seed-{}",
        case.situation.replace([' ', ',', '\''], "-"),
        case.replicas,
        case.split,
        case.seed
    );
    let paged = paged(&course, LENGTH, &name);
    let mut wrong = Vec::new();
    let mut words = String::new();
    for &(culprit, from, _) in situation.culprits {
        let first = |alert: &str| {
            paged
                .get(&(alert.to_owned(), culprit.to_owned()))
                .map(|t| t - from)
        };
        let delays = ALERTS.map(first);
        let alone = course
            .alone
            .iter()
            .filter(|(t, who)| who == culprit && *t >= from);
        let alone = alone.map(|(t, _)| t - from).min_by(f64::total_cmp);
        write!(
            words,
            " {culprit}: one replica with harm {alone:.1?}, paged {:?}, said {:?}, by rate alone {:?};",
            delays[0], delays[1], delays[2]
        )
        .unwrap();
        // What nobody suffers from is said; what somebody suffers from wakes somebody.
        let (pages, said) = delays.split_at(1);
        let due = if alone.is_some() { pages } else { said };
        let in_time = |delay: &Option<f64>| delay.is_some_and(|t| (0.0..=case.within).contains(&t));
        let woken = pages.iter().any(Option::is_some);
        if !due.iter().any(in_time) || woken != alone.is_some() {
            wrong.push(format!("{name}: {culprit} is told of after {delays:?}"));
        }
    }
    let culprits: BTreeSet<_> = situation.culprits.iter().map(|of| of.0).collect();
    for ((alert, caller), t) in &paged {
        let from = situation
            .culprits
            .iter()
            .find(|of| of.0 == caller)
            .map(|of| of.1);
        if from.is_none_or(|from| *t < from) {
            wrong.push(format!("{name}: {alert} pages for {caller} at {t}"));
        }
    }
    let alone = course
        .alone
        .iter()
        .filter(|(_, who)| !culprits.contains(who.as_str()));
    let alone: BTreeSet<_> = alone.map(|(_, who)| who).collect();
    writeln!(words, " {} falsely by a replica alone", alone.len()).unwrap();
    (format!("{name}:{words}"), wrong)
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "hours of traffic over twenty pipelines: with --release, as tests/run does"
)]
fn a_fleet_is_told_of_who_runs_away_and_of_nobody_else() {
    let case = |situation, replicas, split| Case {
        situation,
        replicas,
        split,
        seed: 1,
        within: 60.0,
    };
    // Each replica needs errors enough of its own, and requests that are slow.
    let rare = |situation, replicas, seed| Case {
        seed,
        within: 200.0,
        ..case(situation, replicas, Split::RoundRobin)
    };
    let (errors, slow) = (
        "key rotation forgotten",
        "one caller's requests hang, known while they do",
    );
    let loud = "sevenfold on one route";
    let cases = [
        case(loud, 1, Split::RoundRobin),
        case(loud, 4, Split::RoundRobin),
        case(loud, 20, Split::RoundRobin),
        case(loud, 20, Split::Sticky),
        case("small caller becomes loud", 4, Split::Restarted),
        case("ordinary life", 4, Split::Restarted),
        case("ordinary life", 20, Split::Rebalanced),
        case("crowd", 4, Split::Sticky),
        rare(errors, 4, 1),
        rare(errors, 20, 2),
        rare(slow, 4, 1),
        rare(slow, 4, 2),
        Case {
            seed: 2,
            ..case(loud, 20, Split::RoundRobin)
        },
    ];
    let all = all();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let worker = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let situation = all.iter().find(|of| of.name == case.situation).unwrap();
            let wanted = std::env::var("CASE").unwrap_or_default();
            if !format!("{} {} {:?}", case.situation, case.replicas, case.split).contains(&wanted) {
                continue;
            }
            let (words, found) = judge(case, situation);
            eprint!("{words}");
            wrong.lock().unwrap().extend(found);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker);
        worker();
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
