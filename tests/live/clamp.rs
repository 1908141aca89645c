//! The clamp on a runaway, with every guard that keeps it from good callers.

use std::time::Duration;

use callerid::events::{Body, Kind, Signal};
use callerid::{Account, Ceiling, Mode, Policy, Quota, Reason};

use crate::support::Recorded;
use crate::world::{Load, World};

const WARM: Duration = Duration::from_secs(900);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Changes of limits that were said, by our guard.
fn clamps(world: &World) -> Vec<(String, String)> {
    let said = world.said(Kind::Policy);
    let clamps = said.iter().filter_map(|event| match &event.body {
        Body::Policy {
            caller,
            change,
            author,
        } if &**author == "callerid" => {
            Some((caller.as_deref().unwrap().to_owned(), change.to_string()))
        }
        _ => None,
    });
    clamps.collect()
}

/// A service whose ceiling is near when a runaway holds twenty requests and more.
fn world(mode: Mode) -> World {
    World::new(|builder| builder.ceiling(Ceiling::new(30)).clamp_runaways(1.5, mode))
}

/// Checkout, so slow and so often that the ceiling is near.
fn flood() -> Load {
    Load {
        latency: Duration::from_millis(300),
        ..Load::new("checkout", 100.0)
    }
}

fn refused(world: &World, name: &str, reason: Reason) -> u64 {
    world.table.caller(name).counts.refused[reason]
}

#[test]
fn a_runaway_that_hurts_is_held_by_what_it_offers_and_let_go_when_it_stops() {
    let mut world = world(Mode::Enforce);
    world.run(WARM);
    world.loads.push(flood());
    world.run(seconds(10));
    assert_eq!(clamps(&world).len(), 1, "{:?}", clamps(&world));
    let (caller, change) = clamps(&world).remove(0);
    assert_eq!(caller, "checkout");
    // 8/s before, times 1.5.
    let held = (11..=14).any(|rate| change.starts_with(&format!("runaway clamped to {rate}/s")));
    assert!(held, "{change}");
    // What is let in is calm again, what is offered is not: the clamp stays.
    world.run(seconds(120));
    assert_eq!(clamps(&world).len(), 1);
    let held_back = refused(&world, "checkout", Reason::Runaway);
    assert!(held_back > 10_000, "{held_back}");
    world.loads.pop();
    world.run(seconds(60));
    assert_eq!(clamps(&world).len(), 2);
    assert_eq!(clamps(&world)[1].1, "runaway clamp ended");
    let before = refused(&world, "checkout", Reason::Runaway);
    world.run(seconds(60));
    assert_eq!(refused(&world, "checkout", Reason::Runaway), before);
    for load in crate::world::calm().iter().skip(1) {
        let counts = world.table.caller(&load.caller).counts;
        assert_eq!(counts.refused.total(), 0, "{}", load.caller);
    }
}

#[test]
fn lasting_growth_is_held_for_fifteen_minutes_and_never_again() {
    let mut world = world(Mode::Enforce);
    world.run(WARM);
    world.loads.push(flood());
    world.run(seconds(14 * 60));
    assert_eq!(clamps(&world).len(), 1);
    world.run(seconds(90));
    assert_eq!(clamps(&world).len(), 2, "{:?}", clamps(&world));
    let before = refused(&world, "checkout", Reason::Runaway);
    world.run(seconds(40 * 60));
    assert_eq!(
        clamps(&world).len(),
        2,
        "only a person holds it again: {:?}",
        clamps(&world)
    );
    assert_eq!(refused(&world, "checkout", Reason::Runaway), before);
}

#[test]
fn in_shadow_it_is_counted_and_nobody_is_refused() {
    let mut world = world(Mode::Shadow);
    world.run(WARM);
    world.loads.push(flood());
    world.run(seconds(20));
    assert!(
        clamps(&world)[0].1.ends_with(" in shadow"),
        "{:?}",
        clamps(&world)
    );
    let counts = world.table.caller("checkout").counts;
    assert_eq!(counts.refused[Reason::Runaway], 0);
    assert!(counts.would_refuse[Reason::Runaway] > 500, "{counts:?}");
}

#[test]
fn nobody_is_held_while_nobody_suffers() {
    let mut world = World::new(|builder| {
        builder
            .ceiling(Ceiling::new(1_000))
            .clamp_runaways(1.5, Mode::Enforce)
    });
    world.run(WARM);
    world.loads.push(Load::new("checkout", 100.0));
    world.run(seconds(30));
    world.first(Kind::RunawayStarted);
    assert_eq!(clamps(&world), []);
}

