//! The outages that this crate was made for, through the layer.

use std::time::Duration;

use callerid::events::{Change, Harm, Kind, Pattern, Pin, Signal};
use callerid::incidents::Post;
use callerid::{Class, Provenance, Window};

use crate::support::START;
use crate::world::{Load, World};

const WARM: Duration = Duration::from_secs(900);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_buggy_feature_is_named_with_route_class_deploy_and_owner_and_its_end_is_said() {
    let mut world = World::new(|builder| builder);
    world.run(WARM);
    assert_eq!(world.said(Kind::RunawayStarted), []);
    let calm = world.loads.clone();
    world.load("checkout").agent = "checkout/v42 (test)".into();
    let feature = Load {
        route: "/v1/orders",
        status: 422,
        agent: "checkout/v42 (test)".into(),
        ..Load::new("checkout", 120.0)
    };
    world.loads.push(feature);
    let onset = world.seconds();
    world.run(seconds(20));
    let event = world.first(Kind::RunawayStarted);
    let found = event.finding().unwrap();
    let delay = event.t - START.as_secs_f64() - onset;
    assert!((0.0..5.0).contains(&delay), "{delay}");
    assert_eq!(found.caller.as_deref(), Some("checkout"));
    assert_eq!(found.provenance, Some(Provenance::Verified));
    assert_eq!(
        (found.owner.as_deref(), found.contact.as_deref()),
        (Some("Payments"), Some("#payments-oncall"))
    );
    assert_eq!(found.route.as_deref(), Some("GET /v1/orders"));
    assert_eq!(found.class, Some(Class::Validation));
    assert_eq!(
        found.deploy.as_ref().map(|deploy| &*deploy.version),
        Some("v42")
    );
    assert!((event.id.starts_with("prices/7f3a/")), "{}", event.id);
    let pins = world.said(Kind::Pin);
    let versions: Vec<_> = pins
        .iter()
        .map(|pin| pin.pin().unwrap().version.clone().unwrap())
        .collect();
    assert_eq!(
        versions,
        [std::sync::Arc::<str>::from("v42")],
        "the first version is no deploy, and one deploy is one pin"
    );
    world.loads = calm;
    world.run(seconds(60));
    let ended = world.said(Kind::RunawayEnded);
    assert!(ended.iter().any(|end| end.id == event.id), "{ended:?}");
    assert_eq!(world.table.callers.open_episodes(), []);
    // In however many signals it showed, the demo says once that it is over.
    assert!(ended.len() > 1, "{ended:?}");
    let mut glance = crate::glance::Open::default();
    let callers = &world.table.callers;
    let told = callers.events().into_iter();
    let told: String = told
        .filter_map(|event| glance.told(callers, &event))
        .collect();
    assert_eq!(told.matches("ok checkout is back").count(), 1, "{told}");
    let blamed = world.table.callers.events();
    let others = blamed.iter().filter(|event| {
        event
            .finding()
            .is_some_and(|f| f.caller.as_deref() != Some("checkout"))
    });
    assert_eq!(others.count(), 0);
}

#[test]
fn a_lost_cache_is_a_runaway_that_repeats_and_a_crawl_one_that_scans() {
    for (keys, pattern) in [(20, Pattern::Repeat), (10_000_000, Pattern::Scan)] {
        let mut world = World::new(|builder| builder);
        world.run(WARM);
        let rise = Load {
            keys,
            ..Load::new("search", 60.0)
        };
        world.loads.push(rise);
        world.run(seconds(15));
        let updates = world.said(Kind::RunawayUpdated);
        let last = updates.last().unwrap().finding().unwrap();
        assert_eq!(last.caller.as_deref(), Some("search"));
        assert_eq!(last.pattern, Some(pattern));
        assert_eq!(last.route.as_deref(), Some("GET /v1/prices/{sku}"));
    }
}

