//! What is in `examples/monitoring` works: rules, configurations and dashboards, against real programs and an incident.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests"
)]

mod programs;
#[path = "support/mod.rs"]
mod support;
#[path = "live/world.rs"]
#[allow(dead_code, reason = "this binary uses its part")]
mod world;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callerid::{Ceiling, LATENCY_BUCKETS};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use programs::{Running, call, until};
use serde_json::Value;
use world::{Load, World};

/// Expressions that answer with nothing while one caller runs away on a replica without a Redis, and why.
const QUIET: [(&str, &str); 8] = [
    (
        "1h] offset 5m",
        "what is usual needs an hour; the cases of promtool have one",
    ),
    (
        "and on (job, caller) job_caller:callerid_runaway:quiet",
        "what runs away harms",
    ),
    (
        "callerid_runaway) == 1 unless",
        "who runs away does harm, and nobody has it in hand",
    ),
    (
        "callerid_limiter_degraded",
        "there is no Redis that could be away",
    ),
    (
        "callerid_limiter_backend_errors_total",
        "there is no Redis that could fail",
    ),
    (
        "callerid_config_last_reload_successful == 0",
        "the configuration was read",
    ),
    (
        "rate(callerid_callers_overflow_total[5m])) > 0",
        "one known caller does not fill the table",
    ),
    (
        "job_caller:callerid_requests:usual",
        "it is made of what is usual",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring")
}

fn says_yes(program: &str, args: &[&str]) {
    let checked = Command::new(program)
        .current_dir(folder())
        .args(args)
        .output();
    let checked =
        checked.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success(), "{program} {args:?}: {said}");
}

#[test]
fn the_files_are_what_their_programs_want_and_the_rules_do_what_their_cases_say() {
    says_yes("promtool", &["check", "config", "prometheus.yml"]);
    says_yes("promtool", &["check", "rules", "callerid.rules.yml"]);
    says_yes("promtool", &["test", "rules", "callerid.rules.test.yml"]);
    says_yes("amtool", &["check-config", "alertmanager.yml"]);
}

fn dashboards() -> Vec<Value> {
    let read = |name| std::fs::read_to_string(folder().join(name)).unwrap();
    ["grafana-api.json", "grafana-team.json"]
        .map(|name| serde_json::from_str(&read(name)).unwrap())
        .to_vec()
}

/// The panels that we use of those which come with Grafana.
const PANELS: [&str; 9] = [
    "timeseries",
    "stat",
    "table",
    "row",
    "text",
    "bargauge",
    "barchart",
    "heatmap",
    "state-timeline",
];

/// Left, top, width, height, on a grid of 24 columns.
fn place(panel: &Value) -> [u64; 4] {
    ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap())
}

fn overlap([x, y, w, h]: [u64; 4], [left, top, wide, high]: [u64; 4]) -> bool {
    x < left + wide && left < x + w && y < top + high && top < y + h
}