#[test]
fn nobody_is_held_in_the_first_ten_minutes_nor_when_it_was_announced() {
    let mut young = world(Mode::Enforce);
    young.run(seconds(480));
    young.loads.push(flood());
    young.run(seconds(60));
    assert_eq!(clamps(&young), []);
    let mut announced = world(Mode::Enforce);
    announced.run(WARM);
    announced
        .table
        .callers
        .expect("checkout", 50.0, seconds(600));
    announced.loads.push(flood());
    announced.run(seconds(30));
    announced.first(Kind::RunawayStarted);
    assert_eq!(clamps(&announced), []);
}

/// The last that was said of checkout's rate: whether it was expected, and pages.
fn last_said(world: &World) -> (bool, bool) {
    let open = world.table.callers.open_episodes();
    let rate = |event: &&std::sync::Arc<callerid::events::Event>| {
        event.finding().unwrap().signal == Some(Signal::Rate)
    };
    let event = open.iter().find(rate).unwrap();
    let finding = event.finding().unwrap();
    (finding.expected, finding.pages())
}

#[test]
fn what_goes_on_when_its_announcement_has_ended_pages_and_is_held_within_seconds() {
    let mut world = world(Mode::Enforce);
    world.run(WARM);
    let callers = world.table.callers.clone();
    callers.expect("checkout", 50.0, seconds(60));
    world.loads.push(flood());
    world.run(seconds(59));
    assert_eq!(
        (last_said(&world), clamps(&world).len()),
        ((true, false), 0)
    );
    world.run(seconds(2));
    assert_eq!(
        (last_said(&world), clamps(&world).len()),
        ((false, true), 1)
    );
    // Somebody announces it now.
    callers.expect("checkout", 50.0, seconds(60));
    world.run(seconds(1));
    assert_eq!(last_said(&world), (true, false));
    assert_eq!(clamps(&world)[1].1, "runaway clamp ended");
    world.run(seconds(60));
    assert_eq!(
        (last_said(&world), clamps(&world).len()),
        ((false, true), 3)
    );
}

#[test]
fn what_exceeds_its_announcement_pages_and_is_held() {
    let mut world = world(Mode::Enforce);
    world.run(WARM);
    world.table.callers.expect("checkout", 10.0, seconds(600));
    world.loads.push(Load {
        rate: 60.0,
        latency: Duration::from_millis(400),
        ..flood()
    });
    world.run(seconds(60));
    assert_eq!(
        (last_said(&world), clamps(&world).len()),
        ((true, false), 0)
    );
    for e in world.table.callers.open_episodes() {
        println!("{}", e.to_json());
    }
    world.loads.last_mut().unwrap().rate = 85.0;
    world.run(seconds(60));
    assert_eq!(
        (last_said(&world), clamps(&world).len()),
        ((false, true), 1)
    );
}

#[test]
fn who_the_program_expects_more_of_is_not_held() {
    let until = crate::support::START + WARM + seconds(600);
    let accounts = [
        Account::new("search"),
        Account::new("search").expect(100.0, until),
    ];
    let held = accounts.map(|account| {
        let mut world = World::new(|builder| {
            let builder = builder.caller(account).ceiling(Ceiling::new(30));
            builder.clamp_runaways(1.5, Mode::Enforce)
        });
        world.run(WARM);
        world.loads.push(Load {
            caller: "search".to_owned(),
            ..flood()
        });
        world.run(seconds(30));
        world.first(Kind::RunawayStarted);
        clamps(&world).len()
    });
    assert_eq!(held, [1, 0]);
}

#[test]
fn a_crowd_a_failing_service_and_those_without_a_name_are_never_held() {
    let mut crowd = world(Mode::Enforce);
    crowd.run(WARM);
    for load in &mut crowd.loads {
        load.rate *= 6.0;
        load.latency = Duration::from_millis(120);
    }
    crowd.run(seconds(60));
    assert_eq!(clamps(&crowd), []);
    let mut failing = world(Mode::Enforce);
    failing.run(WARM);
    for load in &mut failing.loads {
        load.status = 503;
    }
    failing.run(seconds(10));
    // Callers try again.
    failing.loads.iter_mut().for_each(|load| load.rate *= 4.0);
    failing.run(seconds(60));
    assert_eq!(clamps(&failing), []);
    let mut unknown = world(Mode::Enforce);
    unknown.run(WARM);
    unknown.loads.push(Load {
        caller: String::new(),
        ..flood()
    });
    unknown.run(seconds(30));
    assert_eq!(clamps(&unknown), []);
}