#[test]
fn few_requests_that_hang_are_found_while_they_hang() {
    let mut world = World::new(|builder| builder);
    world.run(WARM);
    let hang = Load {
        route: "/v1/slow",
        latency: seconds(120),
        ..Load::new("reports", 2.0)
    };
    world.load("reports").rate = 0.5;
    world.loads.push(hang);
    let onset = world.seconds();
    world.run(seconds(40));
    let event = world.first(Kind::RunawayStarted);
    let found = event.finding().unwrap();
    assert_eq!(found.caller.as_deref(), Some("reports"));
    assert_eq!(found.signal, Some(Signal::InFlight));
    let delay = event.t - START.as_secs_f64() - onset;
    assert!(delay < 20.0, "{delay}: long before the first of them ends");
}

#[test]
fn a_failing_service_is_nobodys_fault() {
    let mut world = World::new(|builder| builder);
    world.run(WARM);
    world.loads.iter_mut().for_each(|load| load.status = 503);
    world.run(seconds(30));
    let event = world.first(Kind::ServiceDegraded);
    assert_eq!(event.caller(), None);
    assert_eq!(world.said(Kind::RunawayStarted), []);
    world.loads.iter_mut().for_each(|load| load.status = 200);
    world.run(seconds(90));
    let recovered = world.first(Kind::ServiceRecovered);
    assert_eq!(recovered.id, event.id);
}

#[test]
fn announced_load_is_said_and_wakes_nobody() {
    let mut world = World::new(|builder| builder.ceiling(callerid::Ceiling::new(8)));
    world.run(WARM);
    world.table.callers.expect("checkout", 30.0, seconds(600));
    let test = Load {
        latency: Duration::from_millis(100),
        ..Load::new("checkout", 100.0)
    };
    world.loads.push(test);
    world.run(seconds(20));
    let event = world.first(Kind::RunawayStarted);
    let found = event.finding().unwrap();
    assert!(found.expected && !found.pages());
    // Ten times what was announced is no longer that.
    world.loads.push(Load::new("checkout", 500.0));
    world.run(seconds(40));
    let updates = world.said(Kind::RunawayUpdated);
    let pages = updates.iter().map(|event| event.finding().unwrap());
    assert!(
        pages
            .clone()
            .any(|found| found.harm != Harm::None && found.pages()),
        "{updates:?}"
    );
    assert!(world.table.callers.on_behalf_of("anna").ack(&event.id));
    assert!(!world.table.callers.ack("prices/7f3a/0"));
    let open = world.table.callers.open_episodes();
    let acked = open
        .iter()
        .find(|open| open.id == event.id)
        .unwrap()
        .finding()
        .unwrap();
    assert_eq!(acked.acknowledged_by.as_deref(), Some("anna"));
    assert!(!acked.pages());
}

#[test]
fn who_runs_away_from_behind_the_full_table_is_found_by_name_and_gets_a_row() {
    let mut world = World::new(|builder| builder.max_exported(50));
    // Fourteen rows are free: the ten who are here, and four of these.
    for n in 0..60 {
        world.loads.push(Load::new(&format!("claimed-{n}"), 0.3));
    }
    world.run(WARM);
    let hidden = world.table.callers.snapshot();
    let hidden = hidden
        .callers
        .iter()
        .find(|c| !c.exported && c.name.starts_with("claimed-"));
    let name = hidden.unwrap().name.clone();
    world.loads.push(Load::new(&name, 80.0));
    world.run(seconds(10));
    let event = world.first(Kind::RunawayStarted);
    assert_eq!(event.caller(), Some(&*name));
    assert!(world.table.caller(&name).exported);
}

