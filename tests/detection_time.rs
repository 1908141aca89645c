//! Time as it should not be, and causality: what the detector says depends on nothing that is yet to come.

use std::time::Duration;

use callerid::detect::{CallerId, Detector, Event, Kind, Load, Observed, RouteDelta, Row, Tick};
use callerid::{Class, Provenance, Timestamp};

const TICK: Duration = Duration::from_millis(250);

/// Feeds one tick of callers with `(requests, class)`.
fn feed(detector: &mut Detector, now: Timestamp, callers: &[(u32, Class)]) -> Vec<Event> {
    let names: Vec<String> = (0..callers.len()).map(|i| format!("c{i}")).collect();
    let routes: Vec<[RouteDelta; 1]> = callers
        .iter()
        .map(|&(n, class)| {
            let mut delta = RouteDelta {
                route: 1,
                service_time: n as f32 * 0.02,
                ..RouteDelta::default()
            };
            delta.by_class[class as usize] = n;
            [delta]
        })
        .collect();
    let observed: Vec<Observed<'_>> = callers
        .iter()
        .enumerate()
        .filter(|(_, c)| c.0 > 0)
        .map(|(i, &(n, _))| Observed {
            id: CallerId {
                slot: i as u32,
                generation: 0,
            },
            name: &names[i],
            provenance: Provenance::Verified,
            row: Row::Caller,
            started: n,
            new_names: 0,
            in_flight: 0,
            busy: n as f32 * 0.02,
            routes: &routes[i],
        })
        .collect();
    let mut out = Vec::new();
    detector.tick(
        &Tick {
            now,
            load: Load::default(),
            callers: &observed,
        },
        &mut out,
    );
    for event in &out {
        let numbers = [event.t, event.since, event.baseline, event.observed];
        assert!(numbers.iter().all(|n| n.is_finite()), "{event:?}");
        assert!(event.factor.is_none_or(f64::is_finite), "{event:?}");
        assert!(
            event.share_of_rise.is_none_or(|s| (0.0..=1.0).contains(&s)),
            "{event:?}"
        );
        assert!(
            event.t <= now.as_secs_f64() && event.since <= event.t,
            "{event:?}"
        );
    }
    out
}

/// Ten callers with two requests per second each, irregularly, for so many seconds.
fn live(
    detector: &mut Detector,
    from: Timestamp,
    seconds: u32,
    rng: &mut fastrand::Rng,
) -> (Timestamp, Vec<Event>) {
    let (mut now, mut events) = (from, Vec::new());
    for _ in 0..seconds * 4 {
        now = now + TICK;
        let callers: Vec<(u32, Class)> = (0..10)
            .map(|_| (u32::from(rng.bool()), Class::Ok))
            .collect();
        events.extend(feed(detector, now, &callers));
    }
    (now, events)
}

fn storm(detector: &mut Detector, from: Timestamp, seconds: u32) -> (Timestamp, Vec<Event>) {
    let (mut now, mut events) = (from, Vec::new());
    for tick in 0..seconds * 4 {
        now = now + TICK;
        let mut callers = vec![(u32::from(tick % 2 == 0), Class::Ok); 10];
        callers[3] = (20, Class::Validation);
        events.extend(feed(detector, now, &callers));
    }
    (now, events)
}

fn started(events: &[Event]) -> Vec<(&str, f64)> {
    events
        .iter()
        .filter(|e| e.kind == Kind::RunawayStarted)
        .filter_map(|e| Some((e.caller.as_deref()?, e.t)))
        .collect()
}

#[test]
fn what_is_said_does_not_depend_on_what_comes_later() {
    let run = |storm_seconds: u32| {
        let mut detector = Detector::new();
        let mut rng = fastrand::Rng::with_seed(3);
        let (now, mut events) = live(&mut detector, Timestamp::from_secs(1000), 900, &mut rng);
        events.extend(storm(&mut detector, now, storm_seconds).1);
        events
    };
    let (short, long) = (run(4), run(60));
    assert!(!short.is_empty());
    assert_eq!(short[..], long[..short.len()]);
    assert!(
        long[short.len()..]
            .iter()
            .all(|e| e.t > short[short.len() - 1].t)
    );
}

