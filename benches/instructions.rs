//! Instructions per request, counted under valgrind: the guard that CI runs, since a count repeats where a time
//! does not.
//!
//! ```text
//! cargo bench --all-features --bench instructions                     # the table, with the peers
//! cargo bench --all-features --bench instructions -- --check FILE     # against a budget; fails past 3 %, or more where luck has a part
//! cargo bench --all-features --bench instructions -- --update FILE    # writes the budget
//! ```
//!
//! Each scenario runs in processes of its own under callgrind, once for N requests and once for 3 N: the difference
//! is what 2 N requests cost, and the same of the service without the layer is taken off. Which clock is read depends
//! on the machine, so callerid has one here that counts its readings; of the peers' clocks valgrind does not see the
//! system call. Of ticks and of replay all is counted, since there is nothing to take off.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use callerid::clock::ManualClock;
use callerid::replay::Replay;
use callerid::{Builder, Callers, Clock, ErrorDetail, Timestamp};
use http::{Response, StatusCode};
use tower::Layer;

use crate::support::contenders::{
    Contender, Kind, hold, limited, nothing, on_axum, on_tower, refusing,
};
use crate::support::proc::CALM;
use crate::support::{Fixed, Requests, builder, builder_with_route, roomy};

mod support;

/// Requests of the shorter run; the longer one has three times as many.
const REQUESTS: usize = 2_000;
/// Requests before those that count.
const WARM_UP: usize = 10_000;
/// Ticks of the shorter run of what is counted by the tick.
const TICKS: usize = 8;
/// Callers of [`ticks`].
const CALLERS: usize = 1_000;
/// Lines of the shorter log that is replayed.
const LINES: usize = 10_000;

/// How much a figure may grow before the guard fails: more where luck has a part in it, which is what an invented
/// name displaces, where the allocator finds room for a refusal in a router, and whose hashes meet in a tick.
fn tolerance(scenario: &str) -> f64 {
    match scenario {
        "invented" => 0.25,
        "refused-router" | "tick" | "tick-idle" => 0.06,
        _ => 0.03,
    }
}

/// What is counted: its name, what is taken off, and what it tells.
const SCENARIOS: [(&str, &str, &str); 20] = [
    ("observed", "bare", "one warm caller, on tower"),
    (
        "observed-router",
        "bare-router",
        "the same in an axum router",
    ),
    (
        "observed-100",
        "bare-100",
        "a hundred warm callers taking turns, on tower",
    ),
    ("rowless", "bare", "a caller in the table that has no row"),
    (
        "invented",
        "bare-invented",
        "every request another name, the table full",
    ),
    ("anonymous", "bare-anonymous", "no identity"),
    ("failing", "bare-failing", "422 with an ErrorDetail"),
    (
        "limited",
        "bare",
        "the observed one with a quota, a limit in flight and a ceiling",
    ),
    (
        "refused",
        "nothing",
        "429 for a caller over its quota: all that it takes",
    ),
    (
        "refused-router",
        "nothing",
        "the same in front of an axum router",
    ),
    (
        "bare-router",
        "nothing",
        "what a refusal there spares: the router without a layer",
    ),
    (
        "peer-refused",
        "nothing",
        "tower_governor's refusal: all that it takes",
    ),
    (
        "peer-refused-router",
        "nothing",
        "the same in front of an axum router",
    ),
    (
        "tick",
        "nothing",
        "a tick, per caller: each of 1,000 with a row sent a request; the exporter included",
    ),
    (
        "tick-idle",
        "nothing",
        "the same after they have fallen silent",
    ),
    (
        "replay",
        "nothing",
        "a line of a log in JSON that is replayed: all that it takes",
    ),
    ("peer-trace", "bare", "tower-http TraceLayer, no subscriber"),
    ("peer-governor", "bare", "tower_governor"),
    ("peer-prometheus", "bare", "axum-prometheus"),
    ("peer-stack", "bare", "tower_governor + axum-prometheus"),
];

