//! The table of callers: bounded whatever clients invent, exact in what it counts, and fair to those in it.

use std::collections::BTreeSet;
use std::time::Duration;

use callerid::snapshot::Snapshot;
use callerid::{Account, Class, identify};
use http::Request;
use tower::Service;

use crate::support::{
    Answer, Recorded, Step, Table, assert_balanced, drain, request, respond, send_many, send_one,
};

const STARTED: &str = "callerid_requests_started_total";

/// Every request that a table has seen, by its snapshot: exported callers, without what they sent before they had
/// a row, which is in `__other__`; and those whose row was given to another.
fn all(snapshot: &Snapshot) -> u64 {
    let exported = snapshot.callers.iter().filter(|caller| caller.exported);
    let counted: u64 = exported
        .map(|caller| caller.counts.started - caller.in_other.started)
        .sum();
    counted + snapshot.forgotten.started
}

fn claimed(settings: impl FnOnce(callerid::Builder) -> callerid::Builder) -> Table {
    Table::with(|builder| settings(builder.identify(identify::header("x-client-id"))))
}

/// Room for five rows beside ours and the roster.
fn small() -> Table {
    claimed(|builder| builder.max_exported(41))
}

#[test]
fn trap_02_a_million_invented_names_leave_a_bounded_table_and_the_late_heavy_caller_visible() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-mtls").verified())
            .identify(identify::header("x-client-id"))
            .caller(Account::new("checkout"))
    });
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    let mut sent = 0u64;
    let mut send = |request: Request<String>| {
        send_one(&mut service, request);
        sent += 1;
    };
    let proven = || {
        Request::builder()
            .header("x-mtls", "checkout")
            .body(String::new())
            .unwrap()
    };
    let steady: Vec<_> = (0..10).map(|index| format!("steady{index}")).collect();
    let mut of_each = 0;
    for _ in 0..100 {
        steady.iter().for_each(|name| send(request(name)));
        of_each += 1;
    }
    let mut late = 0;
    for index in 0..1_000_000u32 {
        send(request(&format!("invented-{index}")));
        if index % 10_000 == 0 {
            steady.iter().for_each(|name| send(request(name)));
            of_each += 1;
            send(proven());
            table.tick_after(Duration::from_secs(1));
        }
        // It comes when the table has long been full, with one in 600.
        if index > 400_000 && index % 600 == 0 && late < 1_000 {
            send(request("late"));
            late += 1;
        }
        if index % 100_000 == 0 {
            recorded.flush(&table.callers);
            assert!(table.callers.snapshot().tracked <= 4_096);
        }
    }
    assert!(late >= 990, "{late}");
    recorded.flush(&table.callers);
    let snapshot = table.callers.snapshot();
    assert!(
        (4_000..=4_096).contains(&snapshot.tracked),
        "{}",
        snapshot.tracked
    );
    let labels: BTreeSet<_> = snapshot
        .callers
        .iter()
        .filter_map(|caller| caller.label.clone())
        .collect();
    assert!(labels.len() <= 150, "{}", labels.len());
    assert_eq!(
        labels.len(),
        snapshot
            .callers
            .iter()
            .filter(|caller| caller.exported)
            .count()
    );
    for (metric, series) in recorded.series_by_metric() {
        assert!(series <= 2_000, "{metric}: {series}");
    }

    // The late one is seen, by its own label.
    let found = snapshot.caller("late").expect("in the table");
    assert_eq!(found.label.as_deref(), Some("late"));
    let of_late = recorded.counter(STARTED, &[("caller", "late")]).unwrap();
    assert!(of_late > 0 && of_late < late, "{of_late}");
    assert_eq!(of_late, found.counts.started - found.in_other.started);

    // Those with a row are untouched.
    for name in &steady {
        let found = snapshot.caller(name).unwrap();
        assert_eq!(
            (found.label.as_deref(), found.counts.started),
            (Some(name.as_str()), of_each)
        );
        assert_eq!(found.counts.by_class[Class::Ok], of_each);
        assert_eq!(
            recorded.counter(STARTED, &[("caller", name)]),
            Some(of_each)
        );
    }
    assert_eq!(snapshot.caller("checkout").unwrap().counts.started, 100);

    // Nothing is lost.
    for caller in &snapshot.callers {
        assert_balanced(&caller.name, &caller.counts);
        assert_eq!(caller.counts.in_flight, 0, "{}", caller.name);
    }
    assert_eq!(all(&snapshot), sent);
    assert_eq!(recorded.total(STARTED), sent);
    assert_eq!(recorded.total("callerid_requests_total"), sent);
    assert_eq!(recorded.total("callerid_identified_total"), sent);
    assert_eq!(
        recorded.total("callerid_callers_overflow_total"),
        snapshot.overflow
    );
}