#[test]
fn what_the_file_says_of_runaways_is_in_force() {
    let file = std::env::temp_dir().join(format!("callerid-runaways-{}.toml", std::process::id()));
    let flooded = |text: &str| {
        std::fs::write(&file, format!("{text}[ceiling]\nmax_in_flight = 30\n")).unwrap();
        let mut world = World::new(|builder| builder.config(&file).unwrap());
        std::fs::remove_file(&file).unwrap();
        world.run(WARM);
        world.loads.push(flood());
        world.run(seconds(20));
        world
    };
    // Refused, and would have been.
    let counted = |world: &World| {
        let mut recorded = Recorded::new();
        recorded.flush(&world.table.callers);
        let labels = [("caller", "checkout"), ("reason", "runaway")];
        ["callerid_refused_total", "callerid_would_refuse_total"]
            .map(|metric| recorded.counter(metric, &labels).unwrap())
    };
    let enforced = flooded("[on_runaway]\nclamp = 2\nmode = \"enforce\"\n");
    let (_, change) = clamps(&enforced).remove(0);
    // 8/s before, times 2.
    let held = (15..=18).any(|rate| change.starts_with(&format!("runaway clamped to {rate}/s")));
    assert!(held, "{change}");
    let refused = refused(&enforced, "checkout", Reason::Runaway);
    assert!(refused > 500, "{refused}");
    assert_eq!(counted(&enforced), [refused, 0]);
    // Nobody has said that it may refuse.
    let tried = flooded("[on_runaway]\nclamp = 2\n");
    assert!(clamps(&tried)[0].1.ends_with(" in shadow"));
    let would = tried.table.caller("checkout").counts.would_refuse[Reason::Runaway];
    assert!(would > 100, "{would}");
    assert_eq!(counted(&tried), [0, would]);
    let announced = flooded(
        "[on_runaway]\nclamp = 2\nmode = \"enforce\"\n\
         [caller.checkout]\nexpect = { factor = 50, until = \"2027-06-01T00:00:00Z\" }\n",
    );
    let found = announced.first(Kind::RunawayStarted);
    assert!(found.finding().unwrap().expected);
    assert_eq!(clamps(&announced), []);
}

#[test]
fn few_requests_that_hang_are_held_whatever_the_caller_may_have_in_flight() {
    let hour = Quota::per_hour(1);
    let policies = [
        None,
        Some(Policy::new().max_in_flight(200)),
        Some(Policy::new().quota(hour).max_in_flight(200).shadow()),
    ];
    for policy in policies {
        let shown = format!("{policy:?}");
        let mut world = World::new(|builder| {
            let builder = match policy {
                Some(policy) => builder.default_policy(policy),
                None => builder,
            };
            let builder = builder.ceiling(Ceiling::new(30));
            builder.clamp_runaways(1.5, Mode::Enforce)
        });
        world.run(WARM);
        world.loads.push(Load {
            route: "/v1/slow",
            latency: seconds(300),
            ..Load::new("reports", 2.0)
        });
        while clamps(&world).is_empty() {
            world.run(seconds(1));
            assert!(world.seconds() < 1_000.0, "{shown}: nobody is held");
        }
        let (caller, change) = clamps(&world).remove(0);
        assert_eq!(caller, "reports", "{shown}");
        assert!(change.ends_with(" and 5 in flight"), "{shown}: {change}");
        let before = world.table.caller("reports").counts.in_flight;
        world.run(seconds(30));
        let reports = world.table.caller("reports");
        // What is quick goes on beside it.
        let held = before.max(5);
        let now = reports.counts.in_flight;
        assert!(now <= held, "{shown}: {now} in flight, {before} before");
        let refused = reports.counts.refused;
        assert!(refused[Reason::Runaway] > 20, "{shown}: {refused:?}");
        assert_eq!(refused.total(), refused[Reason::Runaway], "{shown}");
    }
}