#[test]
fn blame_adds_up_and_names_who_where_what_and_after_which_change() {
    let mut world = World::new(|builder| builder.version("2.1"));
    world.run(WARM);
    world.table.callers.deployed("checkout", "v42");
    world.loads.push(Load {
        route: "/v1/orders",
        status: 422,
        ..Load::new("checkout", 60.0)
    });
    world.run(seconds(30));
    let window = Window::last(seconds(20)).against(seconds(600));
    let blame = world.table.callers.blame(window);
    for rise in [&blame.requests, &blame.errors, &blame.in_flight] {
        let shares = rise.culprits.iter().map(|culprit| culprit.share.unwrap());
        let sum: f64 = shares.sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        let parts: f64 = rise.culprits.iter().map(|c| c.after - c.before).sum();
        assert!((parts - (rise.after - rise.before)).abs() < 1e-6);
    }
    for rise in [&blame.requests, &blame.errors] {
        let first = &rise.culprits[0];
        assert_eq!(first.caller, "checkout");
        assert!(first.share.unwrap() > 0.9 && first.sure > 0.99, "{first:?}");
        assert_eq!(first.owner.as_deref(), Some("Payments"));
        assert_eq!(first.route.as_deref(), Some("GET /v1/orders"));
        assert_eq!(first.class, Some(Class::Validation));
        let pin = first.pin.as_ref().unwrap();
        assert_eq!(pin.version.as_deref(), Some("v42"));
    }
    let calm = blame
        .requests
        .culprits
        .iter()
        .find(|c| c.caller == "search")
        .unwrap();
    assert!(
        calm.share.unwrap().abs() < 0.1 && calm.sure < 0.9,
        "{calm:?}"
    );
    assert!(
        (blame.requests.before - 38.0).abs() < 3.0,
        "{}",
        blame.requests.before
    );
    assert_eq!(blame.ours.unwrap().what, "deploy 2.1 started");
    // Ten minutes later it is the rule, and nothing rises.
    world.run(seconds(1_300));
    let later = world.table.callers.blame(window);
    assert!(
        later.requests.culprits.iter().all(|c| c.sure < 0.99),
        "{:?}",
        later.requests
    );
}

#[test]
fn over_long_windows_the_route_that_rose_is_named_and_not_the_one_that_was_always_busy() {
    let mut world = World::new(|builder| builder);
    world.run(seconds(2_700));
    let orders = Load {
        route: "/v1/orders",
        ..Load::new("checkout", 5.0)
    };
    world.loads.push(orders);
    world.run(seconds(900));
    let route = |last: u64, before: u64| {
        let window = Window::last(seconds(last)).against(seconds(before));
        let blame = world.table.callers.blame(window);
        let first = blame.requests.culprits.into_iter().next().unwrap();
        assert_eq!(first.caller, "checkout");
        first.route
    };
    let orders = Some("GET /v1/orders".into());
    // Of the time before, routes remember five minutes of thirty; then nothing.
    assert_eq!(route(900, 1_800), orders);
    assert_eq!(route(1_500, 1_500), None);
}

