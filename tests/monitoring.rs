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
#[path = "fleet/server.rs"]
#[allow(dead_code, reason = "this binary uses its part")]
mod server;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use programs::{Demo, Running, call, demo, until};
use serde_json::{Value, json};
use server::Redis;

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

/// What Grafana's variables ask for, as an expression: `label_values(series, label)`.
fn asked_by_variables(dashboard: &Value) -> Vec<String> {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let queries = variables.iter().filter(|of| of["type"] == "query");
    let queries = queries.map(|of| of["query"]["query"].as_str().unwrap());
    queries
        .map(|query| {
            let inner = query.strip_prefix("label_values(").unwrap();
            let (series, label) = inner.trim_end_matches(')').rsplit_once(',').unwrap();
            format!("count by ({}) ({series})", label.trim())
        })
        .collect()
}

/// Three of the demo's teams have limits: one that refuses, one that would, and one that is wide enough.
const POLICIES: &str = r#"
[caller.search]
quota = "4/s"
[caller.web-shop]
quota = "1/s"
mode = "shadow"
owner = "Web"
contact = "web@example.org"
[caller.checkout]
quota = "1000/s"
max_in_flight = 500
[ceiling]
max_in_flight = 200
"#;

/// The rules, the scrape and the ports of Prometheus as they are shipped, but for who is scraped.
fn prometheus(place: &Path, replicas: &[Demo]) -> (Running, SocketAddr) {
    let shipped = std::fs::read_to_string(folder().join("prometheus.yml")).unwrap();
    let targets: Vec<_> = replicas.iter().map(|of| of.address.to_string()).collect();
    let config = shipped.replace("'127.0.0.1:3000'", &targets.join(", "));
    assert_ne!(config, shipped);
    std::fs::write(place.join("prometheus.yml"), config).unwrap();
    let rules = "callerid.rules.yml";
    std::fs::copy(folder().join(rules), place.join(rules)).unwrap();
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
    let address = line.split("address=").nth(1).unwrap();
    let address = address.split(' ').next().unwrap().parse().unwrap();
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

/// What an expression has for an answer now.
fn ask(prometheus: SocketAddr, expr: &str) -> Vec<Value> {
    let query = percent_encoding::utf8_percent_encode(expr, percent_encoding::NON_ALPHANUMERIC);
    let answer = get(prometheus, &format!("/api/v1/query?query={query}"));
    let found = answer["data"]["result"].as_array();
    found.cloned().unwrap_or_default()
}

/// Every expression that is shipped, with the callers of the team's dashboard that it may be about.
fn shipped(rules: &[Value]) -> BTreeSet<String> {
    let mut all: BTreeSet<_> = rules
        .iter()
        .map(|rule| rule["query"].as_str().unwrap().to_owned())
        .collect();
    for dashboard in dashboards() {
        let mut found = asked_by_variables(&dashboard);
        expressions(&dashboard, &mut found);
        assert!(found.len() > 10);
        let team = dashboard["uid"] == "callerid-team";
        all.extend(found.into_iter().map(|expr| {
            // As Grafana does over a scrape every 5 s, in a window of ten minutes.
            let expr = expr.replace("$__rate_interval", "20s");
            let expr = expr.replace("$__range", "10m").replace("$job", ".*");
            if team {
                expr
            } else {
                expr.replace("$caller", ".*")
            }
        }));
    }
    all
}

/// These callers, over one connection: 150 are more than there are rows.
fn invent_names(address: SocketAddr, names: std::ops::Range<u32>) {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    for name in names {
        let head = format!(
            "GET /v1/prices/sku-1 HTTP/1.1\r\nhost: {address}\r\nx-client-id: name-{name}\r\n\r\n"
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink()).unwrap();
    }
}

/// Whoever is on the machine of one replica takes what the culprit does in hand, which all replicas learn.
fn take_in_hand(replica: &Demo) {
    let overview = replica.plain("/callerid/v1/overview").body;
    let overview: Value = serde_json::from_str(&overview).unwrap();
    let open = overview["episodes"].as_array().unwrap();
    for event in open.iter().filter(|event| event["caller"] == "checkout") {
        let body = json!({"id": event["id"]}).to_string();
        let headers = [("content-type", "application/json")];
        call(
            replica.address,
            "POST",
            "/callerid/v1/do/ack",
            &headers,
            &body,
        );
    }
}

/// Three replicas of the demo with its crowds and its outage, a broken configuration, a Redis that dies, a stranger with
/// many names, who harms nobody, and somebody who takes the culprit in hand: there is nothing left but one that an
/// expression could be silent about.
#[test]
fn every_expression_answers_of_a_demo_in_an_incident() {
    let place =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("monitoring-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let policies = place.join("callerid.toml");
    std::fs::write(&policies, POLICIES).unwrap();
    let mut redis = Redis::start();
    let replicas: Vec<_> = (0..3)
        .map(|_| {
            let mut command = demo();
            command.args([
                "--listen",
                "127.0.0.1:0",
                "--redis",
                &redis.url(),
                "--config",
            ]);
            Running::start(command.arg(&policies))
        })
        .collect();
    let replicas: Vec<_> = replicas.into_iter().map(Demo::ready).collect();
    let began = Instant::now();
    let (running, address) = prometheus(&place, &replicas);
    let rules = until("Prometheus has read the rules", || {
        let answer = get(address, "/api/v1/rules");
        let groups = answer["data"]["groups"].as_array()?.clone();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone());
        (groups.len() == 2).then(|| rules.collect::<Vec<_>>())
    });
    assert_eq!(rules.len(), 26);
    let mut waiting = shipped(&rules);
    // A burst that is little to the fleet is no part of the demo: the rules' own cases have one.
    let before = waiting.len();
    waiting.retain(|expr| !expr.contains("callerid_runaway{signal!=\"rate\"}"));
    assert_eq!(waiting.len(), before - 1);
    let all = waiting.len();

    invent_names(replicas[0].address, 0..150);
    std::fs::write(&policies, "[caller.search]\nquota = \"4/fortnight\"\n").unwrap();
    redis.kill();
    let mut broken = true;
    let deadline = began + Duration::from_secs(330);
    while !waiting.is_empty() {
        assert!(
            Instant::now() < deadline,
            "these answer with nothing: {waiting:#?}"
        );
        std::thread::sleep(Duration::from_millis(500));
        waiting.retain(|expr| {
            let callers = ["checkout", "search", "web-shop"];
            let mut teams = callers
                .map(|caller| expr.replace("$caller", caller))
                .into_iter();
            // Where people are joined in, it is somebody on the roster.
            let people = expr.contains("group_left (owner, contact)");
            let answers = |of: &Value| !people || of["metric"]["owner"].is_string();
            let Some(first) = teams.find_map(|expr| ask(address, &expr).into_iter().find(answers))
            else {
                return true;
            };
            let seconds = began.elapsed().as_secs_f64();
            let start: String = expr
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .chars()
                .take(90)
                .collect();
            println!("{seconds:5.1} s: {start} .. {}", first["metric"]);
            false
        });
        let wait_for = |part: &str| waiting.iter().any(|expr| expr.contains(part));
        // All of them may have come before the first scrape, of which no rate tells.
        if wait_for("callerid_callers_overflow_total") {
            invent_names(replicas[0].address, 140..150);
        }
        if broken
            && !wait_for("_degraded")
            && !wait_for("_errors_total{")
            && !wait_for("_reload_successful")
        {
            redis.run();
            std::fs::write(&policies, POLICIES).unwrap();
            broken = false;
        }
        // What is in somebody's hand pages nobody: so only once all else has answered.
        if !broken
            && waiting.iter().all(|expr| {
                expr.contains("callerid_runaway:fleet and on (job, caller) job_caller")
                || expr.contains(
                    "== 1 unless on (job, caller) max by (job, caller) (callerid_runaway_pages)",
                )
            })
        {
            take_in_hand(&replicas[1]);
        }
    }
    look_at_what_fires(address, began);
    println!(
        "all {all} expressions have answered after {:.0} s",
        began.elapsed().as_secs_f64()
    );
    running.signal("TERM");
}

/// The page names the culprit and its people, and Grafana draws the deploy where it was.
fn look_at_what_fires(address: SocketAddr, began: Instant) {
    let firing = until("the culprit is paged", || {
        let alert =
            "last_over_time(ALERTS{alertname=\"CalleridRunawayFleet\", caller=\"checkout\"}[10m])";
        ask(address, alert).into_iter().next()
    });
    assert_eq!(
        ["owner", "contact"].map(|label| firing["metric"][label].as_str().unwrap_or_default()),
        ["Payments", "#payments-oncall"]
    );
    // At the time that is the value, in milliseconds.
    let pin = "callerid_last_pin_timestamp_seconds{caller=\"checkout\", pin=\"deploy\"} * 1000";
    let drawn = ask(address, pin);
    let at: f64 = drawn[0]["value"][1].as_str().unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let ago = now.as_secs_f64() - at / 1e3;
    assert!(
        (0.0..began.elapsed().as_secs_f64()).contains(&ago),
        "{ago} s ago: {drawn:?}"
    );
}

/// What a panel or an annotation asks, of every job and caller, has these series for an answer at a time.
fn answers(title: &str, input: &str, at: &str, samples: &str) {
    let dashboard = &dashboards()[0];
    let panels = dashboard["panels"].as_array().unwrap();
    let panel = panels.iter().find(|panel| panel["title"] == title);
    let noted = dashboard["annotations"]["list"].as_array().unwrap();
    let annotation = noted.iter().find(|of| of["name"] == title);
    let asked = panel.map(|panel| &panel["targets"][0]).or(annotation);
    let expr = asked.unwrap()["expr"].as_str().unwrap();
    let expr = expr.replace("$job", ".*").replace("$caller", ".*");
    let case = format!(
        "tests:\n- interval: 5s\n  input_series:\n{input}  promql_expr_test:\n  - expr: '{expr}'\n    eval_time: {at}\n    \
         exp_samples:{samples}"
    );
    let name = format!(
        "{}-{at}-{}.yml",
        title.replace(' ', "-"),
        std::process::id()
    );
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, case).unwrap();
    says_yes("promtool", &["test", "rules", file.to_str().unwrap()]);
}

