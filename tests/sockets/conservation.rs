//! Started = sum over classes + in flight, for every caller, in every snapshot; and at the end nothing is open.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use callerid::snapshot::Snapshot;
use callerid::{CallerLayer, Callers, Class, identify};

use crate::support::{Recorded, assert_balanced};
use crate::{servers, storm};

const CLIENTS: usize = 12;
const REQUESTS: usize = 120;
const RESETS: usize = 60;

#[derive(Clone, Copy)]
struct Protocol {
    http2: bool,
    grpc: bool,
}

fn conserve<S>(protocol: Protocol, server: impl FnOnce(CallerLayer) -> S) -> Snapshot
where
    S: Future<Output = SocketAddr>,
{
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .manual_tick()
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let tallies = storm::Tallies::default();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (callers, done) = (callers.clone(), Arc::clone(&done));
        std::thread::spawn(move || watch(&callers, &done))
    };
    let address = runtime.block_on(server(callers.layer()));
    // What listens, and nothing else: no connection has been made.
    let listening = runtime.metrics().num_alive_tasks();
    let Protocol { http2, grpc } = protocol;
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let tallies = Arc::clone(&tallies);
            clients.spawn(async move {
                let name = format!("client{}", client % 5);
                storm::client(
                    address,
                    http2,
                    grpc,
                    &name,
                    client as u64 + 1,
                    REQUESTS,
                    &tallies,
                )
                .await;
            });
        }
        if !http2 {
            let tallies = Arc::clone(&tallies);
            clients.spawn(async move {
                storm::resetting(address, "resetter", RESETS, &tallies).await;
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        storm::last(address, http2, grpc, "last", &tallies).await;
    });

    // What a client cut off ends when the server notices, and it may begin as late as that: a table with no open
    // request has not seen all of them while a connection or a stream has a task.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let alive = runtime.metrics().num_alive_tasks() - listening;
        if alive == 0 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{alive} tasks never end: {:#?}",
            callers.snapshot()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    // Nothing is left that could begin or end a request.
    drop(runtime);
    let snapshot = callers.snapshot();
    for caller in &snapshot.callers {
        assert_eq!(
            caller.counts.in_flight, 0,
            "{} is open for ever",
            caller.name
        );
    }
    done.store(true, Ordering::Release);
    let mut recorded = watcher.join().unwrap();
    recorded.flush(&callers);

    for (name, tally) in tallies.lock().unwrap().iter() {
        let Some(caller) = snapshot.caller(name) else {
            panic!("{name} is not in the table");
        };
        assert_balanced(name, &caller.counts);
        let started = caller.counts.started;
        assert!(
            (tally.answered..=tally.answered + tally.perhaps).contains(&started),
            "{name}: {started} started, of {tally:?}"
        );
        let counter = |metric: &str| recorded.counter(metric, &[("caller", name)]);
        assert_eq!(counter("callerid_requests_started_total"), Some(started));
        assert_eq!(
            counter("callerid_response_body_bytes_total"),
            Some(caller.response_bytes)
        );
        let gauge = recorded.gauge("callerid_in_flight_requests", &[("caller", name)]);
        assert_eq!(gauge, Some(0.0), "{name}");
        for class in Class::ALL {
            let labels = [("caller", name.as_str()), ("class", class.as_str())];
            let ended = caller.counts.by_class[class];
            assert_eq!(
                recorded.counter("callerid_requests_total", &labels),
                Some(ended)
            );
            let durations = recorded.histogram("callerid_request_duration_seconds", &labels);
            assert_eq!(durations.len() as u64, ended);
        }
    }
    let started: u64 = snapshot
        .callers
        .iter()
        .map(|caller| caller.counts.started)
        .sum();
    assert_eq!(recorded.total("callerid_requests_started_total"), started);
    assert_eq!(recorded.total("callerid_route_requests_total"), started);
    assert!(started > (CLIENTS * REQUESTS) as u64 / 2, "{started}");
    snapshot
}

/// Takes snapshots and flushes all the time; asserts that each is balanced and that nothing runs backwards.
fn watch(callers: &Callers, done: &AtomicBool) -> Recorded {
    let mut recorded = Recorded::new();
    let mut before: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while !done.load(Ordering::Acquire) {
        for caller in callers.snapshot().callers {
            assert_balanced(&caller.name, &caller.counts);
            let mut figures = vec![caller.counts.started];
            figures.extend(Class::ALL.map(|class| caller.counts.by_class[class]));
            if let Some(earlier) = before.get(&caller.name) {
                let back = figures.iter().zip(earlier).any(|(now, then)| now < then);
                assert!(!back, "{} went back: {earlier:?} {figures:?}", caller.name);
            }
            before.insert(caller.name, figures);
        }
        recorded.flush(callers);
    }
    recorded
}

/// How many requests of all callers ended in each class.
fn ended(snapshot: &Snapshot) -> BTreeMap<Class, u64> {
    let mut sums = BTreeMap::new();
    for caller in &snapshot.callers {
        for (class, count) in caller.counts.by_class.iter() {
            *sums.entry(class).or_default() += count;
        }
    }
    sums
}

fn assert_ends(snapshot: &Snapshot, expected: &[Class]) {
    let found = ended(snapshot);
    for class in expected {
        assert!(
            found.contains_key(class),
            "no request ended as {class}: {found:?}"
        );
    }
}

#[test]
fn axum_over_http1_loses_nothing() {
    let protocol = Protocol {
        http2: false,
        grpc: false,
    };
    let snapshot = conserve(protocol, servers::axum);
    // `error` becomes a 502 of the handler's own.
    assert_ends(
        &snapshot,
        &[
            Class::Ok,
            Class::Validation,
            Class::ServerError,
            Class::Unavailable,
            Class::Failed,
            Class::Cancelled,
        ],
    );
    for caller in snapshot
        .callers
        .iter()
        .filter(|caller| caller.name != "__other__")
    {
        let routes: Vec<_> = caller
            .routes
            .iter()
            .map(|route| route.route.as_str())
            .collect();
        assert_eq!(routes, ["GET /{what}"]);
    }
}

#[test]
fn hyper_over_http1_loses_nothing() {
    let protocol = Protocol {
        http2: false,
        grpc: false,
    };
    let snapshot = conserve(protocol, servers::hyper);
    assert_ends(
        &snapshot,
        &[
            Class::Ok,
            Class::Validation,
            Class::ServerError,
            Class::Failed,
            Class::Cancelled,
        ],
    );
}

#[test]
fn hyper_over_http2_loses_nothing() {
    let protocol = Protocol {
        http2: true,
        grpc: false,
    };
    let snapshot = conserve(protocol, servers::hyper);
    assert_ends(
        &snapshot,
        &[
            Class::Ok,
            Class::Validation,
            Class::ServerError,
            Class::Failed,
            Class::Cancelled,
        ],
    );
}

#[test]
fn tonic_loses_nothing() {
    let protocol = Protocol {
        http2: true,
        grpc: true,
    };
    let snapshot = conserve(protocol, servers::tonic);
    assert_ends(
        &snapshot,
        &[
            Class::Ok,
            Class::Validation,
            Class::ServerError,
            Class::Unavailable,
            Class::Failed,
            Class::Cancelled,
        ],
    );
}