#[test]
fn the_report_has_what_the_post_mortem_asks_for_and_stays_when_the_series_are_gone() {
    let mut world = World::new(|builder| builder);
    world.loads.push(Load {
        status: 422,
        ..Load::new("checkout", 0.3)
    });
    world.run(WARM);
    world.loads.pop();
    let before = world.table.caller("checkout").counts.by_class[Class::Validation];
    assert!(before > 200, "{before}");
    let callers = world.table.callers.clone();
    callers.deployed("checkout", "v42");
    world.loads.push(Load {
        route: "/v1/orders",
        status: 422,
        ..Load::new("checkout", 80.0)
    });
    // The others fail with it.
    world.run(seconds(20));
    let id = world.first(Kind::RunawayStarted).id.clone();
    world.load("search").status = 503;
    callers
        .on_behalf_of("anna")
        .clamp("checkout", "20/s", seconds(60))
        .unwrap();
    let post = Post {
        name: Some("Prices are slow".into()),
        body: Some("we look".into()),
        ..Post::default()
    };
    let anna = callers.on_behalf_of("anna");
    anna.post_incident(post).unwrap();
    let onset = world.first(Kind::RunawayStarted).t;
    anna.pin(Pin::new(Change::Flag).text("sale").at(onset - 15.0));
    world.run(seconds(30));
    let open = callers.report(&id).unwrap();
    assert_eq!(open.said.1, None);
    assert!(open.refused > 100, "{}", open.refused);
    world.loads.pop();
    world.load("search").status = 200;
    world.run(seconds(90));
    let report = callers.report(&id).unwrap();
    assert!(report.said.1.is_some());
    let hurt: Vec<_> = report.hurt.iter().map(|hurt| &*hurt.caller).collect();
    assert_eq!(hurt, ["search"]);
    assert!(
        report.series.len() >= 60,
        "ten minutes before: {}",
        report.series.len()
    );
    let most = report
        .series
        .iter()
        .max_by_key(|point| point.caller)
        .unwrap();
    assert!(
        most.caller > 600 && most.total - most.caller < 500,
        "{most:?}"
    );
    assert!(report.series.iter().any(|point| point.errors > 300));
    let all = world.table.caller("checkout").counts.by_class[Class::Validation];
    let [(code, None, count)] = &report.details[..] else {
        panic!("{:?}", report.details);
    };
    let since = all - before;
    assert!(
        code == "sku" && (since / 2..=since).contains(count),
        "{count} of {since}, and {before} before the onset"
    );
    // The headline is the worst of it, and not the calm in which it ended.
    assert_eq!(report.finding.harm, Harm::Harmed);
    let usual = report.finding.baseline;
    assert!((2.0..16.0).contains(&usual), "{usual}");
    assert!(
        (report.finding.observed - 92.0).abs() < 8.0,
        "80 requests a second and its usual: {}",
        report.finding.observed
    );
    let factor = report.finding.observed / usual;
    assert_eq!(report.finding.factor, Some(factor));
    let events = callers.events();
    let ended = events
        .iter()
        .find(|event| event.kind == Kind::RunawayEnded && event.id == id);
    assert!(ended.unwrap().finding().unwrap().observed < 20.0);
    let markdown = report.markdown();
    for part in [
        "# Runaway of checkout",
        "; the others suffer;",
        "Payments",
        "payments-oncall",
        "/v1/orders",
        "checkout: deploy v42",
        "anna changed what checkout may do: clamped to 20/s",
        "anna told people: Prices are slow (investigating) we look",
        "we: flag sale (by anna)",
        "| search |",
    ] {
        assert!(markdown.contains(part), "{part} is missing in\n{markdown}");
    }
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["finding"]["caller"], "checkout");
    assert_eq!(json["hurt"][0]["caller"], "search");
    let timeline = json["timeline"].as_array().unwrap();
    assert!(timeline.len() >= 4);
    // What is told late has its place by when it was.
    let kinds = timeline.iter().map(|event| &event["kind"]);
    let place = |kind: &str| kinds.clone().position(|of| of == kind);
    assert!(place("runaway_started") > Some(0));
    let sale = timeline
        .iter()
        .position(|event| event["text"] == "sale")
        .unwrap();
    assert!(Some(sale) < place("runaway_started"));
    assert_eq!(timeline[sale]["at"], onset - 15.0);
    assert!(timeline[sale]["t"].as_f64().unwrap() > onset);
    assert_eq!(
        timeline[place("incident").unwrap()]["incident"]["name"],
        "Prices are slow"
    );
    world.run(seconds(7_200));
    assert_eq!(callers.report(&id).unwrap(), report);
    assert_eq!(callers.report("prices/7f3a/0"), None);
    let words = callers
        .in_words(&world.first(Kind::RunawayStarted))
        .unwrap();
    assert!(
        words.starts_with("checkout (Payments, #payments-oncall), on GET /v1/orders: "),
        "{words}"
    );
}