/// Not guarded: which of the hundred share a slot of a thread's memory changes from run to run; a bare router is not
/// ours.
const SHOWN_ONLY: [&str; 2] = ["observed-100", "bare-router"];

/// The goal of the project for `observed`, and what must not be missed.
const GOAL: (f64, f64) = (2_000.0, 3_500.0);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).cloned()
    };
    if let Some(scenario) = after("--child") {
        let requests = after("--requests")
            .and_then(|count| count.parse().ok())
            .unwrap_or(REQUESTS);
        child(&scenario, requests);
        return ExitCode::SUCCESS;
    }
    let (check, update) = (after("--check"), after("--update"));
    let ours_only = check.is_some() || update.is_some();
    match measure(ours_only) {
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
        Ok(figures) => {
            print(&figures);
            if let Some(file) = update {
                return write_budget(&file, &figures);
            }
            check.map_or(ExitCode::SUCCESS, |file| compare(&file, &figures))
        }
    }
}

/// Instructions per request over the baseline, by scenario.
fn measure(ours_only: bool) -> Result<BTreeMap<&'static str, f64>, String> {
    let mut absolute = BTreeMap::new();
    let mut figures = BTreeMap::new();
    for (name, baseline, _) in SCENARIOS {
        if ours_only && (name.starts_with("peer-") || SHOWN_ONLY.contains(&name)) {
            continue;
        }
        if let Some((_, runs, each)) = apart(name) {
            let (short, long) = (count(name, runs)?, count(name, 3 * runs)?);
            let figure = long.saturating_sub(short) as f64 / (2 * runs * each) as f64;
            figures.insert(name, figure);
            continue;
        }
        for run in [baseline, name] {
            if !absolute.contains_key(run) {
                let (short, long) = (count(run, REQUESTS)?, count(run, 3 * REQUESTS)?);
                absolute.insert(
                    run,
                    long.saturating_sub(short) as f64 / (2 * REQUESTS) as f64,
                );
            }
        }
        figures.insert(name, absolute[name] - absolute[baseline]);
    }
    Ok(figures)
}

/// A clock that is read a microsecond after it was read last, on every machine.
struct Readings(AtomicU64);

impl Readings {
    fn clock() -> Self {
        Self(AtomicU64::new(
            Timestamp::from_secs(1_700_000_000).as_nanos(),
        ))
    }
}

impl Clock for Readings {
    fn now(&self) -> Timestamp {
        let now = self.0.load(Ordering::Relaxed) + 1_000;
        self.0.store(now, Ordering::Relaxed);
        Timestamp::from_nanos(now)
    }
}

/// Of what is no request: the function that is counted, how often it is run or how much it is given in the shorter
/// run, and by how much that is divided.
fn apart(scenario: &str) -> Option<(&'static str, usize, usize)> {
    match scenario {
        "tick" | "tick-idle" => Some(("*one_tick*", TICKS, CALLERS)),
        "replay" => Some(("*one_replay*", LINES, 1)),
        _ => None,
    }
}

