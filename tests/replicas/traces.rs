//! Traces with known truth that others have made: `NAME.jsonl`, a request a line in the order of their ends, and
//! `NAME.truth.json`, who ran away and when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use crate::fleet::{ALERTS, Arriving, Split, paged, run};

/// Seconds within which somebody is to be told: of what is many requests, and of what each replica needs a few
/// errors or slow requests of its own for.
const WITHIN: (f64, f64) = (60.0, 200.0);

fn requests(trace: &Path) -> Vec<Arriving> {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut clients = HashMap::new();
    let mut requests: Vec<_> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let of = |field: &str| line[field].as_str().unwrap().to_owned();
            let caller = of("caller");
            let number = clients.len();
            let took = line["latency_ms"].as_f64().unwrap() / 1e3;
            Arriving {
                at: (line["t"].as_f64().unwrap() - took).max(0.0),
                took,
                client: *clients.entry(caller.clone()).or_insert(number),
                caller,
                route: of("route"),
                status: line["status"].as_u64().unwrap().try_into().unwrap(),
            }
        })
        .collect();
    requests.sort_by(|a, b| a.at.total_cmp(&b.at));
    requests
}

/// Of one trace over so many replicas: how late somebody is told of each runaway, and what is wrong.
fn judge(trace: &Path, replicas: usize, split: Split) -> (String, Vec<String>) {
    let truth = std::fs::read_to_string(trace.with_extension("truth.json")).unwrap();
    let truth: Value = serde_json::from_str(&truth).unwrap();
    let length = truth["duration"].as_f64().unwrap();
    let stem = trace.file_stem().unwrap().to_str().unwrap();
    let name = format!("{stem}-{replicas}-{split:?}");
    let course = run(&requests(trace), length, 0.0, replicas, split);
    let told = paged(&course, length, &name);
    let mut words = format!("{name}:");
    let mut wrong = Vec::new();
    let mut named: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for of in truth["runaways"].as_array().unwrap() {
        let (caller, kind) = (of["caller"].as_str().unwrap(), of["kind"].as_str().unwrap());
        let time = |field: &str| of[field].as_f64().unwrap();
        let span = (time("start"), time("end"));
        named.entry(caller).or_default().push(span);
        let first = |alert: &str| {
            let times = told.get(&(alert.to_owned(), caller.to_owned()));
            let mut times = times.into_iter().flatten().map(|t| t - span.0);
            times.find(|t| (0.0..span.1 - span.0).contains(t))
        };
        let delays = ALERTS.map(first);
        write!(words, " {caller} ({kind}) {delays:?};").unwrap();
        let within = if kind == "volume" { WITHIN.0 } else { WITHIN.1 };
        let soonest = delays.into_iter().flatten().min_by(f64::total_cmp);
        if soonest.is_none_or(|t| t > within + time("ramp_s")) {
            wrong.push(format!("{name}: {caller} is told of after {delays:?}"));
        }
    }
    let falsely: BTreeSet<_> = told
        .iter()
        .filter(|((_, caller), times)| {
            let spans = named.get(caller.as_str());
            let known =
                |t: &f64| spans.is_some_and(|spans| spans.iter().any(|(from, _)| t >= from));
            !times.iter().all(known)
        })
        .map(|((alert, caller), times)| format!("{name}: {alert} of {caller} at {times:?}"))
        .collect();
    wrong.extend(falsely);
    let alone: BTreeSet<_> = course.alone.iter().map(|(_, who)| who.as_str()).collect();
    let alone = alone.into_iter().filter(|who| !named.contains_key(who));
    let alone: Vec<_> = alone.collect();
    writeln!(words, " falsely by a replica alone: {alone:?}").unwrap();
    (words, wrong)
}

#[test]
#[ignore = "takes a folder of traces, in TRACES"]
fn a_fleet_is_told_of_the_runaways_of_given_traces() {
    let folder = PathBuf::from(std::env::var_os("TRACES").expect("TRACES names a folder"));
    let wanted = std::env::var("CASE").unwrap_or_default();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.with_extension("truth.json").exists()
            && path.extension().is_some_and(|of| of == "jsonl")
        {
            for (replicas, split) in [
                (4, Split::RoundRobin),
                (20, Split::RoundRobin),
                (20, Split::Sticky),
            ] {
                if format!("{} {replicas} {split:?}", path.display()).contains(&wanted) {
                    cases.push((path.clone(), replicas, split));
                }
            }
        }
    }
    cases.sort_by(|a, b| b.0.cmp(&a.0));
    assert!(
        !cases.is_empty(),
        "no trace with its truth in {}",
        folder.display()
    );
    let (cases, wrong) = (Mutex::new(cases), Mutex::new(Vec::new()));
    let worker = || {
        loop {
            let Some((trace, replicas, split)) = cases.lock().unwrap().pop() else {
                return;
            };
            let (words, found) = judge(&trace, replicas, split);
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