#[test]
fn a_name_has_its_row_at_its_first_request_while_there_is_room() {
    let table = claimed(|builder| builder);
    let mut service = table.trivial();
    for index in 0..200 {
        send_many(&mut service, &format!("c{index}"), 1);
    }
    let exported = |index: usize| table.caller(&format!("c{index}")).exported;
    // 150, less four of ours and 32 for callers in a runaway.
    assert!((0..114).all(exported));
    assert!(!(114..200).any(exported));
    assert_eq!(table.caller("__other__").counts.started, 86);
    assert_eq!(table.callers.snapshot().overflow, 86);
}

#[test]
fn what_a_caller_sent_before_its_row_stays_in_other_and_is_said_to() {
    let table = small();
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    for index in 0..5 {
        send_many(&mut service, &format!("light{index}"), 1);
    }
    send_many(&mut service, "heavy", 300);
    recorded.flush(&table.callers);
    let heavy = table.caller("heavy");
    assert!(heavy.exported);
    assert_eq!(heavy.counts.started, 300, "since it was first seen");
    assert_eq!(heavy.in_other.started, 128);
    assert_eq!(heavy.in_other.by_class[Class::Ok], 128);
    assert_eq!(recorded.counter(STARTED, &[("caller", "heavy")]), Some(172));
    assert_eq!(
        recorded.counter(STARTED, &[("caller", "__other__")]),
        Some(128)
    );
    let snapshot = table.callers.snapshot();
    assert_eq!(snapshot.forgotten.started, 1, "the one that it displaced");
    assert_eq!(all(&snapshot), 305);
    assert_eq!(recorded.total(STARTED), 305);
    // A caller without a row is in `__other__` with everything.
    let plain = claimed(|builder| builder.max_exported(41));
    let mut service = plain.trivial();
    for index in 0..6 {
        send_many(&mut service, &format!("c{index}"), 2);
    }
    let last = plain.caller("c5");
    assert_eq!((last.exported, last.in_other), (false, last.counts));
}

#[test]
fn an_entry_with_an_open_request_never_leaves() {
    let table = claimed(|builder| builder.max_exported(41).max_tracked(41));
    let mut service = table.layered(|_| Answer::ok([Step::Data("x")]));
    let mut open: Vec<_> = (0..41)
        .map(|index| respond(&mut service, request(&format!("open{index}"))).into_body())
        .collect();
    send_many(&mut service, "heavy", 20_000);
    table.tick_after(Duration::from_secs(3_600));
    let snapshot = table.callers.snapshot();
    for index in 0..41 {
        let name = format!("open{index}");
        let found = snapshot
            .caller(&name)
            .unwrap_or_else(|| panic!("{name} was evicted"));
        assert_eq!(found.counts.in_flight, 1);
    }
    assert!(
        snapshot.caller("heavy").is_none(),
        "there is no room for it"
    );
    assert_eq!(all(&snapshot), 20_041);

    open.iter_mut().for_each(drain);
    send_many(&mut service, "heavy", 1_000);
    assert!(
        table
            .callers
            .snapshot()
            .caller("heavy")
            .is_some_and(|heavy| heavy.exported)
    );
    let mut recorded = Recorded::new();
    table.tick_after(Duration::from_secs(1));
    recorded.flush(&table.callers);
    assert_eq!(all(&table.callers.snapshot()), 21_041);
    assert_eq!(recorded.total(STARTED), 21_041);
}

