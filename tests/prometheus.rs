//! A real Prometheus scrapes the demo, and answers what the crate promises that it can be asked.

mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use programs::{Demo, Running, call, open, samples, sum, until};
use serde_json::Value;

/// Names, kinds and labels as other programs rely on them, without those that a roster or a limit brings.
const CONTRACT: [(&str, &str, &[&str]); 16] = [
    ("callerid_requests_started_total", "counter", &["caller"]),
    ("callerid_requests_total", "counter", &["caller", "class"]),
    (
        "callerid_request_duration_seconds",
        "histogram",
        &["caller", "class"],
    ),
    (
        "callerid_time_to_first_byte_seconds",
        "histogram",
        &["caller"],
    ),
    (
        "callerid_route_requests_total",
        "counter",
        &["caller", "fault", "route"],
    ),
    ("callerid_runaways_total", "counter", &["caller", "signal"]),
    (
        "callerid_last_pin_timestamp_seconds",
        "gauge",
        &["caller", "pin"],
    ),
    ("callerid_in_flight_requests", "gauge", &["caller"]),
    ("callerid_request_body_bytes_total", "counter", &["caller"]),
    ("callerid_response_body_bytes_total", "counter", &["caller"]),
    (
        "callerid_identified_total",
        "counter",
        &["provenance", "source"],
    ),
    ("callerid_impersonations_total", "counter", &[]),
    ("callerid_callers_tracked", "gauge", &[]),
    ("callerid_callers_overflow_total", "counter", &[]),
    ("callerid_mode", "gauge", &["mode"]),
    ("callerid_build_info", "gauge", &["version"]),
];

const CLASSES: [&str; 12] = [
    "ok",
    "validation",
    "auth",
    "not_found",
    "conflict",
    "throttled",
    "client_error",
    "timeout",
    "unavailable",
    "server_error",
    "failed",
    "cancelled",
];

const ORDER: &str = r#"{"sku": "a-1", "quantity": 1}"#;
const BAD_ORDER: &str = r#"{"quantity": 1}"#;

/// How many requests of a caller ended how.
type Counts = BTreeMap<(String, String), u64>;

