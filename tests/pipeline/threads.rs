//! Many threads on few callers: snapshots are consistent at any moment, and nothing is lost with a thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use callerid::snapshot::Snapshot;
use callerid::{Callers, Class, Clock, Timestamp, identify};
use tower::Layer;

use crate::support::{
    Answer, Inner, Recorded, START, Step, Table, answer_by_class, drain, request, respond,
    send_class, send_many,
};

/// Asserts what holds between two snapshots of a table whose callers stay: balance, and no step backwards.
pub fn assert_consistent(
    before: &BTreeMap<String, Vec<u64>>,
    snapshot: &Snapshot,
) -> BTreeMap<String, Vec<u64>> {
    let mut seen = BTreeMap::new();
    for caller in &snapshot.callers {
        let counts = &caller.counts;
        crate::support::assert_balanced(&caller.name, counts);
        let mut figures = vec![counts.started];
        figures.extend(Class::ALL.map(|class| counts.by_class[class]));
        if let Some(earlier) = before.get(&caller.name) {
            for (now, then) in figures.iter().zip(earlier) {
                assert!(
                    now >= then,
                    "{} went back: {earlier:?} {figures:?}",
                    caller.name
                );
            }
        }
        seen.insert(caller.name.clone(), figures);
    }
    for name in before.keys() {
        assert!(seen.contains_key(name), "{name} is gone");
    }
    seen
}

#[test]
fn counts_outlive_their_threads() {
    let table = Table::new();
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| send_many(&mut table.trivial(), "a", 200));
            }
        });
        let before = table.caller("a");
        table.tick_after(Duration::from_secs(2));
        let after = table.caller("a");
        assert_eq!(
            (before.counts, before.first_byte),
            (after.counts, after.first_byte)
        );
        assert_eq!(before.latency, after.latency);
        assert_eq!(before.routes, after.routes);
    }
    assert_eq!(table.ended("a"), [(Class::Ok, 20 * 4 * 200)]);
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    let started = recorded.counter("callerid_requests_started_total", &[("caller", "a")]);
    assert_eq!(started, Some(20 * 4 * 200));
}

#[test]
fn first_requests_that_come_at_the_same_moment_all_have_the_row() {
    const THREADS: u64 = 4;
    for _ in 0..5 {
        let table = Table::new();
        let start = std::sync::Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut service = table.trivial();
                    for index in 0..100 {
                        start.wait();
                        send_many(&mut service, &format!("c{index}"), 1);
                    }
                });
            }
        });
        let snapshot = table.callers.snapshot();
        assert_eq!(
            (snapshot.callers.len(), snapshot.overflow),
            (100, 0),
            "nobody is in `__other__`"
        );
        for caller in snapshot.callers {
            assert!(caller.exported);
            assert_eq!(
                (caller.counts.started, caller.in_other.started),
                (THREADS, 0)
            );
        }
    }
}

#[test]
fn requests_that_end_on_another_thread_than_they_began_on_are_balanced() {
    let table = Table::new();
    let (send, receive) = mpsc::sync_channel(64);
    let receive = Arc::new(std::sync::Mutex::new(receive));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let send = send.clone();
            scope.spawn(|| {
                let send = send;
                let mut service =
                    table.layered(|_| Answer::ok([Step::Data("abc"), Step::Data("d")]));
                for index in 0..3_000 {
                    let name = ["a", "b"][index % 2];
                    send.send((index, respond(&mut service, request(name)).into_body()))
                        .unwrap();
                }
            });
        }
        drop(send);
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Ok((index, mut body)) = receive.lock().unwrap().recv() else {
                        break;
                    };
                    // A third is dropped on the way.
                    if index % 3 > 0 {
                        drain(&mut body);
                    }
                }
            });
        }
        let mut seen = BTreeMap::new();
        for _ in 0..200 {
            seen = assert_consistent(&seen, &table.callers.snapshot());
        }
    });
    for name in ["a", "b"] {
        assert_eq!(
            table.ended(name),
            [(Class::Ok, 2_000), (Class::Cancelled, 1_000)]
        );
        assert_eq!(table.caller(name).response_bytes, 2_000 * 4);
    }
}

/// Shows each thread a time of its own, so that every duration is known to the nanosecond.
#[derive(Clone)]
struct TimeOfTheThread;

thread_local!(static NANOS: Cell<u64> = const { Cell::new(0) });

impl Clock for TimeOfTheThread {
    fn now(&self) -> Timestamp {
        START + Duration::from_nanos(NANOS.get())
    }
}

