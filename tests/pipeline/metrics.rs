//! What a recorder sees: exact counts, from zero, whatever recorder it is and whenever it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use callerid::{Account, Class, LATENCY_BUCKETS, identify};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use metrics_util::MetricKindMask;
use tower::Service;

use crate::support::log::logged;
use crate::support::{
    Answer, Recorded, Step, Table, answer_by_class, request, route_of_header, send_class,
    send_many, send_one,
};

const STARTED: &str = "callerid_requests_started_total";
const REQUESTS: &str = "callerid_requests_total";
const ROUTES: &str = "callerid_route_requests_total";
const IN_FLIGHT: &str = "callerid_in_flight_requests";
const DURATION: &str = "callerid_request_duration_seconds";

#[test]
fn counters_are_born_at_zero_with_the_row() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id").verified())
            .caller(Account::new("checkout"))
    });
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    let of_class = |recorded: &Recorded, name, class: Class| {
        recorded.counter(REQUESTS, &[("caller", name), ("class", class.as_str())])
    };
    // On the roster: before the first request.
    assert_eq!(
        recorded.counter(STARTED, &[("caller", "checkout")]),
        Some(0)
    );
    for class in Class::ALL {
        assert_eq!(of_class(&recorded, "checkout", class), Some(0), "{class}");
    }
    // Another: with its first request, all classes at once.
    send_many(&mut table.trivial(), "a", 1);
    recorded.flush(&table.callers);
    for class in Class::ALL {
        let expected = u64::from(class == Class::Ok);
        assert_eq!(of_class(&recorded, "a", class), Some(expected), "{class}");
    }
    for counter in [
        "callerid_request_body_bytes_total",
        "callerid_response_body_bytes_total",
    ] {
        assert_eq!(recorded.counter(counter, &[("caller", "a")]), Some(0));
    }
    assert_eq!(recorded.total("callerid_impersonations_total"), 0);
    assert!(
        recorded
            .counter("callerid_impersonations_total", &[])
            .is_some()
    );
    assert!(
        recorded
            .counter("callerid_callers_overflow_total", &[])
            .is_some()
    );
}

#[test]
fn the_recorder_has_the_figures_of_the_snapshot_and_a_second_flush_changes_nothing() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id").verified())
            .route(route_of_header)
    });
    let mut recorded = Recorded::new();
    let mut service = table.layered(answer_by_class);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        for class in Class::ALL {
            for _ in 0..=index {
                send_class(&mut service, name, class, "/v1");
            }
            recorded.flush(&table.callers);
        }
    }
    for _ in 0..2 {
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            let each = index as u64 + 1;
            let counts = table.caller(name).counts;
            assert_eq!((counts.started, counts.in_flight), (12 * each, 0));
            assert_eq!(
                recorded.counter(STARTED, &[("caller", name)]),
                Some(12 * each)
            );
            for class in Class::ALL {
                let labels = [("caller", name), ("class", class.as_str())];
                assert_eq!(counts.by_class[class], each);
                assert_eq!(
                    recorded.counter(REQUESTS, &labels),
                    Some(each),
                    "{name} {class}"
                );
                assert_eq!(recorded.histogram(DURATION, &labels).len() as u64, each);
            }
            for (fault, classes) in [("none", 1), ("caller", 7), ("service", 4)] {
                let labels = [("caller", name), ("route", "GET /v1"), ("fault", fault)];
                assert_eq!(recorded.counter(ROUTES, &labels), Some(classes * each));
            }
        }
        recorded.flush(&table.callers);
    }
}

#[test]
fn the_gauge_shows_what_is_open_and_returns_to_zero() {
    let table = Table::new();
    let mut recorded = Recorded::new();
    let mut service = table.layered(|_| Answer::Never);
    let mut open: Vec<_> = (0..3).map(|_| service.call(request("a"))).collect();
    for left in (0..=3).rev() {
        recorded.flush(&table.callers);
        assert_eq!(
            recorded.gauge(IN_FLIGHT, &[("caller", "a")]),
            Some(f64::from(left))
        );
        open.pop();
    }
    assert_eq!(
        recorded.gauge(
            "callerid_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))]
        ),
        Some(1.0)
    );
    assert_eq!(recorded.gauge("callerid_callers_tracked", &[]), Some(1.0));
}

