//! A fleet of replicas, each a whole pipeline with a recorder of its own, and the shipped rules over what they export.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callerid::clock::ManualClock;
use callerid::events::{Harm, Kind};
use callerid::middleware::{CallerService, ResponseBody};
use callerid::{Callers, identify};
use http::{Request, Response};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tower::{Layer, Service};

use crate::support::{Answer, Inner, START, Script, Step, drain, now, route_of_header};
use crate::worlds::TICK;

/// Seconds between two scrapes, and between two evaluations, as in the shipped `prometheus.yml` and rules.
const SCRAPE: f64 = 5.0;
/// Connections of a client that keeps them.
const CONNECTIONS: usize = 8;
/// The first wakes somebody, the others are only said.
pub(crate) const ALERTS: [&str; 4] = [
    "CalleridRunawayFleet",
    "CalleridRunawayQuiet",
    "CalleridCallerRises",
    "CalleridCallerHolds",
];

/// A request, as it comes to the fleet. Times are in seconds.
pub(crate) struct Arriving {
    pub(crate) at: f64,
    pub(crate) took: f64,
    /// Its client's number.
    pub(crate) client: usize,
    pub(crate) caller: String,
    pub(crate) route: String,
    pub(crate) status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Split {
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
            "callerid_in_flight_requests",
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
pub(crate) struct Course {
    series: BTreeMap<String, Vec<Option<f64>>>,
    /// What each replica alone would have paged for.
    pub(crate) alone: Vec<(f64, String)>,
}

/// A trace in its course. What happens to replicas does at `onset`.
pub(crate) fn run(
    requests: &[Arriving],
    length: f64,
    onset: f64,
    replicas: usize,
    split: Split,
) -> Course {
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
        let gone = split == Split::Restarted && (onset..onset + 30.0).contains(&t);
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
                        Split::Rebalanced if of.client == 0 && of.at >= onset => 0,
                        Split::Sticky | Split::Rebalanced => home,
                        Split::Restarted if away => 1 + k % (replicas - 1),
                        Split::Restarted => k % replicas,
                    };
                    to(start);
                    let request = Request::builder()
                        .uri("/")
                        .header("x-client-id", &of.caller)
                        .header("x-route", &of.route)
                        .header("x-status", of.status)
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

/// When each alert fires for each caller, by the shipped rules; asked at every evaluation.
pub(crate) fn paged(
    course: &Course,
    length: f64,
    name: &str,
) -> BTreeMap<(String, String), Vec<f64>> {
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
    let mut firing = BTreeMap::<_, Vec<_>>::new();
    let mut at = None;
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix("alertname: ") {
            let (alert, time) = rest.split_once(", time: ").unwrap();
            let time = humantime::parse_duration(time.trim().trim_end_matches(',')).unwrap();
            at = Some((alert.to_owned(), time.as_secs_f64()));
        } else if let (Some((alert, time)), Some((_, rest))) = (&at, line.split_once("caller=\"")) {
            let caller = rest.split('"').next().unwrap().to_owned();
            firing
                .entry((alert.clone(), caller))
                .or_default()
                .push(*time);
        }
    }
    assert_eq!(said.status.success(), firing.is_empty(), "{text}");
    firing
}