#[test]
fn a_hammer_of_threads_that_come_and_go_loses_nothing_while_it_is_flushed_and_looked_at() {
    const ROUNDS: usize = 6;
    const THREADS: usize = 4;
    const REQUESTS: usize = 2_000;
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .clock(TimeOfTheThread)
        .manual_tick()
        .build()
        .unwrap();
    let names = ["a", "b", "c"];
    let done = AtomicBool::new(false);
    let seconds = AtomicUsize::new(0);
    let (recorded, expected) = std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            let mut recorded = Recorded::new();
            while !done.load(Ordering::Acquire) {
                recorded.flush(&callers);
                // The lanes of threads that are gone are folded meanwhile.
                let second = seconds.fetch_add(1, Ordering::Relaxed) as u64;
                recorded.installed(|| callers.tick(START + Duration::from_secs(second)));
            }
            recorded.flush(&callers);
            recorded
        });
        let looker = scope.spawn(|| {
            let mut seen = BTreeMap::new();
            while !done.load(Ordering::Acquire) {
                seen = assert_consistent(&seen, &callers.snapshot());
            }
        });
        let mut expected: BTreeMap<(&str, Class), (u64, u64)> = BTreeMap::new();
        for round in 0..ROUNDS {
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let layer = callers.layer();
                    scope.spawn(move || {
                        hammer(&layer, &names, (round * THREADS + thread) as u64, REQUESTS)
                    })
                })
                .collect();
            for worker in workers {
                for (key, (count, nanos)) in worker.join().unwrap() {
                    let sum = expected.entry(key).or_default();
                    *sum = (sum.0 + count, sum.1 + nanos);
                }
            }
        }
        done.store(true, Ordering::Release);
        looker.join().unwrap();
        (flusher.join().unwrap(), expected)
    });
    let (mut recorded, mut expected) = (recorded, expected);
    // A flush that caught a request half written makes up for it with the next ones.
    let mut service = callers.layer().layer(Inner::new(timed));
    for name in names {
        for class in Class::ALL {
            for millis in 1..20 {
                send_class(&mut service, name, class, &(millis * 1_000_000).to_string());
                let sum = expected.entry((name, class)).or_default();
                *sum = (sum.0 + 1, sum.1 + millis * 1_000_000);
            }
        }
    }
    recorded.flush(&callers);
    let snapshot = callers.snapshot();
    for name in names {
        let counts = snapshot.caller(name).unwrap().counts;
        assert_eq!(counts.in_flight, 0);
        let started = recorded.counter("callerid_requests_started_total", &[("caller", name)]);
        assert_eq!(started, Some(counts.started));
        let gauge = recorded.gauge("callerid_in_flight_requests", &[("caller", name)]);
        assert_eq!(gauge, Some(0.0));
        for class in Class::ALL {
            let (count, nanos) = expected.get(&(name, class)).copied().unwrap_or_default();
            let labels = [("caller", name), ("class", class.as_str())];
            assert_eq!(counts.by_class[class], count, "{name} {class}");
            assert_eq!(
                recorded.counter("callerid_requests_total", &labels),
                Some(count)
            );
            let durations = recorded.histogram("callerid_request_duration_seconds", &labels);
            assert_eq!(durations.len() as u64, count);
            let (sum, exact) = (durations.iter().sum::<f64>(), nanos as f64 / 1e9);
            assert!(
                (sum - exact).abs() <= exact * 1e-6,
                "{name} {class}: {sum} instead of {exact}"
            );
        }
    }
    let all = ROUNDS * THREADS * REQUESTS + names.len() * Class::COUNT * 19;
    assert_eq!(recorded.total("callerid_requests_total"), all as u64);
}

/// Takes as long as the request says, on the clock of the thread.
fn timed(request: http::Request<String>) -> Answer {
    let nanos: u64 = request.headers()["x-route"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    NANOS.set(NANOS.get() + nanos);
    answer_by_class(request)
}

/// Sends requests of every class and of known durations; returns count and nanoseconds by caller and class.
fn hammer<'a>(
    layer: &callerid::CallerLayer,
    names: &[&'a str],
    seed: u64,
    requests: usize,
) -> BTreeMap<(&'a str, Class), (u64, u64)> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut service = layer.layer(Inner::new(timed));
    let mut sums: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for _ in 0..requests {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let name = names[random as usize % names.len()];
        // Mostly one class, so that it is hot.
        let class = if random % 5 < 3 {
            Class::Ok
        } else {
            Class::ALL[(random >> 8) as usize % Class::COUNT]
        };
        let nanos = (random >> 16) % 20_000_000;
        send_class(&mut service, name, class, &nanos.to_string());
        let sum = sums.entry((name, class)).or_default();
        *sum = (sum.0 + 1, sum.1 + nanos);
    }
    sums
}
