//! Events with harm reach people: a real Alertmanager, and a webhook, over real sockets.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../examples/notify/pager.rs"]
mod pager;
mod programs;
#[path = "support/mod.rs"]
mod support;
#[path = "live/world.rs"]
#[allow(dead_code, reason = "this binary uses its part")]
mod world;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use callerid::Ceiling;
use callerid::events::{Body, Event, Finding, Kind};
use programs::{DEADLINE, Running, call, demo, until};
use serde_json::{Value, json};
use world::{Load, TICK, World};

const WARM: Duration = Duration::from_secs(900);

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// What takes pages, and tells of them in the order in which they came.
struct Pages {
    address: SocketAddr,
    told: Receiver<Value>,
}

impl Pages {
    fn listen() -> Self {
        Self::refusing(&[])
    }

    /// Answers the first requests with these, and all others with 200.
    fn refusing(statuses: &'static [u16]) -> Self {
        let mut statuses = statuses.iter();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let line = line.trim().to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = statuses.next().unwrap_or(&200);
                let answer = format!(
                    "HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                );
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
                let mut page: Value = serde_json::from_slice(&body).unwrap();
                page["received"] = now().into();
                if tell.send(page).is_err() {
                    return;
                }
            }
        });
        Self { address, told }
    }

    fn next(&self) -> Value {
        self.told.recv_timeout(DEADLINE).expect("a page comes")
    }

    fn nothing_waits(&self) {
        assert_eq!(
            self.told.try_iter().collect::<Vec<_>>(),
            Vec::<Value>::new()
        );
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Debian's Alertmanager with the configuration that we ship, which pages `pages`.
fn alertmanager(address: SocketAddr, pages: &Pages) -> Running {
    alertmanager_with(address, pages, |config| {
        config.replace("group_interval: 30s", "group_interval: 1s")
    })
}

fn alertmanager_with(
    address: SocketAddr,
    pages: &Pages,
    change: impl FnOnce(String) -> String,
) -> Running {
    let shipped =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring/alertmanager.yml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let url = format!("http://{}/page", pages.address);
    let config = shipped.replace("http://127.0.0.1:8080/page", &url);
    assert_ne!(config, shipped);
    let config = change(config);
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("alertmanager-{}", address.port()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("alertmanager.yml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("prometheus-alertmanager");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--cluster.listen-address=");
    let installed = Command::new("prometheus-alertmanager")
        .arg("--version")
        .output();
    assert!(
        installed.is_ok(),
        "`prometheus-alertmanager` is not installed: this test needs a real one; run tests/run, which installs it, \
         or `apt-get install prometheus-alertmanager`"
    );
    let running = Running::start(&mut command);
    until("Alertmanager listens", || {
        std::net::TcpStream::connect(address).ok()
    });
    running
}

/// Impatient, so that a test sees it try and repeat.
fn settings(alertmanager: SocketAddr, webhook: &Pages) -> pager::Settings {
    pager::Settings {
        alertmanager: Some(
            format!("http://{alertmanager}/api/v2/alerts")
                .parse()
                .unwrap(),
        ),
        webhook: Some(format!("http://{}/hook", webhook.address).parse().unwrap()),
        repeat: Duration::from_millis(500),
        linger: Duration::ZERO,
        backoff: (Duration::from_millis(50), Duration::from_millis(200)),
        ..pager::Settings::default()
    }
}

#[test]
fn a_receiver_that_the_client_cannot_speak_to_is_no_address() {
    for wrong in ["https://hooks.example/page", "/page", "hooks.example", ""] {
        let problem = pager::receiver(wrong).unwrap_err();
        assert!(problem.contains("plain HTTP"), "{problem}");
    }
    assert!(pager::receiver("http://127.0.0.1:9093/page").is_ok());
}

fn world() -> World {
    let mut world = World::new(|builder| builder.ceiling(Ceiling::new(30)));
    world.run(WARM);
    world
}

fn flood(caller: &str) -> Load {
    Load {
        route: "/v1/orders",
        status: 422,
        latency: Duration::from_millis(300),
        ..Load::new(caller, 100.0)
    }
}

fn pages(event: &Event) -> bool {
    event.finding().is_some_and(Finding::pages)
}

/// Lets the world run until one more event is worth waking somebody, at the most a minute; says for how long.
fn until_it_pages(world: &mut World) -> Duration {
    let before = world.table.callers.events().len();
    for ticks in 1..240 {
        world.run(TICK);
        let events = world.table.callers.events();
        if events[before..].iter().any(|event| pages(event)) {
            return TICK * ticks;
        }
    }
    panic!("nobody is paged within a minute");
}

fn labels(page: &Value) -> Vec<&str> {
    let of = |name: &str| {
        page["alerts"][0]["labels"][name]
            .as_str()
            .unwrap_or_default()
    };
    [
        "alertname",
        "service",
        "caller",
        "owner",
        "contact",
        "severity",
    ]
    .map(of)
    .to_vec()
}

/// However many signals an outage has, it is told once and resolved once.
fn one_beginning_and_one_end(hook: &Pages) {
    let (begin, end) = (hook.next(), hook.next());
    assert_eq!(begin["status"], "firing", "{begin}");
    assert_eq!(
        (&end["status"], &end["id"]),
        (&"resolved".into(), &begin["id"]),
        "{end}"
    );
    let signals = end["signals"].as_array().unwrap();
    assert!(signals.len() > 1, "it had one signal only: {end}");
}

#[test]
fn an_episode_is_one_page_and_is_resolved_when_it_ends() {
    let (hook, paged) = (Pages::listen(), Pages::listen());
    let address = free();
    let _alertmanager = alertmanager(address, &paged);
    // From the beginning: in fifteen calm minutes nobody is woken, or the first page would not be the outage's.
    let mut world = World::new(|builder| builder.ceiling(Ceiling::new(30)));
    let pager = pager::start(world.table.callers.subscribe(), settings(address, &hook)).unwrap();
    world.run(WARM);
    let calm = world.loads.clone();
    let mut delays = Vec::new();
    for _ in 0..5 {
        world.loads.push(flood("checkout"));
        let found = until_it_pages(&mut world);
        let said = Instant::now();
        let page = paged.next();
        let delay = (found + said.elapsed()).as_secs_f64();
        delays.push(delay);
        assert_eq!(page["status"], "firing", "{page}");
        let expected = ["CalleridRunaway", "prices", "checkout"];
        assert_eq!(labels(&page)[..3], expected, "{page}");
        assert_eq!(
            labels(&page)[3..],
            ["Payments", "#payments-oncall", "page"],
            "{page}"
        );
        // More is said of it while it lasts, which is no page more.
        world.run(Duration::from_secs(10));
        world.loads.clone_from(&calm);
        until("everything has ended", || {
            world.run(Duration::from_secs(20));
            world.table.callers.open_episodes().is_empty().then_some(())
        });
        one_beginning_and_one_end(&hook);
        // To Alertmanager it is one alert, whatever it says of it.
        let last = paged.next();
        assert_eq!(last["status"], "resolved", "{last}");
        assert_eq!(last["groupKey"], page["groupKey"]);
        assert_eq!(last["alerts"].as_array().unwrap().len(), 1, "{last}");
        world.run(Duration::from_secs(300));
    }
    drop(world);
    pager.join().unwrap();
    hook.nothing_waits();
    paged.nothing_waits();
    delays.sort_by(f64::total_cmp);
    println!(
        "onset to received by Alertmanager's receiver, 5 outages: p50 {:.2} s, max {:.2} s",
        delays[2], delays[4]
    );
}

#[test]
fn an_alertmanager_that_comes_late_is_told_what_is_open_and_again_until_it_is_in_hand() {
    let (hook, paged) = (Pages::listen(), Pages::listen());
    let address = free();
    let mut world = world();
    let pager = pager::start(world.table.callers.subscribe(), settings(address, &hook)).unwrap();
    world.loads.push(flood("checkout"));
    until_it_pages(&mut world);
    // One receiver that is away keeps nothing from the other.
    let note = hook.next();
    assert_eq!(note["status"], "firing");
    let _alertmanager = alertmanager(address, &paged);
    assert_eq!(paged.next()["status"], "firing");
    let end = || {
        let answer = call(address, "GET", "/api/v2/alerts", &[], "");
        let alerts: Value = serde_json::from_str(&answer.body).unwrap();
        alerts[0]["endsAt"].as_str().unwrap_or_default().to_owned()
    };
    let first = end();
    until(
        "it is told again, before it takes the page for over",
        || (end() > first).then_some(()),
    );
    let callers = world.table.callers.on_behalf_of("anna");
    for open in callers.open_episodes() {
        assert!(callers.ack(&open.id));
    }
    let mut last = Value::Null;
    while last["status"] != "resolved" {
        last = paged.next();
    }
    let mut end = Value::Null;
    while end["status"] != "resolved" {
        end = hook.next();
    }
    assert_eq!(end["event"]["acknowledged_by"], "anna");
    drop(callers);
    drop(world);
    pager.join().unwrap();
}

#[test]
fn what_was_announced_and_what_does_no_harm_wakes_nobody() {
    let (hook, paged) = (Pages::listen(), Pages::listen());
    let address = free();
    let _alertmanager = alertmanager(address, &paged);
    let mut world = world();
    let pager = pager::start(world.table.callers.subscribe(), settings(address, &hook)).unwrap();
    let calm = world.loads.clone();
    // Four times as much of one caller, which the service carries with ease.
    world.loads.push(Load::new("crm", 4.0));
    world.run(Duration::from_secs(60));
    world
        .table
        .callers
        .expect("checkout", 1_000.0, Duration::from_secs(600));
    let test = Load {
        latency: Duration::from_millis(300),
        ..Load::new("checkout", 100.0)
    };
    world.loads.push(test);
    world.run(Duration::from_secs(60));
    let said = world.table.callers.events();
    let expected = said.iter().filter_map(|event| event.finding());
    assert!(expected.clone().any(|finding| finding.expected));
    world.loads = calm;
    world.run(Duration::from_secs(300));
    world.loads.push(flood("search"));
    until_it_pages(&mut world);
    assert_eq!(labels(&paged.next())[2], "search");
    assert_eq!(hook.next()["event"]["caller"], "search");
    drop(world);
    pager.join().unwrap();
}

#[test]
fn what_a_receiver_may_yet_take_is_sent_again_and_what_it_never_will_is_not() {
    let hook = Pages::refusing(&[401, 403, 404, 408, 429, 503, 400]);
    let mut world = world();
    let settings = pager::Settings {
        alertmanager: None,
        ..settings(free(), &hook)
    };
    let pager = pager::start(world.table.callers.subscribe(), settings).unwrap();
    let calm = world.loads.clone();
    world.loads.push(flood("checkout"));
    until_it_pages(&mut world);
    let tried: Vec<_> = (0..7).map(|_| hook.next()).collect();
    for note in &tried {
        assert_eq!(
            (&note["status"], &note["id"]),
            (&"firing".into(), &tried[0]["id"])
        );
    }
    // The last of them was answered with 400: next is the end, not the beginning again.
    world.loads = calm;
    until("everything has ended", || {
        world.run(Duration::from_secs(20));
        world.table.callers.open_episodes().is_empty().then_some(())
    });
    assert_eq!(hook.next()["status"], "resolved");
    drop(world);
    pager.join().unwrap();
    hook.nothing_waits();
}

#[test]
fn pages_that_are_over_leave_room_for_others() {
    let mut world = world();
    world.loads.push(flood("checkout"));
    until_it_pages(&mut world);
    let said = world.table.callers.events();
    let real = said.iter().find(|event| pages(event)).unwrap();
    let event = |kind: Kind, number: usize| {
        let mut event = Event::clone(real);
        event.kind = kind;
        event.id = format!("prices/a/{number}").into();
        if let Body::Finding(finding) = &mut event.body {
            finding.caller = Some(format!("caller-{number}").into());
        }
        Arc::new(event)
    };
    let mut open = pager::Pages::default();
    let mut hear = |kind, number| open.hear(&event(kind, number), SystemTime::now());
    for number in 0..pager::MOST {
        assert!(hear(Kind::RunawayStarted, number));
        assert!(hear(Kind::RunawayEnded, number));
    }
    for number in pager::MOST..2 * pager::MOST {
        assert!(
            hear(Kind::RunawayStarted, number),
            "{number} finds no room behind pages that are over"
        );
    }
    assert!(
        !hear(Kind::RunawayStarted, 2 * pager::MOST),
        "what is open is bounded"
    );
}

/// What the rules of Prometheus say of an outage, as it posts it.
fn rules_say(alertmanager: SocketAddr, alert: &str, job: &str, caller: &str) {
    let alert = json!([{
        "labels": {"alertname": alert, "severity": "page", "job": job, "caller": caller},
    }]);
    let head = [("content-type", "application/json")];
    let answer = call(
        alertmanager,
        "POST",
        "/api/v2/alerts",
        &head,
        &alert.to_string(),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// What Alertmanager makes of the alert that the rules posted.
fn state_of(alertmanager: SocketAddr, alert: &str, caller: &str) -> Option<Value> {
    let answer = call(alertmanager, "GET", "/api/v2/alerts", &[], "");
    let alerts: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
    let mut found = alerts.into_iter().filter(|of| {
        of["labels"]["alertname"] == alert
            && of["labels"]["caller"] == caller
            && of["status"]["state"] != "unprocessed"
    });
    found.next().map(|of| of["status"]["state"].clone())
}

#[test]
fn an_outage_of_which_events_and_rules_tell_is_one_page() {
    let (hook, paged) = (Pages::listen(), Pages::listen());
    let address = free();
    let _alertmanager = alertmanager(address, &paged);
    let mut world = world();
    let linger = Duration::from_secs(600);
    let settings = pager::Settings {
        linger,
        ..settings(address, &hook)
    };
    let pager = pager::start(world.table.callers.subscribe(), settings).unwrap();
    let calm = world.loads.clone();
    world.loads.push(flood("checkout"));
    until_it_pages(&mut world);
    assert_eq!(
        labels(&paged.next())[..3],
        ["CalleridRunaway", "prices", "checkout"]
    );
    let fleet = "CalleridRunawayFleet";
    rules_say(address, fleet, "prices", "checkout");
    rules_say(address, fleet, "prices", "search");
    // Of one of them nobody had heard.
    assert_eq!(labels(&paged.next())[2], "search");
    until("the other is kept quiet", || {
        (state_of(address, fleet, "checkout")? == "suppressed").then_some(())
    });
    // The service has calmed down, which the rules have not heard yet.
    world.loads = calm;
    until("everything has ended", || {
        world.run(Duration::from_secs(20));
        world.table.callers.open_episodes().is_empty().then_some(())
    });
    while hook.next()["status"] != "resolved" {}
    let ends = until("Alertmanager has heard of the end", || {
        let answer = call(address, "GET", "/api/v2/alerts", &[], "");
        let alerts: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
        let event = alerts
            .iter()
            .find(|of| of["labels"]["alertname"] == "CalleridRunaway")?;
        let ends = humantime::parse_rfc3339(event["endsAt"].as_str().unwrap()).unwrap();
        let left = ends.duration_since(SystemTime::now()).unwrap();
        (left > linger / 2).then_some(left)
    });
    assert!(ends <= linger, "{ends:?}");
    assert_eq!(state_of(address, fleet, "checkout").unwrap(), "suppressed");
    drop(world);
    pager.join().unwrap();
    paged.nothing_waits();
}

fn notify(args: &[&OsStr]) -> Output {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let binary = BINARY.get_or_init(|| programs::build("notify"));
    Command::new(binary).args(args).output().unwrap()
}

#[test]
fn the_pager_says_how_it_is_used() {
    for help in ["--help", "-h"] {
        let said = notify(&[OsStr::new(help)]);
        assert!(said.status.success());
        assert!(String::from_utf8_lossy(&said.stdout).starts_with("usage: notify"));
    }
    for (args, problem) in [
        (&[][..], "neither"),
        (
            &[OsStr::new("--listen"), OsStr::new("127.0.0.1:0")],
            "neither",
        ),
        (&[OsStr::new("--loud")], "unknown argument \"--loud\""),
        (&[OsStr::new("--webhook")], "--webhook needs a value"),
        (
            &[OsStr::new("--webhook"), OsStr::new("https://x")],
            "plain HTTP",
        ),
        (&[OsStr::from_bytes(b"\xff")], "UTF-8"),
    ] {
        let said = notify(args);
        assert_eq!(said.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.contains(problem) && said.contains("usage: notify"),
            "{said}"
        );
    }
}

/// When the outages of a demo began, by its own word, and what woke whom when.
struct Outages {
    onsets: Vec<f64>,
    hook: Vec<Value>,
    paged: Vec<Value>,
}

/// Runs the demo as a reader of the README does, until its second outage was paged.
fn two_outages_of_the_demo() -> Outages {
    let (hook, paged) = (Pages::listen(), Pages::listen());
    let address = free();
    let _alertmanager = alertmanager_with(address, &paged, |shipped| shipped);
    let demo = Running::start(
        demo()
            .args(["--listen", "127.0.0.1:0"])
            .arg(format!("--alertmanager=http://{address}"))
            .arg(format!("--webhook=http://{}/hook", hook.address)),
    );
    let began = Instant::now();
    let mut seen = Outages {
        onsets: Vec::new(),
        hook: Vec::new(),
        paged: Vec::new(),
    };
    // Glances come every few seconds, so there is always a line to wait for.
    while seen.of_outage(1, &seen.hook).is_empty() {
        assert!(
            began.elapsed() < Duration::from_secs(300),
            "two outages of {:?} are not paged: {:#?}",
            seen.onsets,
            seen.hook
        );
        let line = demo.line().expect("the demo goes on");
        let onset = line
            .strip_prefix("== [")
            .and_then(|line| line.split(']').next());
        seen.onsets.extend(onset.map(|t| t.parse::<f64>().unwrap()));
        seen.hook.extend(hook.told.try_iter());
        seen.paged.extend(paged.told.try_iter());
    }
    seen
}

impl Outages {
    /// The pages whose change began in an outage, not before.
    fn of_outage<'p>(&self, nth: usize, pages: &'p [Value]) -> Vec<&'p Value> {
        let Some(&onset) = self.onsets.get(nth) else {
            return Vec::new();
        };
        let next = self.onsets.get(nth + 1).copied().unwrap_or(f64::MAX);
        let began = |page: &Value| {
            let hooked = page["event"]["since"].as_f64();
            let alert = page["alerts"][0]["startsAt"].as_str();
            let alert = alert.map(|t| humantime::parse_rfc3339(t).unwrap());
            let alert = alert.map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap());
            hooked.or(alert.map(|t| t.as_secs_f64())).unwrap()
        };
        // What is detected is dated by tenths of a second.
        let in_it = |page: &&Value| (onset - 1.0..next - 1.0).contains(&began(page));
        pages.iter().filter(in_it).collect()
    }
}

#[test]
fn an_outage_of_the_demo_is_one_page_within_seconds_and_its_calm_is_none() {
    let demos: Vec<_> = (0..3)
        .map(|_| std::thread::spawn(two_outages_of_the_demo))
        .collect();
    let (mut hooked, mut alerted) = (Vec::new(), Vec::new());
    for demo in demos {
        let seen = demo.join().unwrap();
        let [first, second, ..] = seen.onsets[..] else {
            panic!("two outages have begun: {:?}", seen.onsets)
        };
        for pages in [&seen.hook, &seen.paged] {
            let received = |page: &Value| page["received"].as_f64().unwrap();
            let calm = pages.iter().filter(|page| received(page) < first);
            assert_eq!(calm.count(), 0, "paged on a calm day: {pages:#?}");
        }
        // However many signals tell of it, whoever is paged hears of the outage once.
        let firing: Vec<_> = seen
            .hook
            .iter()
            .filter(|note| note["status"] == "firing")
            .collect();
        for note in &firing {
            assert_eq!(note["event"]["caller"], "checkout", "{note}");
        }
        let outages = [0, 1].map(|nth| {
            seen.of_outage(nth, &seen.hook)
                .into_iter()
                .filter(|note| note["status"] == "firing")
                .count()
        });
        assert_eq!((outages, firing.len()), ([1, 1], 2), "{firing:#?}");
        let firing = |page: &&&Value| {
            page["status"] == "firing" && {
                let t = page["received"].as_f64().unwrap();
                (first..second).contains(&t)
            }
        };
        let of_first = seen.of_outage(0, &seen.paged);
        assert_eq!(of_first.iter().filter(firing).count(), 1, "{of_first:#?}");
        let delay = |pages: &[&Value], onset: f64| {
            let first = pages.iter().map(|page| page["received"].as_f64().unwrap());
            first.fold(f64::MAX, f64::min) - onset
        };
        println!(
            "one page for each of two outages, none on the calm days; outages at {:?}: {} notes and {} notifications, of which {} while the first lasted; the first: {:.1} s, {:.1} s",
            seen.onsets,
            seen.hook.len(),
            seen.paged.len(),
            of_first.iter().filter(firing).count(),
            delay(&seen.of_outage(0, &seen.hook), first),
            delay(&of_first, first)
        );
        for (nth, onset) in [first, second].into_iter().enumerate() {
            let pages = seen.of_outage(nth, &seen.hook);
            assert!(!pages.is_empty());
            hooked.push(delay(&pages, onset));
        }
        alerted.push(delay(&of_first, first));
    }
    for (who, mut delays) in [
        ("the webhook", hooked),
        ("Alertmanager's receiver", alerted),
    ] {
        delays.sort_by(f64::total_cmp);
        println!(
            "the demo's outages, onset to received by {who}, {} outages: p50 {:.2} s, max {:.2} s",
            delays.len(),
            delays[delays.len() / 2],
            delays[delays.len() - 1]
        );
    }
}