#[test]
fn a_caller_on_the_roster_always_has_its_row() {
    let names: Vec<_> = (0..200).map(|index| format!("team{index}")).collect();
    let table = Table::with(|builder| {
        let builder = builder.identify(identify::header("x-client-id").verified());
        names
            .iter()
            .fold(builder, |builder, name| builder.caller(Account::new(name)))
    });
    let mut service = table.trivial();
    for index in 0..10_000 {
        send_many(&mut service, &format!("invented{index}"), 1);
    }
    for index in 0..5 {
        send_many(&mut service, &format!("heavy{index}"), 5_000);
    }
    table.tick_after(Duration::from_secs(100_000));
    for name in &names {
        let found = table.caller(name);
        assert!(found.exported && found.on_roster, "{name}");
        send_many(&mut service, name, 1);
        assert_eq!(table.caller(name).counts.started, 1);
    }
}

#[test]
fn replacements_are_sixteen_at_once_and_then_one_a_minute() {
    let table = small();
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    for index in 0..5 {
        send_many(&mut service, &format!("first{index}"), 1);
    }
    // Each is heavier than the one before it, so that it may displace one.
    let mut next = 0;
    let mut heavier = |table: &Table| {
        next += 1;
        let name = format!("heavy{next:02}");
        send_many(&mut service, &name, 256 * (next + 1));
        table.caller(&name).exported
    };
    for replacement in 1..=16 {
        assert!(heavier(&table), "replacement {replacement}");
    }
    assert!(!heavier(&table) && !heavier(&table));
    table.tick_after(Duration::from_secs(59));
    assert!(!heavier(&table));
    table.tick_after(Duration::from_secs(1));
    assert!(heavier(&table));
    assert!(!heavier(&table));
    table.tick_after(Duration::from_secs(60));
    assert!(heavier(&table));
    assert!(!heavier(&table));
    // What was saved up is bounded.
    table.tick_after(Duration::from_secs(100 * 60));
    let saved = (0..20).filter(|_| heavier(&table)).count();
    assert_eq!(saved, 16);
    recorded.flush(&table.callers);
    let snapshot = table.callers.snapshot();
    assert_eq!(
        snapshot
            .callers
            .iter()
            .filter(|caller| caller.exported)
            .count(),
        6,
        "five and __other__"
    );
    assert_eq!(all(&snapshot), recorded.total(STARTED));
    assert_eq!(
        recorded.values(STARTED, "caller").len(),
        1 + 5 + 16 + 2 + 16
    );
}

#[test]
fn trap_04_idle_callers_without_a_row_leave_and_idle_rows_stay() {
    let table = claimed(|builder| {
        builder
            .max_exported(41)
            .idle_after(Duration::from_secs(100))
    });
    let mut service = table.trivial();
    for index in 0..50 {
        send_many(&mut service, &format!("c{index:02}"), 1);
    }
    let mut waiting = table.layered(|_| Answer::Never);
    let open = waiting.call(request("c49"));
    table.tick_after(Duration::from_secs(1));
    assert_eq!(table.callers.snapshot().tracked, 50);
    table.tick_after(Duration::from_secs(99));
    assert_eq!(table.callers.snapshot().tracked, 50, "not yet");
    send_many(&mut service, "c48", 1);
    table.tick_after(Duration::from_secs(1));
    let left: BTreeSet<_> = table
        .callers
        .snapshot()
        .callers
        .into_iter()
        .map(|caller| caller.name)
        .collect();
    let expected = ["__other__", "c00", "c01", "c02", "c03", "c04", "c48", "c49"];
    assert_eq!(left, expected.map(str::to_owned).into());
    drop(open);
    table.tick_after(Duration::from_secs(101));
    table.tick_after(Duration::from_secs(101));
    assert_eq!(table.callers.snapshot().tracked, 5);
    assert_eq!(
        all(&table.callers.snapshot()),
        52,
        "nothing is lost with them"
    );
}

#[test]
fn the_series_budget_scales_rows_and_pairs_together() {
    for (budget, rows, pairs) in [(1_000, 75 - 36, 500), (4_000, 300 - 36, 2_000)] {
        let table = Table::with(|builder| {
            builder
                .identify(identify::header("x-client-id"))
                .route(crate::support::route_of_header)
                .series_budget(budget)
        });
        let mut service = table.trivial();
        for caller in 0..400 {
            for route in 0..10 {
                let mut routed = request(&format!("c{caller}"));
                let template = format!("/r{route}").parse().unwrap();
                routed.headers_mut().insert("x-route", template);
                send_one(&mut service, routed);
            }
        }
        let snapshot = table.callers.snapshot();
        let own = |caller: &&callerid::snapshot::CallerSnapshot| {
            caller.exported && caller.name != "__other__"
        };
        assert_eq!(
            snapshot.callers.iter().filter(own).count(),
            rows,
            "budget {budget}"
        );
        let routes = snapshot.callers.iter().flat_map(|caller| &caller.routes);
        let found = routes.filter(|route| route.route != "__other__").count();
        assert!(
            found <= pairs && found >= pairs / 2,
            "budget {budget}: {found}"
        );
        let mut recorded = Recorded::new();
        recorded.flush(&table.callers);
        assert_eq!(recorded.total("callerid_route_requests_total"), 4_000);
    }
}