#[test]
fn dashboards_are_such_that_grafana_takes_them() {
    for dashboard in dashboards() {
        assert!(dashboard["uid"].as_str().unwrap().len() <= 40);
        assert_eq!(dashboard["schemaVersion"], 39);
        let names: Vec<_> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        for name in ["datasource", "job", "caller"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let mut ids = BTreeSet::new();
        let mut placed = Vec::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}");
            let kind = panel["type"].as_str().unwrap();
            assert!(
                PANELS.contains(&kind),
                "{kind} is no panel of Grafana's own"
            );
            assert!(!panel["title"].as_str().unwrap().is_empty(), "{panel}");
            let place = place(panel);
            assert!(
                place[0] + place[2] <= 24 && place[2] > 0 && place[3] > 0,
                "{panel}"
            );
            let over = placed.iter().find(|other| overlap(place, **other));
            assert_eq!(over, None, "{} lies over another", panel["title"]);
            placed.push(place);
            let mut refs = BTreeSet::new();
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert!(refs.insert(target["refId"].as_str().unwrap()), "{panel}");
                assert!(!target["expr"].as_str().unwrap().is_empty());
                // A target without a source of its own has the panel's.
                let source = &target["datasource"]["uid"];
                assert!(source.is_null() || source == "${datasource}", "{target}");
            }
            assert_eq!(refs.is_empty(), kind == "row" || kind == "text", "{panel}");
        }
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        for variable in variables {
            let known = ["datasource", "query", "custom", "textbox", "interval"];
            assert!(
                known.contains(&variable["type"].as_str().unwrap()),
                "{variable}"
            );
            if variable["type"] == "query" {
                assert_eq!(variable["datasource"]["uid"], "${datasource}");
            }
        }
        let noted = dashboard["annotations"]["list"].as_array().unwrap();
        let noted: Vec<_> = noted.iter().filter(|of| of["builtIn"] != 1).collect();
        assert!(
            !noted.is_empty(),
            "pins and runaways are drawn on the graphs"
        );
        for whose in ["caller=\"\"", "$caller"] {
            let drawn = noted.iter().any(|of| {
                let expr = of["expr"].as_str().unwrap();
                expr.contains("callerid_last_pin_timestamp_seconds") && expr.contains(whose)
            });
            assert!(drawn, "changes are drawn: {whose}");
        }
        for annotation in noted {
            assert_eq!(annotation["datasource"]["uid"], "${datasource}");
            assert_eq!(annotation["enable"], true);
            let expr = annotation["expr"].as_str().unwrap();
            assert!(expr.contains("callerid_"));
            // A time of Grafana's is in milliseconds.
            let is_time = annotation["useValueForTime"] == true;
            assert_eq!(is_time, expr.contains("_timestamp_seconds{"), "{expr}");
            assert_eq!(is_time, expr.ends_with(" * 1000"), "{expr}");
        }
        // What an expression asks for by name is a variable, or Grafana's own.
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        for expr in found {
            let asked = expr.split('$').skip(1).map(|rest| {
                let rest = rest.trim_start_matches('{');
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                &rest[..end.unwrap_or(rest.len())]
            });
            for name in asked {
                let own = ["__rate_interval", "__range", "__interval"].contains(&name);
                assert!(own || names.contains(&name), "${name} in {expr}");
            }
        }
    }
}

/// Every `expr` below a value.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Says what `page` holds to whoever asks.
fn serve(page: Arc<Mutex<String>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let body = page.lock().unwrap().clone();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n";
            let length = body.len();
            let _ = write!(
                reader.get_mut(),
                "{head}content-length: {length}\r\n\r\n{body}"
            );
        }
    });
    address
}

fn prometheus(target: SocketAddr) -> (Running, SocketAddr) {
    let place =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("monitoring-{}", target.port()));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(
        folder().join("callerid.rules.yml"),
        place.join("callerid.rules.yml"),
    )
    .unwrap();
    let shipped = std::fs::read_to_string(folder().join("prometheus.yml")).unwrap();
    let config = shipped
        .replace("interval: 5s", "interval: 1s")
        .replace("127.0.0.1:3000", &target.to_string());
    assert!(config.contains("scrape_interval: 1s") && config.contains(&target.to_string()));
    std::fs::write(place.join("prometheus.yml"), config).unwrap();
    let rules = std::fs::read_to_string(place.join("callerid.rules.yml")).unwrap();
    std::fs::write(
        place.join("callerid.rules.yml"),
        rules.replace("interval: 5s", "interval: 1s"),
    )
    .unwrap();
    let running = Running::start(
        Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                place.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                place.join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0"),
    );
    let line = running.logged("\"Listening on\"").unwrap();
    let address = line
        .split("address=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let address = address.parse().unwrap();
    (running, address)
}