#[test]
fn a_gap_of_an_hour_is_no_news_and_a_runaway_after_it_is() {
    let mut detector = Detector::new();
    let mut rng = fastrand::Rng::with_seed(5);
    let (now, _) = live(&mut detector, Timestamp::from_secs(1000), 900, &mut rng);
    let (now, events) = live(
        &mut detector,
        now + Duration::from_secs(3600),
        120,
        &mut rng,
    );
    assert_eq!(events, []);
    let (_, events) = storm(&mut detector, now, 10);
    assert_eq!(started(&events).first().map(|e| e.0), Some("c3"));
}

#[test]
fn time_that_stands_still_jumps_or_runs_backwards_is_survived() {
    let mut detector = Detector::new();
    let mut rng = fastrand::Rng::with_seed(7);
    let (now, _) = live(&mut detector, Timestamp::from_secs(100_000), 700, &mut rng);
    let back = now - Duration::from_secs(50_000);
    for odd in [
        now,
        now,
        back,
        back + TICK,
        Timestamp::ZERO,
        Timestamp::from_nanos(u64::MAX),
        now,
    ] {
        feed(&mut detector, odd, &[(1, Class::Ok); 10]);
        feed(&mut detector, odd, &[]);
    }
    // It goes on from the latest time that it has seen.
    let (_, events) = live(&mut detector, now, 60, &mut rng);
    assert_eq!(started(&events), []);
}

#[test]
fn silence_and_absurd_numbers_are_survived() {
    let mut detector = Detector::new();
    let mut now = Timestamp::from_secs(1);
    for i in 0..8000_u32 {
        now = now + TICK;
        let n = match i % 1000 {
            0 => u32::MAX,
            1..500 => 0,
            _ => i % 3,
        };
        feed(
            &mut detector,
            now,
            &[
                (n, Class::Ok),
                (n / 2, Class::Failed),
                (1, Class::Cancelled),
            ],
        );
    }
    let odd = [f32::NAN, f32::INFINITY, -1.0];
    for value in odd {
        now = now + TICK;
        let routes = [RouteDelta {
            route: u32::MAX,
            by_class: [u32::MAX; Class::COUNT],
            service_time: value,
        }];
        let observed = [
            Observed {
                id: CallerId {
                    slot: u32::MAX,
                    generation: 9,
                },
                name: "",
                provenance: Provenance::Unknown,
                row: Row::Unknown,
                started: u32::MAX,
                new_names: u32::MAX,
                in_flight: u32::MAX,
                busy: value,
                routes: &routes,
            },
            Observed {
                id: CallerId {
                    slot: 0,
                    generation: 9,
                },
                name: "c0",
                provenance: Provenance::Unknown,
                row: Row::Other,
                started: 1,
                new_names: 1,
                in_flight: 1,
                busy: value,
                routes: &routes,
            },
        ];
        detector.tick(
            &Tick {
                now,
                load: Load {
                    in_flight: 1,
                    ceiling: Some(0),
                },
                callers: &observed,
            },
            &mut Vec::new(),
        );
    }
    for _ in 0..40 {
        now = now + TICK;
        feed(&mut detector, now, &[(1, Class::Ok), (1, Class::Ok)]);
    }
}

#[test]
fn a_place_that_changes_hands_starts_without_a_past() {
    let mut detector = Detector::new();
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut now, _) = live(&mut detector, Timestamp::from_secs(1000), 900, &mut rng);
    let (at, events) = storm(&mut detector, now, 5);
    assert_eq!(started(&events).first().map(|e| e.0), Some("c3"));
    now = at + TICK;
    let mut out = Vec::new();
    let routes = [RouteDelta {
        route: 1,
        ..RouteDelta::default()
    }];
    let heir = Observed {
        id: CallerId {
            slot: 3,
            generation: 1,
        },
        name: "heir",
        provenance: Provenance::Claimed,
        row: Row::Caller,
        started: 1,
        new_names: 0,
        in_flight: 0,
        busy: 0.0,
        routes: &routes,
    };
    for _ in 0..200 {
        now = now + TICK;
        detector.tick(
            &Tick {
                now,
                load: Load::default(),
                callers: &[heir],
            },
            &mut out,
        );
    }
    let ended: Vec<_> = out
        .iter()
        .filter(|e| e.kind == Kind::RunawayEnded)
        .collect();
    assert!(
        ended.iter().all(|e| e.caller.as_deref() == Some("c3")),
        "{ended:?}"
    );
    assert!(!ended.is_empty());
    assert!(
        out.iter().all(|e| e.caller.as_deref() != Some("heir")),
        "{out:?}"
    );
}
