//! What the replay promises to those who run it over their logs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod programs;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use callerid::replay::{Format, Replay};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("callerid-replay-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| programs::build("replay"))
}

fn replay(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a run over a log that is all right prints.
fn good(args: &[&str]) -> String {
    let ended = replay(args);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    text(&ended.stdout)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn line(t: f64, caller: &str, status: u16) -> String {
    format!(
        "{{\"t\": {t}, \"caller\": \"{caller}\", \"method\": \"GET\", \"route\": \"/v1/{{id}}\", \"status\": {status}, \"latency_ms\": 20}}\n"
    )
}

/// Twenty minutes of four calm callers, one of which sends ten times as much from `at` on.
fn outage(origin: f64, at: u32, last: u32) -> String {
    let mut log = String::new();
    for second in 0..last {
        for (place, caller) in ["ada", "bob", "cid", "checkout"].iter().enumerate() {
            let many = if *caller == "checkout" && second >= at {
                80
            } else {
                8
            };
            for step in 0..many {
                let within = (f64::from(step) + 0.1 * place as f64) / f64::from(many);
                let status = if step % 20 == 19 { 503 } else { 200 };
                log.push_str(&line(origin + f64::from(second) + within, caller, status));
            }
        }
    }
    log
}

fn events(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_kind<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events
        .iter()
        .filter(|event| event["kind"] == kind)
        .collect()
}

#[test]
fn who_ran_away_is_said_with_every_field_and_its_deploy_and_in_the_report() {
    let folder = Folder::new("outage");
    let log = folder.file("log.jsonl", outage(0.0, 900, 1_200));
    let deploys = "{\"t\": 896.0, \"caller\": \"checkout\", \"version\": \"v42\"}\n";
    let deploys = folder.file("deploys.jsonl", deploys);
    let (out, report) = (folder.path("events.jsonl"), folder.path("report.md"));
    let said = good(&[
        "--deploys",
        &deploys,
        "--events",
        &out,
        "--report",
        &report,
        &log,
    ]);
    assert!(
        said.contains("runaway: checkout, on GET /v1/{id}"),
        "{said}"
    );
    assert!(said.contains("after its deploy of v42"), "{said}");

    let events = events(&out);
    let [started] = of_kind(&events, "runaway_started")[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(started["caller"], "checkout");
    assert_eq!(started["signal"], "rate");
    assert_eq!(started["deploy"]["version"], "v42");
    assert_eq!(started["route"], "GET /v1/{id}");
    assert_eq!(started["pattern"], Value::Null, "a log has no keys");
    let t = started["t"].as_f64().unwrap();
    assert!((900.0..930.0).contains(&t), "{t}");
    for field in [
        "v",
        "id",
        "t",
        "kind",
        "service",
        "instance",
        "caller",
        "provenance",
        "owner",
        "contact",
        "signal",
        "route",
        "class",
        "factor",
        "baseline",
        "observed",
        "share_of_rise",
        "harm",
        "pattern",
        "deploy",
        "since",
    ] {
        assert!(started.get(field).is_some(), "{field}");
    }
    assert_eq!(of_kind(&events, "pin").len(), 1);
    assert!(
        of_kind(&events, "ours").is_empty(),
        "the log tells of no start"
    );

    let report = fs::read_to_string(report).unwrap();
    for part in [
        "## Callers",
        "| checkout |",
        "## Runaway of checkout",
        "### Timeline",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

#[test]
fn a_log_from_before_its_origin_says_the_same_at_its_own_time() {
    let folder = Folder::new("origin");
    let run = |origin: f64| {
        let log = folder.file("log.jsonl", outage(origin, 700, 900));
        let deploys = format!(
            "{{\"t\": {}, \"caller\": \"checkout\", \"version\": \"v42\"}}\n",
            origin + 696.0
        );
        let out = folder.path("events.jsonl");
        good(&[
            "--deploys",
            &folder.file("deploys.jsonl", deploys),
            "--events",
            &out,
            &log,
        ]);
        let mut said = events(&out);
        for event in &mut said {
            event["id"].take();
            for place in ["/t", "/at", "/since", "/deploy/t"] {
                if let Some(t) = event.pointer_mut(place).filter(|t| t.is_number()) {
                    *t = Value::from(((t.as_f64().unwrap() - origin) * 1e3).round() as i64);
                }
            }
        }
        said
    };
    let said = run(0.0);
    assert_eq!(of_kind(&said, "runaway_started").len(), 1);
    assert_eq!(run(-800.0), said);
    assert_eq!(run(-1e6), said);
}

#[test]
fn the_same_log_gives_the_same_bytes_and_its_first_part_the_same_first_events() {
    let folder = Folder::new("causal");
    let whole = outage(1_700_000_000.25, 700, 900);
    // In the middle of a line; what is left of it is a bad line.
    let cut = whole.len() * 9 / 10;
    let log = folder.file("whole.jsonl", &whole);
    let part = folder.file("part.jsonl", &whole[..cut]);
    let run = |log: &str, out: &str| {
        good(&["--events", out, log]);
        fs::read_to_string(out).unwrap()
    };
    let first = run(&log, &folder.path("a"));
    assert_eq!(first, run(&log, &folder.path("b")));
    let part = run(&part, &folder.path("c"));
    assert!(
        !part.is_empty() && first.starts_with(&part),
        "{part}\n{first}"
    );
}

#[test]
fn formats_are_told_apart_and_packed_logs_unpacked() {
    let folder = Folder::new("formats");
    let request = "[22/Nov/2026:10:00:00 +0000] \"GET /a/7?x=1 HTTP/1.1\" 200 12";
    let combined = format!(
        "198.18.0.1 - - {request} \"-\" \"curl\"\n2001:db8::1 - anna {request} \"-\" \"curl\"\n- - - {request}\n"
    );
    let json = line(1.0, "checkout", 200) + &line(1.0, "unknown", 200);
    let expected = [
        (&combined, ["198.18.0.1", "anna", "__unknown__"].as_slice()),
        (&json, &["checkout", "__unknown__"]),
    ];
    for (log, callers) in expected {
        let plain = folder.file("log", log);
        let packed = folder.file("log.gz", gzip(log.as_bytes()));
        for path in [&plain, &packed] {
            let said = good(&[path]);
            let rows: Vec<_> = said.lines().filter(|row| row.contains("0.0 %")).collect();
            assert_eq!(rows.len(), callers.len(), "{said}");
            for caller in callers {
                let known = |row: &&str| {
                    row.split_whitespace().eq([*caller, "1", "0.0", "%", "-"])
                        || row.starts_with(caller)
                };
                assert!(rows.iter().any(known), "{caller}: {said}");
            }
        }
    }
    let forced = folder.file("forced", &json);
    let ended = replay(&["--format", "combined", &forced]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).starts_with("no line could be read\nline 1: "));
}

#[test]
fn a_log_that_breaks_off_is_told_up_to_there_and_fails() {
    let folder = Folder::new("cut");
    let log = outage(0.0, 700, 800);
    let mut packed = gzip(log.as_bytes());
    packed.truncate(packed.len() * 9 / 10);
    let ended = replay(&[&folder.file("log.gz", &packed)]);
    assert_eq!(ended.status.code(), Some(1));
    let said = text(&ended.stdout);
    assert!(
        said.lines().next().unwrap().contains("breaks off"),
        "{said}"
    );
    assert!(
        said.contains("runaway: checkout, on "),
        "the runaway before the cut: {said}"
    );
    // Of nothing there is nothing to tell.
    packed.truncate(12);
    let ended = replay(&[&folder.file("head.gz", &packed)]);
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(text(&ended.stdout), "");
    assert!(text(&ended.stderr).contains("head.gz: "));
}

#[test]
fn standard_input_is_read_packed_or_not() {
    let log = line(1.0, "ada", 200);
    for bytes in [log.clone().into_bytes(), gzip(log.as_bytes())] {
        let mut command = Command::new(binary());
        let command = command
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut running = command.spawn().unwrap();
        running.stdin.take().unwrap().write_all(&bytes).unwrap();
        let ended = running.wait_with_output().unwrap();
        assert!(ended.status.success());
        assert!(text(&ended.stdout).starts_with("1 lines, 0 bad, 1 callers, 0 events"));
    }
}

#[test]
fn bad_lines_are_counted_and_shown_and_are_fatal_only_where_all_are() {
    let folder = Folder::new("bad");
    let long = "x".repeat(3 << 20);
    let log = format!(
        "{}hello\n\n{{\"t\": 1}}\n{long}\n{}",
        line(1.0, "ada", 200),
        line(2.0, "ada", 500)
    );
    let said = good(&[&folder.file("log", log)]);
    assert!(said.starts_with("6 lines, 3 bad, 1 callers, "), "{said}");
    for number in [2, 4, 5] {
        assert!(said.contains(&format!("  line {number}: ")), "{said}");
    }
    assert!(said.contains("50.0 %"), "{said}");
    let ended = replay(&[&folder.file("all", "a\nb\n")]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("line 2: "));
    assert!(good(&[&folder.file("empty", "")]).starts_with("0 lines"));
}

#[test]
fn lines_out_of_order_say_the_same_as_in_order() {
    let folder = Folder::new("order");
    let log = outage(0.0, 700, 800);
    let lines: Vec<_> = log.lines().collect();
    // Blocks of about four seconds, each backwards.
    let shuffled = lines.chunks(128).flat_map(|block| block.iter().rev());
    let shuffled: Vec<_> = shuffled.copied().collect();
    let run = |name: &str, lines: &[&str]| {
        let out = folder.path(&format!("{name}.events"));
        good(&["--events", &out, &folder.file(name, lines.join("\n"))]);
        fs::read_to_string(out).unwrap()
    };
    let in_order = run("straight", &lines);
    assert!(in_order.contains("runaway_started"));
    // Requests of the same instant keep the order of their lines: times of this log differ.
    assert_eq!(run("shuffled", &shuffled), in_order);
}

#[test]
fn a_long_silence_costs_little_and_blames_nobody() {
    let folder = Folder::new("gap");
    let (before, after) = (outage(0.0, 9_999, 700), outage(4_300.0, 9_999, 300));
    let year = line(40_000_000.0, "ada", 200);
    let log = folder.file("log", before + &after + &year);
    let out = folder.path("events");
    let said = good(&["--events", &out, &log]);
    assert!(said.contains("nobody"), "{said}");
    assert_eq!(events(&out), Vec::<Value>::new());
}

#[test]
fn limits_are_tried_in_shadow_and_their_errors_are_said_together() {
    let folder = Folder::new("config");
    let log = folder.file("log", outage(0.0, 20, 30));
    let config = "mode = \"enforce\"\n[caller.checkout]\nquota = \"10/s\"\nburst = 10\n\
                  owner = \"Payments\"\n[caller.bob]\nblock = true\n";
    let config = folder.file("callerid.toml", config);
    let said = good(&["--config", &config, &log]);
    let (_, refused) = said.split_once("What limits would have refused:").unwrap();
    assert!(refused.contains("  bob: 240 (100.0 %), blocked"), "{said}");
    // 800 in ten seconds, of which 10/s are let through, and the burst.
    let count = refused.split("checkout: ").nth(1).unwrap();
    let count: u32 = count.split(' ').next().unwrap().parse().unwrap();
    assert!((680..=700).contains(&count), "{said}");
    assert!(!refused.contains("ada"), "{said}");
    assert!(said.contains("240    0.0 %"), "bob was served: {said}");

    let wrong = "[default]\nquota = \"10/fortnight\"\nmax_in_flight = \"x\"\n";
    let ended = replay(&["--config", &folder.file("wrong.toml", wrong), &log]);
    assert_eq!(ended.status.code(), Some(1));
    let stderr = text(&ended.stderr);
    assert!(
        stderr.contains("default.quota") && stderr.contains("default.max_in_flight"),
        "{stderr}"
    );
    assert!(ended.stdout.is_empty());
}

#[test]
fn quotas_of_a_fleet_are_tried_alone() {
    let folder = Folder::new("fleet");
    let config = "[default]\nquota = \"1/s\"\nscope = \"fleet\"\n[fleet]\nnamespace = \"n\"\nredis = \"redis://127.0.0.1:1\"\n";
    let config = folder.file("callerid.toml", config);
    let said = good(&[
        "--config",
        &config,
        &folder.file("log", outage(0.0, 99, 10)),
    ]);
    assert!(said.contains("quota") && said.contains("ada: "), "{said}");
}

#[test]
fn a_bad_argument_or_file_is_said() {
    let folder = Folder::new("arguments");
    let log = folder.file("log", line(1.0, "a", 200));
    let missing = folder.path("missing");
    for (args, code, said) in [
        (&["--bogus"][..], 2, "unknown argument \"--bogus\""),
        (&[], 2, "which log?"),
        (&["--format"], 2, "--format needs a value"),
        (&["--format", "xml", &log], 2, "is no format"),
        (&[&log, &log], 2, "one log at a time"),
        (&[&missing], 1, "missing: "),
        (&["--config", &missing, &log], 1, "missing: "),
        (&["--deploys", &log, &log], 1, "line 1: "),
        (&["--events", "/nowhere/x", &log], 1, "/nowhere/x: "),
    ] {
        let ended = replay(args);
        let stderr = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    assert!(good(&["--help"]).contains("--report"));
    // A path need not be text; a flag does.
    let strange = Path::new(&folder.path("log-")).with_extension(OsStr::from_bytes(b"\xff"));
    fs::copy(&log, &strange).unwrap();
    let run = |args: &[&OsStr]| Command::new(binary()).args(args).output().unwrap();
    let ended = run(&[strange.as_os_str()]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let ended = run(&[OsStr::from_bytes(b"--config=\xff"), strange.as_os_str()]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        text(&ended.stderr).contains("not UTF-8"),
        "{}",
        text(&ended.stderr)
    );
}

/// A real log where there is one beside the project, else one like it: many clients, few requests of each, bursts.
fn access_log(folder: &Folder) -> String {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/apache_combined.log.gz");
    if real.exists() {
        return real.display().to_string();
    }
    let mut log = String::new();
    let mut random = 1_u64;
    for hour in 0..24 {
        for number in 0..120_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(number);
            let client = (random >> 40) % 400;
            let second = number / 2;
            let _ = writeln!(
                log,
                "198.18.{}.{} - - [17/May/2015:{hour:02}:05:{second:02} +0000] \"GET /blog/{client} HTTP/1.1\" 200 1 \"-\" \"-\"",
                client / 250,
                client % 250,
            );
        }
    }
    folder.file("access.log.gz", gzip(log.as_bytes()))
}

#[test]
fn nobody_is_woken_by_the_log_of_a_web_site() {
    let folder = Folder::new("real");
    let mut replay = Replay::default();
    replay.format = Format::Combined;
    let outcome = replay.run(access_log(&folder)).unwrap();
    assert_eq!(outcome.bad_lines().0, 0);
    for episode in outcome.episodes() {
        assert!(!episode.finding.pages(), "{episode:#?}");
    }
    assert!(outcome.episodes().len() <= 4, "{outcome}");
}