#[test]
fn ticks_hand_samples_over_once_a_second_and_lose_none() {
    let table = Table::new();
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    let ok = [("caller", "a"), ("class", "ok")];
    let mut seen = Vec::new();
    for tick in 1..=9 {
        if tick <= 4 {
            send_many(&mut service, "a", 1);
        }
        let now = table.clock.advance(Duration::from_millis(250));
        recorded.installed(|| table.callers.tick(now));
        recorded.read();
        let samples = recorded.histogram(DURATION, &ok).len() as u64;
        seen.push((recorded.counter(REQUESTS, &ok).unwrap(), samples));
    }
    // The caller falls silent after the fourth tick; what was left over comes all the same.
    assert_eq!(seen[..4], [(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(seen[4..], [(4, 4); 5]);
    send_many(&mut service, "a", 1);
    recorded.flush(&table.callers);
    send_many(&mut service, "a", 1);
    recorded.flush(&table.callers);
    assert_eq!(recorded.histogram(DURATION, &ok).len(), 6, "at once");
}

/// A recorder of the exporter that most services have, with our buckets.
fn prometheus(builder: PrometheusBuilder) -> PrometheusRecorder {
    builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)
        .unwrap()
        .build_recorder()
}

/// The samples of an exposition by their name and labels, as they are written.
fn scrape(recorder: &PrometheusRecorder) -> BTreeMap<String, f64> {
    recorder
        .handle()
        .render()
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn trap_15_exported_histograms_have_buckets_and_exact_sums() {
    let table = Table::new();
    let recorder = prometheus(PrometheusBuilder::new());
    let clock = table.clock.clone();
    let mut service = table.layered(move |request| {
        let nanos = request.headers()["x-nanos"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        clock.advance(Duration::from_nanos(nanos));
        Answer::status(200)
    });
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut expected = vec![0u64; LATENCY_BUCKETS.len() + 1];
    let mut sum = 0.0;
    for index in 0..4_000u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // From 10 us to a minute and a half, bounds included: what is on a bound is below it.
        let nanos = match index % 8 {
            0 => 5_000_000,
            1 => 60_000_000_000 + random % 30_000_000_000,
            exponent => random % 10u64.pow(exponent as u32 + 3) + 10_000,
        };
        let seconds = nanos as f64 / 1e9;
        sum += seconds;
        expected[LATENCY_BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
        let mut timed = request("a");
        timed
            .headers_mut()
            .insert("x-nanos", nanos.to_string().parse().unwrap());
        send_one(&mut service, timed);
        if index % 37 == 0 {
            metrics::with_local_recorder(&recorder, || table.callers.flush());
        }
    }
    metrics::with_local_recorder(&recorder, || table.callers.flush());
    let samples = scrape(&recorder);
    let mut cumulative = 0;
    for (bound, count) in LATENCY_BUCKETS.iter().zip(&expected) {
        cumulative += count;
        let bucket = format!("{DURATION}_bucket{{caller=\"a\",class=\"ok\",le=\"{bound}\"}}");
        assert_eq!(samples[&bucket] as u64, cumulative, "{bucket}");
    }
    assert_eq!(
        samples[&format!("{DURATION}_count{{caller=\"a\",class=\"ok\"}}")],
        4_000.0
    );
    let exported = samples[&format!("{DURATION}_sum{{caller=\"a\",class=\"ok\"}}")];
    assert!(
        (exported / sum - 1.0).abs() < 1e-9,
        "{exported} instead of {sum}"
    );
}

#[test]
fn trap_13_a_recorder_that_is_installed_late_gets_everything_since_the_start() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::ok([Step::Data("abc")]));
    send_many(&mut service, "a", 7);
    // Without a recorder nothing is consumed, and the snapshot works.
    table.callers.flush();
    table.tick_after(Duration::from_secs(60));
    send_many(&mut service, "a", 3);
    assert_eq!(table.caller("a").counts.started, 10);
    let mut late = Recorded::new();
    late.flush(&table.callers);
    let a = [("caller", "a")];
    assert_eq!(late.counter(STARTED, &a), Some(10));
    assert_eq!(
        late.counter("callerid_response_body_bytes_total", &a),
        Some(30)
    );
    let labels = [("caller", "a"), ("class", "ok")];
    assert_eq!(late.counter(REQUESTS, &labels), Some(10));
    assert_eq!(late.histogram(DURATION, &labels).len(), 10);
    assert_eq!(
        late.histogram("callerid_time_to_first_byte_seconds", &a)
            .len(),
        10
    );

    // A recorder in its place is found too, and nothing is told twice.
    let mut next = Recorded::new();
    send_many(&mut service, "a", 5);
    next.flush(&table.callers);
    assert_eq!(next.counter(STARTED, &a), Some(5));
    late.read();
    assert_eq!(late.counter(STARTED, &a), Some(10));
}

#[test]
fn trap_13_a_missing_recorder_is_said_once_and_one_that_is_there_is_not() {
    let missing = |said: Vec<String>| {
        let lines = said.into_iter().filter(|line| line.contains("recorder"));
        lines.collect::<Vec<_>>()
    };
    let table = Table::new();
    let said = missing(logged(|| {
        for _ in 0..3 {
            table.tick_after(Duration::from_secs(1));
        }
    }));
    let [said] = &said[..] else {
        panic!("{said:?}")
    };
    let warning = "WARN callerid::upkeep: callerid: no metrics recorder is installed yet";
    assert!(said.starts_with(warning), "{said}");
    let table = Table::new();
    let recorded = Recorded::new();
    let said = logged(|| {
        recorded.installed(|| table.tick_after(Duration::from_secs(1)));
    });
    assert_eq!(missing(said), Vec::<String>::new());
}

#[test]
fn trap_13_what_was_counted_in_a_row_that_left_reaches_a_late_recorder_too() {
    // Room for one label of others: it is displaced, and all of that before a recorder is there.
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id").verified())
            .max_exported(41)
    });
    let mut service = table.trivial();
    for name in ["r1", "r2", "r3", "r4", "r5"] {
        send_many(&mut service, name, 1);
    }
    send_many(&mut service, "heavy", 300);
    table.tick_after(Duration::from_secs(1));
    assert!(table.caller("heavy").exported);
    let mut late = Recorded::new();
    late.flush(&table.callers);
    assert_eq!(late.total(STARTED), 305);
    assert_eq!(late.total(REQUESTS), 305);
}