#[test]
fn who_runs_away_is_shown_whether_or_not_the_roster_has_them() {
    answers(
        "Run away now, and whom to call",
        "  - series: 'callerid_runaway{job=\"j\", instance=\"a\", caller=\"known\", signal=\"rate\"}'
    values: '1x5'
  - series: 'callerid_runaway{job=\"j\", instance=\"a\", caller=\"stranger\", signal=\"rate\"}'
    values: '1x5'
  - series: 'callerid_runaway{job=\"j\", instance=\"a\", caller=\"calm\", signal=\"rate\"}'
    values: '0x5'
  - series: 'callerid_caller_info{job=\"j\", instance=\"a\", caller=\"known\", owner=\"Payments\", contact=\"#payments\"}'
    values: '1x5'
",
        "5s",
        "
    - labels: '{job=\"j\", caller=\"known\", signal=\"rate\", owner=\"Payments\", contact=\"#payments\"}'
      value: 1
    - labels: '{job=\"j\", caller=\"stranger\", signal=\"rate\"}'
      value: 1
",
    );
}

/// Grafana draws a series without a gap as one region: what only changes now and then would colour the whole graph.
#[test]
fn a_change_of_the_configuration_is_marked_when_it_is_made_and_not_for_ever() {
    for (title, metric, label) in [
        ("Configuration", "callerid_config_info", "hash"),
        ("Versions of callerid", "callerid_build_info", "version"),
    ] {
        // The new one comes after five minutes; the old one is 0 then, or gone.
        let input = format!(
            "  - series: '{metric}{{job=\"j\", instance=\"a\", {label}=\"old\"}}'
    values: '1x59 0x70'
  - series: '{metric}{{job=\"j\", instance=\"b\", {label}=\"old\"}}'
    values: '1x59'
  - series: '{metric}{{job=\"j\", instance=\"a\", {label}=\"new\"}}'
    values: '_x60 1x70'
"
        );
        let new = format!("\n    - labels: '{{job=\"j\", {label}=\"new\"}}'\n      value: 1\n");
        answers(title, &input, "4m", " []");
        answers(title, &input, "5m30s", &new);
        answers(title, &input, "9m", " []");
    }
}