/// A caller that is held for requests that hang, and then for its rate.
fn held_twice() -> World {
    let mut world = world(Mode::Enforce);
    world.run(WARM);
    let hang = Load {
        route: "/v1/slow",
        latency: seconds(100),
        ..Load::new("reports", 2.0)
    };
    world.loads.push(hang);
    while clamps(&world).is_empty() {
        world.run(seconds(1));
        assert!(world.seconds() < 1_000.0, "nobody is held");
    }
    world.loads.push(Load::new("reports", 200.0));
    while clamps(&world).len() < 2 {
        world.run(seconds(1));
        assert!(world.seconds() < 1_100.0, "{:?}", clamps(&world));
    }
    let said: Vec<_> = clamps(&world).into_iter().map(|said| said.1).collect();
    assert!(said[0].ends_with(" and 5 in flight"), "{said:?}");
    assert!(said[1].starts_with("runaway clamped to "), "{said:?}");
    world
}

#[test]
fn who_is_held_for_two_things_is_held_to_both_until_each_ends() {
    let mut world = held_twice();
    // What was in flight before the clamp has ended by then.
    world.run(seconds(150));
    for _ in 0..20 {
        world.run(seconds(1));
        let in_flight = world.table.caller("reports").counts.in_flight;
        assert!(in_flight <= 5, "{in_flight}");
    }
    world.loads.pop();
    while clamps(&world).len() < 3 {
        world.run(seconds(1));
        assert!(world.seconds() < 1_500.0, "{:?}", clamps(&world));
    }
    let last = clamps(&world).pop().unwrap().1;
    assert!(last.contains("still"), "{last}");
    let before = refused(&world, "reports", Reason::Runaway);
    for _ in 0..60 {
        world.run(seconds(1));
        let in_flight = world.table.caller("reports").counts.in_flight;
        assert!(in_flight <= 5, "{in_flight}");
    }
    assert!(refused(&world, "reports", Reason::Runaway) > before + 20);
    // A person lets go of all of it.
    assert!(world.table.callers.lift_clamp("reports"));
    let before = refused(&world, "reports", Reason::Runaway);
    world.run(seconds(10));
    assert_eq!(refused(&world, "reports", Reason::Runaway), before);
}

#[test]
fn what_a_reload_says_of_runaways_changes_the_clamp_in_force() {
    let file = std::env::temp_dir().join(format!("callerid-reloaded-{}.toml", std::process::id()));
    let write = |text: &str| {
        std::fs::write(&file, format!("{text}[ceiling]\nmax_in_flight = 30\n")).unwrap();
    };
    write("[on_runaway]\nclamp = 2\nmode = \"enforce\"\n");
    let mut world = World::new(|builder| builder.config(&file).unwrap());
    world.run(WARM);
    world.loads.push(flood());
    world.run(seconds(20));
    // What is said, and what is refused and would be in ten seconds after the next tick.
    let mut under = |text: &str| {
        write(text);
        let before = clamps(&world).len();
        world.table.callers.reload([&file]).unwrap();
        world.run(crate::world::TICK);
        let count = |world: &World| {
            let counts = world.table.caller("checkout").counts;
            [counts.refused, counts.would_refuse].map(|by| by[Reason::Runaway])
        };
        let start = count(&world);
        world.run(seconds(10));
        let end = count(&world);
        let said = clamps(&world).into_iter().skip(before);
        let said: Vec<_> = said.map(|said| said.1).collect();
        (said, [end[0] > start[0], end[1] > start[1]])
    };
    let is = |said: &[String], start: &str, end: &str| {
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with(start) && said[0].ends_with(end),
            "{said:?}"
        );
    };
    let (said, counted) = under("[on_runaway]\nclamp = 2\nmode = \"shadow\"\n");
    is(&said, "runaway clamped to ", " in shadow");
    assert_eq!(counted, [false, true]);
    let (said, counted) = under("[on_runaway]\nclamp = 2\nmode = \"enforce\"\n");
    is(&said, "runaway clamped to 1", "");
    assert_eq!(counted, [true, false]);
    // Another factor.
    let (said, counted) = under("[on_runaway]\nclamp = 4\nmode = \"enforce\"\n");
    is(&said, "runaway clamped to 3", "");
    assert_eq!(counted, [true, false]);
    let (said, counted) = under("");
    is(&said, "runaway clamp ended", "");
    assert_eq!(counted, [false, false]);
    std::fs::remove_file(&file).unwrap();
}
