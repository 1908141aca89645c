//! Replays an access log on log time through the detector and writes what it says.
//!
//! `cargo run --release --example replay -- [--format auto|jsonl] [--deploys F.jsonl] [--events F.jsonl] LOG|-`
//!
//! A log knows of a request when it ends. So the time line is that of completions, and a slow request adds
//! all the time that it was in flight at its end.

use std::collections::{BinaryHeap, HashMap};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::time::Duration;

use callerid::detect::{
    CallerId, Detector, Event, Load, Observed, RouteDelta, Row, Surroundings, Tick,
};
use callerid::{Class, Provenance, Timestamp};
use serde_json::Value;

const TICK: Duration = Duration::from_millis(250);
/// Lines may be out of order by so much.
const REORDER: f64 = 5.0;
/// Callers beyond this many share one row.
const MOST_CALLERS: usize = 4096;
const MOST_ROUTES: usize = 1000;

struct Request {
    t: f64,
    caller: u32,
    route: u32,
    class: Class,
    duration: f32,
    new_name: bool,
}

/// Earliest first, in a heap that gives the greatest.
impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.t == other.t
    }
}
impl Eq for Request {}
impl PartialOrd for Request {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Request {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.t.total_cmp(&self.t)
    }
}

/// Names and their numbers, up to a bound.
struct Table {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
    most: usize,
}

impl Table {
    fn new(most: usize, first: &[&str]) -> Self {
        let names: Vec<String> = first.iter().map(|&s| s.to_owned()).collect();
        Self {
            numbers: (0..).zip(&names).map(|(i, n)| (n.clone(), i)).collect(),
            names,
            most,
        }
    }

    /// The number of a name, and whether the name is new; number 0 where the table is full.
    fn number(&mut self, name: &str) -> (u32, bool) {
        if let Some(&number) = self.numbers.get(name) {
            return (number, false);
        }
        if self.names.len() >= self.most {
            return (0, true);
        }
        let number = u32::try_from(self.names.len()).unwrap_or(0);
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        (number, true)
    }
}

fn class(status: u64) -> Class {
    match status {
        100..=399 => Class::Ok,
        400 | 422 => Class::Validation,
        401 | 403 | 407 => Class::Auth,
        404 | 410 => Class::NotFound,
        409 | 412 | 428 => Class::Conflict,
        429 => Class::Throttled,
        408 | 504 => Class::Timeout,
        499 => Class::Cancelled,
        400..=499 => Class::ClientError,
        502 | 503 => Class::Unavailable,
        _ => Class::ServerError,
    }
}

#[derive(Default)]
struct Row0 {
    active: bool,
    started: u32,
    new_names: u32,
    busy: f32,
    routes: Vec<RouteDelta>,
}

struct Replay {
    callers: Table,
    routes: Table,
    waiting: BinaryHeap<Request>,
    latest: f64,
    detector: Detector,
    deploys: std::iter::Peekable<std::vec::IntoIter<Announced>>,
    rows: Vec<Row0>,
    touched: Vec<u32>,
    next: Option<Timestamp>,
    events: Vec<Event>,
    out: Option<BufWriter<File>>,
    said: u64,
    lines: u64,
    bad: Vec<u64>,
}

fn at(t: f64) -> Timestamp {
    Timestamp::from_nanos((t.max(0.0) * 1e9) as u64)
}

impl Replay {
    fn line(&mut self, line: &str) -> std::io::Result<()> {
        self.lines += 1;
        if line.trim().is_empty() {
            return Ok(());
        }
        let Some(request) = self.parse(line) else {
            self.bad.push(self.lines);
            return Ok(());
        };
        self.latest = self.latest.max(request.t);
        self.waiting.push(request);
        while self
            .waiting
            .peek()
            .is_some_and(|r| r.t <= self.latest - REORDER)
        {
            if let Some(request) = self.waiting.pop() {
                self.request(&request)?;
            }
        }
        Ok(())
    }

    fn parse(&mut self, line: &str) -> Option<Request> {
        let value: Value = serde_json::from_str(line).ok()?;
        let t = value.get("t")?.as_f64().filter(|t| t.is_finite())?;
        let status = value.get("status")?.as_u64()?;
        let latency = value
            .get("latency_ms")
            .and_then(Value::as_f64)
            .unwrap_or(0.0);
        let caller = value
            .get("caller")
            .and_then(Value::as_str)
            .unwrap_or("unknown");
        let caller = if caller == "unknown" {
            "__unknown__"
        } else {
            caller
        };
        let (caller, new_name) = self.callers.number(caller);
        let method = value.get("method").and_then(Value::as_str).unwrap_or("GET");
        let route = value
            .get("route")
            .and_then(Value::as_str)
            .unwrap_or("unmatched");
        let (route, _) = self.routes.number(&format!("{method} {route}"));
        let duration = (latency / 1e3).clamp(0.0, 86_400.0) as f32;
        Some(Request {
            t,
            caller,
            route,
            class: class(status),
            duration,
            new_name,
        })
    }

