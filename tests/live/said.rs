//! What is said beside runaways, and what the recorder learns of them.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use callerid::events::{Body, Change, Event, Kind, Pin};
use callerid::{Account, Callers, Ceiling, Provenance};
use futures_util::StreamExt as _;

use crate::support::log::logged;
use crate::support::{Recorded, START, Table, now, request, send_one};
use crate::world::{Load, TICK, World};

fn seconds(world: &World) -> f64 {
    START.as_secs_f64() + world.seconds()
}

#[test]
fn runaways_are_metrics_that_are_born_at_zero_and_fall_back_to_it() {
    let mut recorded = Recorded::new();
    let mut world = World::new(|builder| builder);
    let labels = [("caller", "search"), ("signal", "rate")];
    recorded.installed(|| world.run(Duration::from_secs(900)));
    recorded.flush(&world.table.callers);
    assert_eq!(
        recorded.counter("callerid_runaways_total", &labels),
        Some(0)
    );
    assert_eq!(recorded.gauge("callerid_runaway", &labels), None);
    world.loads.push(Load::new("search", 80.0));
    recorded.installed(|| world.run(Duration::from_secs(10)));
    recorded.flush(&world.table.callers);
    assert_eq!(
        recorded.counter("callerid_runaways_total", &labels),
        Some(1)
    );
    assert_eq!(recorded.gauge("callerid_runaway", &labels), Some(1.0));
    world.loads.pop();
    recorded.installed(|| world.run(Duration::from_secs(90)));
    recorded.flush(&world.table.callers);
    assert_eq!(
        recorded.counter("callerid_runaways_total", &labels),
        Some(1)
    );
    assert_eq!(recorded.gauge("callerid_runaway", &labels), Some(0.0));
}

#[test]
fn what_pages_is_a_metric_until_somebody_has_it_in_hand() {
    let mut recorded = Recorded::new();
    let mut world = World::new(|builder| builder.ceiling(Ceiling::new(30)));
    let labels = [("caller", "checkout")];
    recorded.installed(|| world.run(Duration::from_secs(900)));
    // Three times as much, which the service carries with ease.
    world.loads.push(Load::new("search", 80.0));
    recorded.installed(|| world.run(Duration::from_secs(30)));
    recorded.flush(&world.table.callers);
    let search = [("caller", "search")];
    let runs = [("caller", "search"), ("signal", "rate")];
    assert_eq!(recorded.gauge("callerid_runaway", &runs), Some(1.0));
    assert_eq!(recorded.gauge("callerid_runaway_pages", &search), Some(0.0));
    assert_eq!(recorded.gauge("callerid_runaway_pages", &labels), None);
    world.loads.pop();
    recorded.installed(|| world.run(Duration::from_secs(300)));

    world.loads.push(Load {
        route: "/v1/orders",
        status: 422,
        latency: Duration::from_millis(300),
        ..Load::new("checkout", 100.0)
    });
    recorded.installed(|| world.run(Duration::from_secs(20)));
    recorded.flush(&world.table.callers);
    assert_eq!(recorded.gauge("callerid_runaway_pages", &labels), Some(1.0));
    for open in world.table.callers.open_episodes() {
        assert!(world.table.callers.ack(&open.id));
    }
    recorded.installed(|| world.run(Duration::from_secs(1)));
    recorded.flush(&world.table.callers);
    assert_eq!(recorded.gauge("callerid_runaway_pages", &labels), Some(0.0));
    let runs = [("caller", "checkout"), ("signal", "errors")];
    assert_eq!(recorded.gauge("callerid_runaway", &runs), Some(1.0));
}

#[test]
fn who_has_one_signal_of_an_outage_in_hand_has_all_of_it() {
    let mut world = World::new(|builder| builder.ceiling(Ceiling::new(30)));
    world.run(Duration::from_secs(900));
    world.loads.push(Load {
        route: "/v1/orders",
        status: 422,
        latency: Duration::from_millis(300),
        ..Load::new("checkout", 100.0)
    });
    let callers = world.table.callers.on_behalf_of("anna");
    let first = (0..240).find_map(|_| {
        world.run(TICK);
        callers.open_episodes().first().cloned()
    });
    assert!(callers.ack(&first.unwrap().id));
    world.run(Duration::from_secs(20));
    let open = callers.open_episodes();
    assert!(open.len() > 1, "{open:#?}");
    for event in open {
        let finding = event.finding().unwrap();
        assert_eq!(
            finding.acknowledged_by.as_deref(),
            Some("anna"),
            "{finding:?}"
        );
        assert!(!finding.pages());
    }
}