#[test]
fn trap_14_a_series_that_an_exporter_dropped_for_idleness_comes_back_and_loses_nothing() {
    let table = Table::new();
    let idle = Duration::from_millis(100);
    let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(idle));
    let recorder = prometheus(builder);
    let flush = || metrics::with_local_recorder(&recorder, || table.callers.flush());
    let started = format!("{STARTED}{{caller=\"a\"}}");
    let mut service = table.trivial();
    send_many(&mut service, "a", 5);
    flush();
    assert_eq!(scrape(&recorder)[&started], 5.0);
    // Nobody flushes: the exporter forgets the series, and the handles of the table count into nothing.
    let deadline = Instant::now() + Duration::from_secs(20);
    while scrape(&recorder)
        .keys()
        .any(|series| series.contains("caller=\"a\""))
    {
        assert!(Instant::now() < deadline, "the exporter keeps a series");
        std::thread::sleep(Duration::from_millis(5));
    }
    table.clock.advance(Duration::from_secs(2));
    send_many(&mut service, "a", 3);
    flush();
    let samples = scrape(&recorder);
    assert_eq!(
        samples.get(&started),
        Some(&3.0),
        "a counter that starts anew"
    );
    let ok = format!("{REQUESTS}{{caller=\"a\",class=\"ok\"}}");
    assert_eq!(samples.get(&ok), Some(&3.0));
    assert_eq!(
        samples.get(&format!("{DURATION}_count{{caller=\"a\",class=\"ok\"}}")),
        Some(&3.0)
    );
    assert_eq!(
        samples
            .get(&format!("{IN_FLIGHT}{{caller=\"a\"}}"))
            .copied()
            .unwrap_or(0.0),
        0.0
    );

    // Without a request too: every handle is resolved again after half a minute.
    let deadline = Instant::now() + Duration::from_secs(20);
    while scrape(&recorder)
        .keys()
        .any(|series| series.contains("caller=\"a\""))
    {
        assert!(Instant::now() < deadline, "the exporter keeps a series");
        std::thread::sleep(Duration::from_millis(5));
    }
    table.clock.advance(Duration::from_secs(31));
    flush();
    assert!(
        scrape(&recorder).contains_key(&started),
        "an idle series is kept alive"
    );
}

