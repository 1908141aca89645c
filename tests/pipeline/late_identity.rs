//! A service that authenticates inside says afterwards who the caller is.

use std::sync::{Arc, Mutex};

use callerid::{Account, Caller, CallerSlot, Class, identify};

use crate::support::{
    Answer, Recorded, Step, Table, assert_balanced, drain, frame, request, respond, send_many,
};

fn late_table() -> Table {
    Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id"))
            .late_identity()
    })
}

fn slot(request: &http::Request<String>) -> CallerSlot {
    request.extensions().get::<CallerSlot>().unwrap().clone()
}

#[test]
fn an_open_request_moves_with_everything_that_is_counted() {
    let table = late_table();
    let mut service = table.layered(|request| {
        let caller = slot(&request).verified("payments").unwrap();
        assert_eq!((caller.name(), caller.is_verified()), ("payments", true));
        assert_eq!(caller.source(), callerid::Source::Late);
        Answer::ok([Step::Data("hello")])
    });
    let mut body = respond(&mut service, request("a")).into_body();
    let payments = table.caller("payments");
    assert_eq!((payments.counts.started, payments.counts.in_flight), (1, 1));
    let snapshot = table.callers.snapshot();
    assert!(
        snapshot
            .caller("a")
            .is_none_or(|a| a.counts.started == 0 && a.counts.in_flight == 0)
    );
    drain(&mut body);
    assert_eq!(table.ended("payments"), [(Class::Ok, 1)]);
    let payments = table.caller("payments");
    assert_eq!(payments.response_bytes, 5);
    assert_eq!(payments.first_byte.unwrap().count, 1);
    assert_eq!(payments.latency[0].quantiles.count, 1);
}

#[test]
fn in_flight_moves_in_one_step_while_the_request_is_open() {
    let table = Arc::new(late_table());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (inside, noted) = (Arc::clone(&table), Arc::clone(&seen));
    let mut service = table.layered(move |request| {
        let look = |name: &str| {
            let snapshot = inside.callers.snapshot();
            snapshot.caller(name).map_or(0, |caller| {
                assert_balanced(name, &caller.counts);
                caller.counts.in_flight
            })
        };
        noted.lock().unwrap().push((look("a"), look("b")));
        slot(&request).verified("b");
        noted.lock().unwrap().push((look("a"), look("b")));
        Answer::status(422)
    });
    drain(&mut respond(&mut service, request("a")).into_body());
    assert_eq!(*seen.lock().unwrap(), [(1, 0), (0, 1)]);
    assert_eq!(table.ended("b"), [(Class::Validation, 1)]);
}

#[test]
fn only_the_first_identity_counts() {
    let table = late_table();
    table.send(request("a"), |request| {
        let slot = slot(&request);
        assert!(slot.verified("b").is_some());
        assert!(slot.verified("c").is_none(), "said before");
        assert!(
            slot.clone().verified("c").is_none(),
            "a clone is the same slot"
        );
        Answer::status(200)
    });
    assert_eq!(table.ended("b"), [(Class::Ok, 1)]);
    assert!(table.callers.snapshot().caller("c").is_none());
}

#[test]
fn after_the_head_it_is_too_late() {
    let table = late_table();
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let mut service = table.layered(move |request| {
        *keep.lock().unwrap() = Some(slot(&request));
        Answer::ok([Step::Data("x"), Step::Data("y")])
    });
    let mut body = respond(&mut service, request("a")).into_body();
    let slot = kept.lock().unwrap().take().unwrap();
    assert!(slot.verified("b").is_none());
    frame(&mut body).unwrap().unwrap();
    drain(&mut body);
    assert!(slot.verified("b").is_none());
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
}

#[test]
fn an_invalid_name_changes_nothing_and_a_valid_one_may_follow() {
    let table = late_table();
    table.send(request("a"), |request| {
        let slot = slot(&request);
        for bad in ["", "a b", "__other__", "ip:10.0.0.1", &"x".repeat(65)] {
            assert!(slot.verified(bad).is_none(), "{bad:?}");
        }
        assert!(slot.verified("b").is_some());
        Answer::status(200)
    });
    assert_eq!(table.ended("b"), [(Class::Ok, 1)]);
}