#[test]
fn the_last_change_of_each_kind_is_a_metric() {
    let mut recorded = Recorded::new();
    let mut world = World::new(|builder| builder.version("2.1"));
    let began = seconds(&world);
    let at = |recorded: &mut Recorded, caller, pin| {
        let labels = [("caller", caller), ("pin", pin)];
        recorded.gauge("callerid_last_pin_timestamp_seconds", &labels)
    };
    recorded.installed(|| world.run(Duration::from_secs(10)));
    let callers = world.table.callers.clone();
    callers.deployed("checkout", "v42");
    let deployed = seconds(&world);
    let flag = |t| Pin::new(Change::Flag).text("sale").at(t);
    callers.pin(flag(began + 5.0).caller("search"));
    callers.pin(flag(began + 3.0).caller("search"));
    callers.pin(flag(began + 4.0));
    callers.pin(flag(began + 4.0).caller("nobody"));
    recorded.installed(|| world.run(Duration::from_secs(1)));
    recorded.flush(&callers);
    assert_eq!(at(&mut recorded, "checkout", "deploy"), Some(deployed));
    assert_eq!(at(&mut recorded, "search", "flag"), Some(began + 5.0));
    assert_eq!(at(&mut recorded, "", "flag"), Some(began + 4.0));
    assert_eq!(at(&mut recorded, "", "deploy"), Some(began));
    assert_eq!(at(&mut recorded, "nobody", "flag"), None);
}

#[test]
fn our_own_start_and_every_change_of_a_limit_are_events_with_an_author() {
    let table = Table::with(|builder| {
        builder
            .identify(callerid::identify::header("x-client-id"))
            .version("2.1")
    });
    let callers = table.callers.on_behalf_of("anna");
    callers
        .clamp("checkout", "50/s", Duration::from_secs(60))
        .unwrap();
    assert!(callers.lift_clamp("checkout"));
    callers.set_mode(callerid::Mode::Shadow);
    callers.expect("checkout", 20.0, Duration::from_secs(60));
    callers.pin(Pin::new(Change::Cache).text("flushed"));
    callers.deployed("checkout", "v42");
    let events = callers.events();
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    use Kind::{Ours, Policy};
    assert_eq!(
        kinds,
        [Ours, Policy, Policy, Policy, Policy, Kind::Pin, Kind::Pin]
    );
    assert_eq!(events[0].pin().unwrap().version.as_deref(), Some("2.1"));
    let Body::Policy {
        caller,
        change,
        author,
    } = &events[1].body
    else {
        panic!("{:?}", events[1]);
    };
    assert_eq!(
        (caller.as_deref(), &**change, &**author),
        (
            Some("checkout"),
            "clamped to 50/s, burst 50 for 60 s",
            "anna"
        )
    );
    assert_eq!(events[5].caller(), None);
    for pinned in &events[5..] {
        assert_eq!(pinned.pin().unwrap().author.as_deref(), Some("anna"));
    }
    assert_eq!(events[6].caller(), Some("checkout"));
    let ids: std::collections::HashSet<_> = events.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), events.len());
}

#[test]
fn each_reason_to_refuse_is_a_metric_of_its_caller() {
    use callerid::{Account, Policy};
    let table = Table::with(|builder| {
        builder
            .identify(callerid::identify::header("x-client-id").verified())
            .max_in_flight(1)
            .caller(Account::new("blocked").policy(Policy::new().block()))
    });
    let mut service = table.trivial();
    let held = now(tower::Service::call(&mut service, request("busy"))).unwrap();
    send_one(&mut service, request("busy"));
    send_one(&mut service, request("blocked"));
    drop(held);
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    for (caller, reason) in [("busy", "in_flight"), ("blocked", "blocked")] {
        let labels = [("caller", caller), ("reason", reason)];
        let counted = recorded.counter("callerid_refused_total", &labels);
        assert_eq!(counted, Some(1), "{reason}");
    }
}

#[test]
fn events_go_through_tracing_and_those_that_somebody_should_look_at_are_warnings() {
    let mut world = World::new(|builder| builder);
    world.run(Duration::from_secs(900));
    let said = logged(|| {
        let callers = world.table.callers.on_behalf_of("anna");
        callers
            .clamp("search", "50/s", Duration::from_secs(60))
            .unwrap();
        world.loads.push(Load::new("checkout", 80.0));
        world.run(Duration::from_secs(10));
        world.loads.pop();
        world.run(Duration::from_secs(90));
    });
    let of = |kind: &str| {
        let text = format!("callerid::events: callerid: {kind} kind=\"{kind}\" id=\"prices/7f3a/");
        let found = said.iter().find(|line| line.contains(&text));
        found.unwrap_or_else(|| panic!("no {kind} in {said:#?}"))
    };
    let policy = of("policy");
    assert!(
        policy.starts_with("INFO ") && policy.contains(" caller=\"search\" json=\"{"),
        "{policy}"
    );
    assert!(policy.contains("anna"), "{policy}");
    let started = of("runaway_started");
    assert!(started.starts_with("WARN "), "{started}");
    assert!(of("runaway_ended").starts_with("INFO "));
    for line in [started, of("runaway_ended")] {
        for field in [
            " caller=\"checkout\" owner=\"Payments\" contact=\"#payments-oncall\" signal=\"rate\"",
            " route=\"GET /v1/prices/{sku}\"",
            " harm=\"none\"",
            " factor=",
            " share_of_rise=",
            " since=18000",
        ] {
            assert!(line.contains(field), "{field} in {line}");
        }
    }
}