/// Runs one scenario under callgrind and returns the instructions of its requests, or of what [`apart`] names.
fn count(scenario: &str, requests: usize) -> Result<u64, String> {
    let function = apart(scenario).map_or("*counted*", |(function, ..)| function);
    let this = std::env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--collect-atstart=no")
        .arg(format!("--toggle-collect={function}"))
        .arg(this)
        .args(["--child", scenario, "--requests", &requests.to_string()])
        .env(CALM.0, CALM.1)
        .output()
        .map_err(|error| format!("valgrind does not run ({error}); apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split("Collected :").nth(1));
    collected
        .filter(|_| output.status.success())
        .and_then(|count| count.trim().parse().ok())
        .ok_or_else(|| format!("{scenario} under valgrind: {}\n{said}", output.status))
}

fn print(figures: &BTreeMap<&'static str, f64>) {
    println!("instructions per request over the same service without the layer");
    for (name, _, what) in SCENARIOS {
        if let Some(figure) = figures.get(name) {
            println!("  {name:<16} {figure:>8.0}   {what}");
        }
    }
    let verdict = support::figures::verdict;
    if let Some(&observed) = figures.get("observed") {
        verdict("observed, with tag", observed, GOAL.0, GOAL.1, "", false);
    }
    if let (Some(refused), Some(spared)) = (figures.get("refused"), figures.get("bare-router")) {
        let share = refused / spared;
        verdict("refused, of the bare router", share, 0.5, 0.5, "", false);
    }
}

fn write_budget(file: &str, figures: &BTreeMap<&'static str, f64>) -> ExitCode {
    let mut text = String::from(
        "# Instructions per request over the bare service, counted by `benches/guard`, which fails when one grows by\n\
         # more than 3 %, or more where luck has a part. A change that is worth its cost updates the file:\n\
         # `benches/guard --update`.\n",
    );
    for (name, figure) in figures {
        let _ = writeln!(text, "{name} = {figure:.0}");
    }
    match std::fs::write(file, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(file: &str, figures: &BTreeMap<&'static str, f64>) -> ExitCode {
    let Ok(text) = std::fs::read_to_string(file) else {
        eprintln!("{file} cannot be read; `benches/guard --update` writes it");
        return ExitCode::FAILURE;
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let budget: BTreeMap<&str, f64> = lines
        .filter_map(|line| line.split_once('='))
        .filter_map(|(name, figure)| Some((name.trim(), figure.trim().parse().ok()?)))
        .collect();
    let mut fits = true;
    println!("against {file}:");
    for (name, figure) in figures {
        let Some(&allowed) = budget.get(name) else {
            println!("  {name:<16} {figure:>8.0}   has no budget: `benches/guard --update`");
            fits = false;
            continue;
        };
        let grown = figure / allowed - 1.0;
        let word = if grown > tolerance(name) {
            fits = false;
            "TOO MUCH"
        } else if grown < -tolerance(name) {
            "less; `benches/guard --update` keeps the gain"
        } else {
            "fits"
        };
        println!(
            "  {name:<16} {figure:>8.0}   budget {allowed:>8.0}   {:>+6.1} %   {word}",
            grown * 100.0
        );
    }
    if fits {
        ExitCode::SUCCESS
    } else {
        eprintln!(
            "a request costs more instructions than benches/budget.toml allows. If the cost is worth it, run \
             `benches/guard --update` and say in the commit what was bought."
        );
        ExitCode::FAILURE
    }
}

/// One scenario: requests to warm up, then those that count.
fn child(scenario: &str, requests: usize) {
    let still = |builder: Builder| builder.clock(Readings::clock()).manual_tick();
    let tower = still(builder_with_route()).build().expect("valid settings");
    let axum = still(builder()).build().expect("valid settings");
    let failing = Fixed(|| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        response
            .extensions_mut()
            .insert(ErrorDetail::new("missing").field("sku"));
        response
    });
    if scenario.starts_with("tick") {
        return ticks(scenario, requests);
    }
    if scenario == "replay" {
        return replay(requests);
    }
    let mut service = match scenario {
        "bare" | "bare-100" | "bare-invented" | "bare-anonymous" => on_tower(Kind::Bare, &tower),
        "observed" | "observed-100" | "rowless" | "invented" | "anonymous" => {
            on_tower(Kind::Callerid, &tower)
        }
        "bare-router" => on_axum(Kind::Bare, &axum),
        "observed-router" => on_axum(Kind::Callerid, &axum),
        "bare-failing" => hold(failing),
        "failing" => hold(tower.layer().layer(failing)),
        "nothing" => nothing(),
        "limited" => {
            let limited = limited(still(builder_with_route()));
            hold(limited.layer().layer(support::Answer))
        }
        "refused" => refusing(Kind::Callerid, false, still(builder_with_route())),
        "refused-router" => refusing(Kind::Callerid, true, still(builder())),
        "peer-refused" => refusing(Kind::Governor, false, builder()),
        "peer-refused-router" => refusing(Kind::Governor, true, builder()),
        "peer-trace" => on_tower(Kind::Trace, &tower),
        "peer-governor" => on_tower(Kind::Governor, &tower),
        "peer-prometheus" | "peer-stack" => {
            let _ = support::install_recorder();
            on_tower(
                if scenario == "peer-stack" {
                    Kind::Stack
                } else {
                    Kind::Prometheus
                },
                &tower,
            )
        }
        other => return eprintln!("no scenario {other}"),
    };
    match scenario {
        "rowless" => fill(&tower, 1_000),
        "invented" => fill(&tower, 5_000),
        _ => {}
    }
    let mut input = match scenario.rsplit('-').next() {
        Some("100") => Requests::of("client", 100),
        Some("invented") => Requests::invented(),
        Some("anonymous") => Requests::of_nobody(),
        _ => Requests::of("client", 1),
    };
    service.serve(&mut input, WARM_UP);
    counted(&mut *service, &mut input, requests);
}

/// What callgrind counts of requests.
#[inline(never)]
fn counted(service: &mut dyn Contender, input: &mut Requests, requests: usize) {
    service.serve(input, requests);
}

/// Ticks of a service with a thousand callers who have a row each and send all the time, or, of `tick-idle`, did.
fn ticks(scenario: &str, ticks: usize) {
    const WARM: usize = 8;
    static TURN: AtomicU64 = AtomicU64::new(0);
    let _ = support::install_recorder();
    let clock = ManualClock::at(Timestamp::from_secs(1_700_000_000));
    let callers = roomy(builder_with_route(), CALLERS)
        .clock(clock.clone())
        .manual_tick()
        .build()
        .expect("valid settings");
    let slow = clock.clone();
    let service = callers.layer().layer(Fixed(move || {
        // They take 250 ms in all, in several buckets.
        let turn = TURN.fetch_add(7_919, Ordering::Relaxed) % 2_000;
        slow.advance(Duration::from_nanos(250 * turn));
        Response::new(Body::empty())
    }));
    let mut service = hold(service);
    let mut requests = Requests::of("client", CALLERS).in_turns();
    for tick in 0..WARM + ticks {
        if tick < WARM || scenario == "tick" {
            service.serve(&mut requests, CALLERS);
        } else {
            clock.advance(Duration::from_millis(250));
        }
        one_tick(&callers, clock.now());
    }
}

/// What callgrind counts of [`ticks`].
#[inline(never)]
fn one_tick(callers: &Callers, now: Timestamp) {
    callers.tick(now);
}

/// Replays a log of fifty callers on ten routes, with five hundred lines a second and now and then an error.
fn replay(lines: usize) {
    let name = format!("callerid-instructions-{}.jsonl", std::process::id());
    let log = std::env::temp_dir().join(name);
    let mut text = String::new();
    for line in 0..lines {
        let (t, caller, route) = (line as f64 / 500.0, line * 7 % 50, line * 3 % 10);
        let status = if line % 97 == 0 { 422 } else { 200 };
        let latency = 3 + line * 31 % 40;
        let _ = writeln!(
            text,
            r#"{{"t": {t:.3}, "caller": "client-{caller}", "method": "GET", "route": "/v1/route-{route}", "status": {status}, "latency_ms": {latency}.5}}"#
        );
    }
    std::fs::write(&log, text).expect("a folder for temporary files");
    let requests = one_replay(&log);
    std::fs::remove_file(&log).expect("it was written");
    assert_eq!(requests, lines as u64);
}

/// What callgrind counts of [`replay`].
#[inline(never)]
fn one_replay(log: &Path) -> u64 {
    let outcome = Replay::default().run(log).expect("a log that can be read");
    outcome.lines()
}

/// Gives the table so many other callers, who take the rows.
fn fill(callers: &Callers, others: usize) {
    let mut service = on_tower(Kind::Callerid, callers);
    service.serve(&mut Requests::of("other", others), 10 * others);
}