#[test]
fn a_request_that_moved_and_was_cancelled_failed_or_panicked_is_counted_at_its_new_caller() {
    use tower::Service;
    let table = late_table();
    let moving = |answer: fn() -> Answer| {
        move |request: http::Request<String>| {
            slot(&request).verified("b");
            answer()
        }
    };
    drop(table.layered(moving(|| Answer::Never)).call(request("a")));
    table.send(request("a"), moving(|| Answer::Fail));
    assert!(crate::support::panics(
        || table.send(request("a"), moving(|| Answer::PanicInCall))
    ));
    assert_eq!(
        table.ended("b"),
        [(Class::Failed, 2), (Class::Cancelled, 1)]
    );
}

#[test]
fn a_late_identity_reaches_the_roster_and_a_claim_of_it_does_not() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id"))
            .caller(Account::new("checkout"))
            .late_identity()
    });
    table.send(request("checkout"), |request| {
        let caller = request.extensions().get::<Caller>().unwrap();
        assert_eq!(caller.name(), "claimed:checkout");
        slot(&request).verified("checkout");
        Answer::status(200)
    });
    assert_eq!(table.ended("checkout"), [(Class::Ok, 1)]);
    assert!(table.caller("checkout").on_roster);
}

#[test]
fn a_request_of_a_caller_without_a_row_moves_too() {
    // One row for others only: everybody past the first is tracked and counted under `__other__`.
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id"))
            .max_exported(41)
            .late_identity()
    });
    let mut plain = table.trivial();
    for name in ["r1", "r2", "r3", "r4", "r5", "r6", "r7"] {
        send_many(&mut plain, name, 1);
    }
    let early = table.caller("r7");
    assert!(!early.exported, "the rows are full");
    let other = table.caller("__other__").counts.started;
    let mut service = table.layered(|request| {
        slot(&request).verified("late");
        Answer::ok([Step::Data("x")])
    });
    let mut body = respond(&mut service, request("r7")).into_body();
    let now = |name: &str| table.caller(name).counts;
    assert_eq!((now("r7").started, now("r7").in_flight), (1, 0));
    assert_eq!((now("late").started, now("late").in_flight), (1, 1));
    assert_eq!(
        (now("__other__").started, now("__other__").in_flight),
        (other + 1, 1)
    );
    drain(&mut body);
    assert_eq!(table.ended("r7"), [(Class::Ok, 1)]);
    assert_eq!(table.ended("late"), [(Class::Ok, 1)]);
}

#[test]
fn the_gauge_and_the_counters_of_the_recorder_follow() {
    let table = late_table();
    let mut recorded = Recorded::new();
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let mut service = table.layered(move |request| {
        *keep.lock().unwrap() = Some(slot(&request));
        Answer::Never
    });
    let future = tower::Service::call(&mut service, request("a"));
    recorded.flush(&table.callers);
    let gauge = |recorded: &Recorded, name| {
        recorded.gauge("callerid_in_flight_requests", &[("caller", name)])
    };
    assert_eq!(gauge(&recorded, "a"), Some(1.0));
    kept.lock().unwrap().take().unwrap().verified("b").unwrap();
    recorded.flush(&table.callers);
    assert_eq!(
        (gauge(&recorded, "a"), gauge(&recorded, "b")),
        (Some(0.0), Some(1.0))
    );
    drop(future);
    recorded.flush(&table.callers);
    assert_eq!(gauge(&recorded, "b"), Some(0.0));
    // A counter never goes back: what was told of `a` before the move is made up for by its next request.
    send_many(&mut table.trivial(), "a", 2);
    recorded.flush(&table.callers);
    let started = |name| recorded.counter("callerid_requests_started_total", &[("caller", name)]);
    assert_eq!((started("a"), started("b")), (Some(2), Some(1)));
}

#[test]
fn a_late_identity_from_another_thread_moves_a_hot_request() {
    let table = late_table();
    // The caller is hot here: this thread has a lane of its own.
    send_many(&mut table.trivial(), "a", 200);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let mut service = table.layered(move |request| {
        keep.lock().unwrap().push(slot(&request));
        Answer::Never
    });
    let open: Vec<_> = (0..100)
        .map(|_| tower::Service::call(&mut service, request("a")))
        .collect();
    let slots = std::mem::take(&mut *kept.lock().unwrap());
    let moving = std::thread::spawn(move || {
        slots
            .iter()
            .for_each(|slot| drop(slot.verified("b").unwrap()));
    });
    moving.join().unwrap();
    let counts = |name| table.caller(name).counts;
    assert_eq!((counts("a").started, counts("a").in_flight), (200, 0));
    assert_eq!((counts("b").started, counts("b").in_flight), (100, 100));
    drop(open);
    assert_eq!(table.ended("a"), [(Class::Ok, 200)]);
    assert_eq!(table.ended("b"), [(Class::Cancelled, 100)]);
}
