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

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use callerid::Ceiling;
use callerid::events::{Event, Finding};
use programs::{DEADLINE, Running, call, until};
use serde_json::Value;
use world::{Load, TICK, World};

const WARM: Duration = Duration::from_secs(900);

/// What takes pages, and tells of them in the order in which they came.
struct Pages {
    address: SocketAddr,
    told: Receiver<Value>,
}

impl Pages {
    fn listen() -> Self {
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
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                reader.get_mut().write_all(answer).unwrap();
                if tell.send(serde_json::from_slice(&body).unwrap()).is_err() {
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
    let shipped =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring/alertmanager.yml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let url = format!("http://{}/page", pages.address);
    let config = shipped.replace("http://127.0.0.1:8080/page", &url);
    assert_ne!(config, shipped);
    let config = config.replace("group_interval: 30s", "group_interval: 1s");
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
        backoff: (Duration::from_millis(50), Duration::from_millis(200)),
        ..pager::Settings::default()
    }
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
        "signal",
        "owner",
        "contact",
        "severity",
    ]
    .map(of)
    .to_vec()
}

/// An outage has an episode for each signal. Reads until all of them are over.
fn one_beginning_and_one_end_each(hook: &Pages) {
    let (mut open, mut over) = (BTreeSet::new(), BTreeSet::new());
    while over.is_empty() || !open.is_empty() {
        let note = hook.next();
        let id = note["id"].as_str().unwrap().to_owned();
        assert_eq!(note["event"]["id"], note["id"]);
        if note["status"] == "firing" {
            assert!(!over.contains(&id) && open.insert(id), "told twice: {note}");
        } else {
            assert_eq!(note["status"], "resolved");
            assert!(open.remove(&id) && over.insert(id), "told twice: {note}");
        }
    }
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
            labels(&page)[4..],
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
        one_beginning_and_one_end_each(&hook);
        // To Alertmanager it is one group, whatever it says of it.
        let mut last = page.clone();
        while last["status"] != "resolved" {
            last = paged.next();
            assert_eq!(last["groupKey"], page["groupKey"]);
        }
        world.run(Duration::from_secs(300));
    }
    drop(world);
    pager.join().unwrap();
    hook.nothing_waits();
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