#[test]
fn prometheus_tells_who_calls_and_how_it_ends() {
    let demo = Demo::start(&[]);
    let prometheus = Prometheus::scraping(demo.address);

    // One of each first: what Prometheus has seen at 0 or 1, `increase` can see rise.
    let mut sent = greet(&demo);
    until("Prometheus has every caller", || {
        (prometheus.counts("callerid_requests_total") == sent).then_some(())
    });
    let zeros = "count by (caller) (callerid_requests_total == 0)";
    assert_eq!(
        prometheus.by(zeros, &["caller"]).len(),
        sent.len(),
        "every caller's classes are born at 0"
    );

    let first = sent.clone();
    send(&demo, &mut sent);
    until("Prometheus counts exactly what was sent", || {
        (prometheus.counts("callerid_requests_total") == sent).then_some(())
    });

    let risen: Counts = sent
        .iter()
        .map(|(key, count)| (key.clone(), count - first.get(key).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    rates_and_increases_are_those_of(&prometheus, &risen);
    everything_else_agrees(&prometheus, &demo, &sent);
}

fn rates_and_increases_are_those_of(prometheus: &Prometheus, risen: &Counts) {
    let labels = ["caller", "class"];
    let rates = "sum by (caller, class) (rate(callerid_requests_total[30s])) > 0";
    let rates: BTreeSet<_> = prometheus.by(rates, &labels).into_keys().collect();
    let expected: BTreeSet<_> = risen
        .keys()
        .map(|(a, b)| vec![a.clone(), b.clone()])
        .collect();
    assert_eq!(rates, expected);

    // The raw samples: between the first and the last, exactly what was sent.
    let exact = "max_over_time(callerid_requests_total[10m]) - min_over_time(callerid_requests_total[10m]) > 0";
    assert_eq!(prometheus.counts(exact), *risen);
    // `increase` extrapolates to both ends of its window, by a part that shrinks as samples come in.
    until("increase() comes within a quarter of what was sent", || {
        let increases = prometheus.by("increase(callerid_requests_total[10m]) > 0", &labels);
        let near = |((caller, class), count): (&(String, String), &u64)| {
            let increase = increases.get(&vec![caller.clone(), class.clone()])?;
            let ratio = increase / *count as f64;
            (0.99..1.25).contains(&ratio).then_some(())
        };
        let all: Option<Vec<_>> = risen.iter().map(near).collect();
        (increases.len() == risen.len()).then_some(all?)
    });
}

fn everything_else_agrees(prometheus: &Prometheus, demo: &Demo, sent: &Counts) {
    let total: u64 = sent.values().sum();
    let probes = sent[&("__exempt__".to_owned(), "ok".to_owned())];
    for (query, expected) in [
        ("sum(callerid_requests_started_total)", total),
        ("sum(callerid_requests_total)", total),
        ("sum(callerid_request_duration_seconds_count)", total),
        ("sum(callerid_route_requests_total)", total),
        ("sum(callerid_identified_total)", total - probes),
        ("sum(callerid_in_flight_requests)", 0),
        // Prometheus has scraped many times by now.
        (
            "count(callerid_route_requests_total{route=~\".*(metrics|callerid).*\"}) or vector(0)",
            0,
        ),
        ("sum(callerid_requests_total{caller=\"__exempt__\"})", 1),
        ("sum(callerid_route_requests_total{route=\"unmatched\"})", 4),
        (
            "count(callerid_route_requests_total{route=~\".*wp-login.*\"}) or vector(0)",
            0,
        ),
        ("callerid_callers_overflow_total", 0),
        ("callerid_build_info", 1),
    ] {
        assert_eq!(prometheus.number(query), expected as f64, "{query}");
    }
    let p99 = "histogram_quantile(0.99, sum by (le) (rate(callerid_request_duration_seconds_bucket{caller=\"search\", class=\"ok\"}[1m])))";
    let p99 = prometheus.number(p99);
    assert!(p99 > 0.0 && p99 < 5.0, "{p99}");

    let scrape = demo.plain("/metrics").body;
    the_contract_holds(&scrape);
    promtool_has_nothing_to_say(&scrape);
}

/// One request of each caller; what that makes.
fn greet(demo: &Demo) -> Counts {
    let mut counts = Counts::new();
    for caller in ["checkout", "search", "mobile-bff", "reports"] {
        assert_eq!(demo.get("/v1/prices/a-1", caller).status, 200);
        count(&mut counts, caller, "ok", 1);
    }
    assert_eq!(demo.plain("/v1/prices/a-1").status, 200);
    count(&mut counts, "__unknown__", "ok", 1);
    assert_eq!(demo.get("/v1/prices/a-1", "not a name").status, 200);
    count(&mut counts, "__invalid__", "ok", 1);
    assert_eq!(demo.get("/healthz", "checkout").status, 200);
    count(&mut counts, "__exempt__", "ok", 1);
    counts
}

/// A bit of everything.
fn send(demo: &Demo, counts: &mut Counts) {
    for _ in 0..30 {
        assert_eq!(demo.order("checkout", BAD_ORDER).status, 422);
    }
    count(counts, "checkout", "validation", 30);
    for _ in 0..10 {
        assert_eq!(demo.order("checkout", ORDER).status, 201);
    }
    count(counts, "checkout", "ok", 10);
    for sku in 0..25 {
        assert_eq!(demo.get(&format!("/v1/prices/{sku}"), "search").status, 200);
    }
    count(counts, "search", "ok", 25);
    for _ in 0..4 {
        assert_eq!(demo.get("/wp-login.php", "search").status, 404);
    }
    count(counts, "search", "not_found", 4);
    for _ in 0..7 {
        assert_eq!(demo.get("/v1/fail", "reports").status, 500);
    }
    count(counts, "reports", "server_error", 7);
    for _ in 0..5 {
        let stream = demo.get("/v1/stream?chunks=4&ms=10", "mobile-bff");
        assert_eq!(stream.body, "chunk\n".repeat(4));
    }
    count(counts, "mobile-bff", "ok", 5);
    assert_eq!(demo.plain("/v1/prices/a-1").status, 200);
    count(counts, "__unknown__", "ok", 1);
    assert_eq!(demo.get("/v1/prices/a-1", "claimed:checkout").status, 200);
    count(counts, "__invalid__", "ok", 1);
    go_away(demo);
    count(counts, "mobile-bff", "cancelled", 5);
}

/// Three callers go away while they wait, two while they read.
fn go_away(demo: &Demo) {
    let headers = [("x-client-id", "mobile-bff")];
    let path = |nth| {
        if nth < 3 {
            "/v1/slow?ms=30000"
        } else {
            "/v1/stream?chunks=1000&ms=200"
        }
    };
    let mut connections: Vec<_> = (0..5)
        .map(|nth| open(demo.address, "GET", path(nth), &headers, ""))
        .collect();
    for stream in &mut connections[3..] {
        let mut begun = [0; 16];
        stream.read_exact(&mut begun).expect("the stream begins");
    }
    let in_flight = || demo.metric("callerid_in_flight_requests", &[("caller", "mobile-bff")]);
    until("five requests are in flight", || {
        (in_flight() == 5.0).then_some(())
    });
    drop(connections);
    until("none is in flight", || (in_flight() == 0.0).then_some(()));
}

fn count(counts: &mut Counts, caller: &str, class: &str, more: u64) {
    *counts
        .entry((caller.to_owned(), class.to_owned()))
        .or_default() += more;
}

fn the_contract_holds(scrape: &str) {
    let kinds: BTreeMap<_, _> = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let expected = CONTRACT
        .iter()
        .map(|(name, kind, _)| (*name, *kind))
        .collect();
    assert_eq!(kinds, expected);
    for name in kinds.keys() {
        assert!(
            scrape.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
    }
    for sample in samples(scrape) {
        let family = CONTRACT
            .iter()
            .find(|(name, kind, _)| match sample.name.strip_prefix(name) {
                Some("") => *kind != "histogram",
                Some("_bucket" | "_sum" | "_count") => *kind == "histogram",
                _ => false,
            });
        let (_, _, expected) = family.expect("no metric is outside the contract");
        let bucket = sample.name.ends_with("_bucket");
        let labels = sample.labels.keys().map(String::as_str);
        let labels: Vec<_> = labels.filter(|label| !bucket || *label != "le").collect();
        assert_eq!(labels, *expected, "{}", sample.name);
        if let Some(class) = sample.labels.get("class") {
            assert!(CLASSES.contains(&class.as_str()), "{class}");
        }
        if let Some(fault) = sample.labels.get("fault") {
            assert!(
                ["none", "caller", "service"].contains(&fault.as_str()),
                "{fault}"
            );
        }
        if let Some(route) = sample.labels.get("route") {
            let template = ["GET /v1/", "POST /v1/orders", "GET /healthz"];
            let known = template.iter().any(|template| route.starts_with(template));
            assert!(known || route == "unmatched", "{route}");
            assert!(!route.contains("a-1"), "{route}");
        }
    }
    let identified =
        |labels: &[(&str, &str)]| sum(&samples(scrape), "callerid_identified_total", labels);
    assert_eq!(
        identified(&[("source", "invalid"), ("provenance", "unknown")]),
        2.0
    );
    assert!(identified(&[("source", "header"), ("provenance", "verified")]) > 50.0);
}

fn promtool_has_nothing_to_say(scrape: &str) {
    let mut promtool = Command::new(installed("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(scrape.as_bytes()).expect("promtool reads");
    drop(stdin);
    let checked = promtool.wait_with_output().expect("promtool ends");
    let said = [checked.stdout, checked.stderr].concat();
    assert!(
        checked.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// A program from the Debian package `prometheus`.
fn installed(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    assert!(
        found.is_some(),
        "`{program}` is not installed: this test needs a real Prometheus; \
         run tests/run, which installs it, or `apt-get install prometheus`"
    );
    found.unwrap_or_default()
}

/// A server of its own, in a folder of its own.
struct Prometheus {
    address: SocketAddr,
    running: Running,
}

impl Prometheus {
    fn scraping(target: SocketAddr) -> Self {
        let program = installed("prometheus");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("prometheus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the folder of tests can be written");
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n- job_name: demo\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(&config, text).expect("the folder of tests can be written");
        let running = Running::start(
            Command::new(program)
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    folder.join("data").display()
                ))
                .arg("--web.listen-address=127.0.0.1:0"),
        );
        let line = running.logged("\"Listening on\"");
        let address = line.as_deref().and_then(|line| {
            line.split("address=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        });
        let prometheus = Self {
            address: address.expect("Prometheus logs where it listens"),
            running,
        };
        until("Prometheus reaches the demo", || {
            (prometheus.by("up == 1", &["job"]).len() == 1).then_some(())
        });
        prometheus
    }

    /// The value of each series that a query answers with, by its labels.
    fn by(&self, query: &str, labels: &[&str]) -> BTreeMap<Vec<String>, f64> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer = call(self.address, "GET", &path, &[], "");
        if answer.status == 503 {
            return BTreeMap::new(); // it is still starting
        }
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).expect("it answers with JSON");
        let series = answer["data"]["result"]
            .as_array()
            .expect("it answers with series");
        series
            .iter()
            .map(|series| {
                let label = |name: &&str| {
                    series["metric"][*name]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()
                };
                let value = series["value"][1]
                    .as_str()
                    .and_then(|value| value.parse().ok());
                (
                    labels.iter().map(label).collect(),
                    value.expect("a value is a number"),
                )
            })
            .collect()
    }

    /// The series by caller and class that are not 0.
    fn counts(&self, query: &str) -> Counts {
        let values = self.by(query, &["caller", "class"]);
        values
            .into_iter()
            .filter(|(_, value)| *value != 0.0)
            .filter_map(|(labels, value)| {
                let [caller, class] = <[String; 2]>::try_from(labels).ok()?;
                Some(((caller, class), value as u64))
            })
            .collect()
    }

    /// The value of the one series that a query answers with.
    fn number(&self, query: &str) -> f64 {
        let answer = self.by(query, &[]);
        assert_eq!(answer.len(), 1, "{query}");
        answer.into_values().sum()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.running.signal("TERM");
        self.running.ended();
    }
}

/// A query as part of a URL.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