#[test]
fn a_caller_that_was_displaced_comes_back_under_its_own_label_and_goes_on() {
    let table = small();
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    for index in 0..5 {
        send_many(&mut service, &format!("first{index}"), 3);
    }
    recorded.flush(&table.callers);
    for index in 0..5 {
        send_many(&mut service, &format!("heavy{index}"), 400);
    }
    recorded.flush(&table.callers);
    assert!(
        !table
            .callers
            .snapshot()
            .callers
            .iter()
            .any(|caller| caller.name == "first0" && caller.exported)
    );
    send_many(&mut service, "first0", 1_000);
    recorded.flush(&table.callers);
    let back = table.caller("first0");
    assert_eq!(back.label.as_deref(), Some("first0"));
    let own = back.counts.started - back.in_other.started;
    assert_eq!(
        recorded.counter(STARTED, &[("caller", "first0")]),
        Some(3 + own)
    );
    assert_eq!(all(&table.callers.snapshot()), 15 + 2_000 + 1_000);
    assert_eq!(recorded.total(STARTED), 15 + 2_000 + 1_000);
}

#[test]
fn pairs_of_a_displaced_row_are_given_back_and_taken_again() {
    let table = claimed(|builder| {
        builder
            .max_exported(41)
            .route(crate::support::route_of_header)
            .series_budget(494)
            .idle_after(Duration::from_secs(30))
    });
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    let mut send = |name: &str, route: &str| {
        let mut routed = request(name);
        routed
            .headers_mut()
            .insert("x-route", route.parse().unwrap());
        send_one(&mut service, routed);
    };
    // On 35 routes: of 273 pairs there is room for `__other__`, the five that have a row, and one that leaves.
    for round in 0..20 {
        for index in 0..300 * (round + 1) {
            send(&format!("heavy{round}"), &format!("/r{}", index % 35));
        }
        // The thread remembers other callers now, and so lets go of those that have left.
        for index in 0..1_100 {
            send(&format!("passing{round}-{index}"), "/p");
        }
        table.tick_after(Duration::from_secs(60));
        recorded.flush(&table.callers);
    }
    let last = table.caller("heavy19");
    assert!(last.exported);
    assert_eq!(
        last.routes
            .iter()
            .filter(|route| route.route == "__other__")
            .count(),
        0,
        "{:?}",
        last.routes
    );
    assert_eq!(all(&table.callers.snapshot()), recorded.total(STARTED));
}

#[test]
fn without_a_recorder_the_rows_of_displaced_callers_do_not_pile_up_and_stay_counted() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id"))
            .max_exported(41)
            .route(crate::support::route_of_header)
            .series_budget(494)
    });
    let mut sent = 0;
    // Callers that get a row, one after the other, each on a thread of its own and with a route: the 273 pairs
    // would not last if what is displaced were kept for ever.
    for round in 0..150u64 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut service = table.trivial();
                for index in 0..128 * (2 + round / 10) {
                    let mut routed = request(&format!("heavy{round}"));
                    routed
                        .headers_mut()
                        .insert("x-route", format!("/r{}", index % 4).parse().unwrap());
                    send_one(&mut service, routed);
                    sent += 1;
                }
            });
        });
        table.tick_after(Duration::from_secs(600));
    }
    let snapshot = table.callers.snapshot();
    assert_eq!(all(&snapshot), sent);
    assert!(snapshot.forgotten.started > sent / 4, "many were displaced");
    let last = snapshot.caller("heavy149").unwrap();
    assert!(last.exported);
    assert!(
        last.routes.iter().all(|route| route.route != "__other__"),
        "{:?}",
        last.routes
    );
}