fn routed(settings: impl FnOnce(callerid::Builder) -> callerid::Builder) -> Table {
    Table::with(|builder| {
        settings(
            builder
                .identify(identify::header("x-client-id").verified())
                .route(route_of_header),
        )
    })
}

#[test]
fn trap_02_pairs_of_caller_and_route_are_bounded_and_their_sum_is_exact() {
    let table = routed(|builder| builder);
    let mut recorded = Recorded::new();
    let mut service = table.layered(answer_by_class);
    for name in 0..50 {
        for route in 0..50 {
            send_class(
                &mut service,
                &format!("c{name}"),
                Class::Ok,
                &format!("/r{route}"),
            );
        }
    }
    recorded.flush(&table.callers);
    let pairs: BTreeSet<_> = recorded
        .kinds
        .keys()
        .filter(|(name, labels)| {
            name == ROUTES && !labels.contains(&("route".into(), "__other__".into()))
        })
        .collect();
    assert_eq!(pairs.len(), 1_000);
    assert_eq!(recorded.total(ROUTES), 2_500);
}

#[test]
fn route_series_stay_in_the_budget_and_their_sum_is_exact() {
    let table = routed(|builder| builder);
    let mut recorded = Recorded::new();
    let mut service = table.layered(answer_by_class);
    let faults = [Class::Ok, Class::Validation, Class::ServerError];
    for round in 0..2 {
        for name in 0..100 {
            for route in 0..15 {
                for class in faults {
                    let (name, route) = (format!("c{name}"), format!("/r{route}"));
                    send_class(&mut service, &name, class, &route);
                }
            }
        }
        recorded.flush(&table.callers);
        let series = recorded.series_by_metric()[ROUTES];
        assert!((1_500..=2_000).contains(&series), "round {round}: {series}");
        assert_eq!(recorded.total(ROUTES), 4_500 * (round + 1));
    }
}

#[test]
fn the_route_bound_holds_when_callers_are_displaced() {
    // A row that leaves gives its pairs back: those that it had, no more.
    let table = routed(|builder| builder.max_exported(41).series_budget(494));
    let mut service = table.layered(answer_by_class);
    // What 41 rows have in proportion to 150.
    let bound = 41 * 1_000 / 150;
    for round in 0..30 {
        let name = format!("heavy{round}");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut service = table.layered(answer_by_class);
                for index in 0..128 * (round + 2) {
                    // No route: the pair with `unmatched` is free.
                    let mut plain = request(&name);
                    plain.headers_mut().insert("x-class", "ok".parse().unwrap());
                    if index % 2 == 0 {
                        plain
                            .headers_mut()
                            .insert("x-route", "/v1".parse().unwrap());
                    }
                    send_one(&mut service, plain);
                }
            });
        });
        let mut recorded = Recorded::new();
        table.tick_after(Duration::from_secs(120));
        recorded.flush(&table.callers);
    }
    for route in 0..2 * bound {
        send_class(&mut service, "heavy29", Class::Ok, &format!("/many{route}"));
    }
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    let routes = recorded.values(ROUTES, "route");
    let many = routes
        .iter()
        .filter(|route| route.starts_with("GET /many"))
        .count();
    assert!(
        (bound / 2..bound).contains(&many),
        "{many} routes with room for {bound}"
    );
}