fn get(prometheus: SocketAddr, path: &str) -> Value {
    let answer = call(prometheus, "GET", path, &[], "");
    if answer.status == 503 {
        return Value::Null; // it is still starting
    }
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn every_expression_answers_in_an_incident() {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)
        .unwrap()
        .build_recorder();
    let scraped = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let config = Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitoring.toml");
    std::fs::write(&config, "[caller.search]\nquota = \"5/s\"\nowner = \"Discovery\"\n[caller.checkout]\nquota = \"1000/s\"\n[caller.stock]\nquota = \"1/s\"\nmode = \"shadow\"\n").unwrap();
    let mut world =
        World::new(|builder| builder.ceiling(Ceiling::new(30)).config(&config).unwrap());
    world.run(Duration::from_secs(900));
    world.load("web-shop").status = 503;
    world.table.callers.deployed("checkout", "v42");
    let deployed = support::START.as_secs_f64() + world.seconds();
    let latency = Duration::from_millis(300);
    world.loads.push(Load {
        route: "/v1/orders",
        status: 422,
        latency,
        ..Load::new("checkout", 100.0)
    });

    let page = Arc::new(Mutex::new(String::new()));
    let (running, address) = prometheus(serve(Arc::clone(&page)));
    let mut waiting = BTreeSet::new();
    for dashboard in dashboards() {
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        assert!(found.len() > 10);
        waiting.extend(found.into_iter().map(|expr| {
            let expr = expr
                .replace("$job", ".*")
                .replace("$__rate_interval", "30s")
                .replace("$__range", "10m");
            let team = dashboard["uid"] == "callerid-team";
            expr.replace("$caller", if team { "checkout" } else { ".*" })
        }));
    }
    let mut scrape = || {
        world.run(Duration::from_secs(1));
        world.table.callers.flush();
        *page.lock().unwrap() = scraped.render();
    };
    // Rules as Prometheus has read them.
    let rules = until("Prometheus has read the rules", || {
        scrape();
        let answer = get(address, "/api/v1/rules");
        let groups = answer["data"]["groups"].as_array()?.clone();
        (groups.len() == 2).then_some(groups)
    });
    let rules: Vec<_> = rules
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect();
    assert_eq!(rules.len(), 14);
    waiting.extend(
        rules
            .iter()
            .map(|rule| rule["query"].as_str().unwrap().to_owned()),
    );
    let all = waiting.len();
    let quiet = |expr: &String| QUIET.iter().any(|(part, _)| expr.contains(part));
    let (silent, mut waiting): (BTreeSet<_>, BTreeSet<_>) = waiting.into_iter().partition(quiet);
    for (part, why) in QUIET {
        assert!(
            silent.iter().any(|expr| expr.contains(part)),
            "nothing is quiet because {why}"
        );
    }
    let ask = |expr: &String| {
        let query = percent_encoding::utf8_percent_encode(expr, percent_encoding::NON_ALPHANUMERIC);
        get(address, &format!("/api/v1/query?query={query}"))["data"]["result"]
            .as_array()
            .map_or(0, Vec::len)
    };
    // Also what stays quiet is a question that Prometheus understands.
    silent.iter().for_each(|expr| _ = ask(expr));
    let deadline = std::time::Instant::now() + programs::DEADLINE;
    while !waiting.is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "these answer with nothing: {waiting:#?}"
        );
        scrape();
        // One team runs away, another has a limit in shadow.
        waiting
            .retain(|expr| ask(expr) == 0 && ask(&expr.replace("\"checkout\"", "\"stock\"")) == 0);
        std::thread::sleep(Duration::from_millis(500));
    }
    let firing = get(
        address,
        "/api/v1/query?query=ALERTS%7Balertname%3D%22CalleridRunawayQuorum%22%7D",
    );
    let firing = &firing["data"]["result"][0]["metric"];
    assert_eq!(
        ["caller", "owner", "contact"].map(|label| firing[label].as_str().unwrap_or_default()),
        ["checkout", "Payments", "#payments-oncall"]
    );
    // Where Grafana draws the deploy: at the time that is the value, in milliseconds.
    let drawn = get(
        address,
        "/api/v1/query?query=callerid_last_pin_timestamp_seconds%7Bcaller%3D%22checkout%22%7D*1000",
    );
    let drawn = &drawn["data"]["result"][0];
    assert_eq!(drawn["metric"]["pin"], "deploy");
    let at: f64 = drawn["value"][1].as_str().unwrap().parse().unwrap();
    assert_eq!(at, deployed * 1e3);
    println!(
        "{} of {all} expressions answered, {} are quiet by nature",
        all - silent.len(),
        silent.len()
    );
    running.signal("TERM");
}