/// Asks everything of the handle that an event's listener may want to know, and does what it may do.
fn everything(callers: &Callers, event: &Event, file: &Path) {
    let _ = (callers.report(&event.id), callers.in_words(event));
    let _ = callers.blame(Duration::from_secs(60));
    let _ = (callers.open_episodes(), callers.events());
    let _ = (callers.export_state(), callers.snapshot());
    let _ = (callers.ack(&event.id), callers.subscribe());
    callers.flush();
    callers.expect("checkout", 2.0, Duration::from_secs(1));
    callers.lift_clamp("checkout");
    if !matches!(event.body, Body::Pin(_)) {
        callers.deployed("checkout", "v2");
        callers.reload([file]).unwrap();
    }
}

#[test]
fn who_hears_an_event_may_ask_and_do_anything_at_once() {
    let callers: Arc<OnceLock<Callers>> = Arc::default();
    let heard: Arc<Mutex<Vec<Kind>>> = Arc::default();
    let (handle, kinds) = (Arc::clone(&callers), Arc::clone(&heard));
    let file = std::env::temp_dir().join(format!("callerid-said-{}.toml", std::process::id()));
    std::fs::write(&file, "[on_runaway]\nclamp = 3.0\nmode = \"enforce\"\n").unwrap();
    let (written, path) = (file.clone(), file.clone());
    let (done, ended) = std::sync::mpsc::channel();
    // On a thread of its own: who waits for itself waits for ever.
    std::thread::spawn(move || {
        let hears = move |event: &Event| {
            kinds.lock().unwrap().push(event.kind);
            if let Some(callers) = handle.get()
                && kinds.lock().unwrap().len() < 200
            {
                everything(callers, event, &path);
            }
        };
        let mut world = World::new(|builder| {
            builder
                .ceiling(Ceiling::new(30))
                .config(&file)
                .unwrap()
                .on_event(hears)
        });
        world.run(Duration::from_secs(900));
        let _ = callers.set(world.table.callers.clone());
        let mut stream = world.table.callers.subscribe();
        let waker = Waker::from(Arc::new(Asks(world.table.callers.clone())));
        let mut polls = || {
            let mut context = Context::from_waker(&waker);
            while stream.poll_next_unpin(&mut context).is_ready() {}
        };
        polls();
        world.loads.push(Load {
            route: "/v1/orders",
            status: 422,
            latency: Duration::from_millis(300),
            ..Load::new("checkout", 100.0)
        });
        for _ in 0..40 {
            world.run(Duration::from_secs(1));
            polls();
        }
        world.loads.pop();
        world.run(Duration::from_secs(120));
        polls();
        let _ = done.send(());
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    std::fs::remove_file(&written).unwrap();
    assert!(ended.is_ok(), "it waits for itself");
    let heard = heard.lock().unwrap();
    for kind in [
        Kind::RunawayStarted,
        Kind::RunawayEnded,
        Kind::Policy,
        Kind::Pin,
    ] {
        assert!(heard.contains(&kind), "{kind:?} was not heard");
    }
}

/// A waker that asks at once, on the thread that wakes it.
struct Asks(Callers);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let _ = (self.0.export_state(), self.0.subscribe());
    }
}

#[test]
fn a_runaway_of_an_account_that_claims_may_reach_is_said_to_be_claimed() {
    let mut world =
        World::new(|builder| builder.caller(Account::new("claimed-shop").accept_claimed()));
    world.loads.push(Load::new("claimed-shop", 2.0));
    world.run(Duration::from_secs(900));
    world.load("claimed-shop").rate = 60.0;
    world.run(Duration::from_secs(20));
    let event = world.first(Kind::RunawayStarted);
    let found = event.finding().unwrap();
    assert_eq!(found.caller.as_deref(), Some("claimed-shop"));
    assert_eq!(found.provenance, Some(Provenance::Claimed));
    let shown = world.table.caller("claimed-shop").provenance;
    assert_eq!(shown, Provenance::Claimed);
}