    fn request(&mut self, request: &Request) -> std::io::Result<()> {
        let t = at(request.t);
        let next = *self.next.get_or_insert(t + TICK);
        if t >= next {
            self.tick(next)?;
            // Long silence in one step.
            let ticks = t.since(next).as_nanos() / TICK.as_nanos();
            self.next = Some(next + TICK * u32::try_from(ticks + 1).unwrap_or(u32::MAX));
        }
        let slot = request.caller as usize;
        if self.rows.len() <= slot {
            self.rows.resize_with(slot + 1, Row0::default);
        }
        let row = &mut self.rows[slot];
        if !row.active {
            row.active = true;
            self.touched.push(request.caller);
        }
        row.started += 1;
        row.new_names += u32::from(request.new_name && request.caller == 0);
        row.busy += request.duration;
        let index = request.class as usize;
        let place = row.routes.iter().position(|r| r.route == request.route);
        let place = place.unwrap_or_else(|| {
            row.routes.push(RouteDelta {
                route: request.route,
                ..RouteDelta::default()
            });
            row.routes.len() - 1
        });
        row.routes[place].by_class[index] += 1;
        row.routes[place].service_time += request.duration;
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) -> std::io::Result<()> {
        while let Some((t, caller, version)) = self.deploys.next_if(|d| at(d.0) <= now) {
            self.detector.deployed(&caller, &version, at(t));
        }
        let observed: Vec<Observed<'_>> = self
            .touched
            .iter()
            .map(|&slot| {
                let row = &self.rows[slot as usize];
                Observed {
                    id: CallerId {
                        slot,
                        generation: 0,
                    },
                    name: &self.callers.names[slot as usize],
                    provenance: if slot == 1 {
                        Provenance::Unknown
                    } else {
                        Provenance::Verified
                    },
                    row: match slot {
                        0 => Row::Other,
                        1 => Row::Unknown,
                        _ => Row::Caller,
                    },
                    started: row.started,
                    new_names: row.new_names,
                    in_flight: 0,
                    busy: row.busy,
                    routes: &row.routes,
                }
            })
            .collect();
        let tick = Tick {
            now,
            load: Load::default(),
            callers: &observed,
        };
        self.detector.tick(&tick, &mut self.events);
        for slot in self.touched.drain(..) {
            let row = &mut self.rows[slot as usize];
            row.active = false;
            row.started = 0;
            row.new_names = 0;
            row.busy = 0.0;
            row.routes.clear();
        }
        let routes = &self.routes.names;
        let around = Surroundings {
            service: "replay",
            instance: "log",
            route: &|id| routes.get(id as usize).map(String::as_str),
            people: &|_| (None, None),
        };
        for event in self.events.drain(..) {
            self.said += 1;
            if let Some(out) = &mut self.out {
                writeln!(out, "{}", event.to_json(&around))?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> std::io::Result<()> {
        while let Some(request) = self.waiting.pop() {
            self.request(&request)?;
        }
        if let Some(next) = self.next {
            self.tick(next.min(at(self.latest) + TICK))?;
        }
        if let Some(out) = &mut self.out {
            out.flush()?;
        }
        Ok(())
    }
}

/// When, who, and what version.
type Announced = (f64, String, String);

fn deploys(path: &str) -> Result<Vec<Announced>, Box<dyn Error>> {
    let mut found = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let Ok(value) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        let text = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        if let (Some(t), Some(caller), Some(version)) = (
            value.get("t").and_then(Value::as_f64),
            text("caller"),
            text("version"),
        ) {
            found.push((t, caller, version));
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(found)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut log, mut announced, mut out) = (None, Vec::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--format" => match value()?.as_str() {
                "auto" | "jsonl" => {}
                other => return Err(format!("format {other:?} is not known").into()),
            },
            "--deploys" => announced = deploys(&value()?)?,
            "--events" => out = Some(BufWriter::new(File::create(value()?)?)),
            flag if flag.starts_with("--") => return Err(format!("{flag} is not known").into()),
            _ => log = Some(arg),
        }
    }
    let log = log.ok_or("which log? give a file, or - for standard input")?;
    let mut input: Box<dyn BufRead> = if log == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(1 << 20, File::open(log)?))
    };
    let mut replay = Replay {
        callers: Table::new(MOST_CALLERS, &["__other__", "__unknown__"]),
        routes: Table::new(MOST_ROUTES, &["__other__"]),
        waiting: BinaryHeap::new(),
        latest: f64::NEG_INFINITY,
        detector: Detector::new(),
        deploys: announced.into_iter().peekable(),
        rows: Vec::new(),
        touched: Vec::new(),
        next: None,
        events: Vec::new(),
        out,
        said: 0,
        lines: 0,
        bad: Vec::new(),
    };
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        replay.line(line.trim_end())?;
        line.clear();
    }
    replay.finish()?;
    let bad = replay.bad.len() as u64;
    println!(
        "{} lines, {bad} bad, {} callers, {} events",
        replay.lines,
        replay.callers.names.len() - 2,
        replay.said
    );
    if bad > 0 {
        let first: Vec<String> = replay.bad.iter().take(10).map(u64::to_string).collect();
        println!("bad lines: {}", first.join(", "));
        if bad == replay.lines {
            return Err("no line could be read".into());
        }
    }
    Ok(())
}
