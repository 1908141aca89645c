//! Situations that an operator would think of, with the one right answer to each.
//!
//! One seed by default, fed by turns as production and as a log does. The table of all of them, over more seeds
//! and both ways (`SITUATION=crowd`: only those whose name contains the word):
//!
//! ```text
//! SEEDS=1..6 cargo test --release --all-features --test detection -- --nocapture
//! ```
//!
//! The longest delays allowed are those of small, very bursty callers: the evidence of a burst is divided by how
//! bursty the caller has been.

mod situations;
mod worlds;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use callerid::detect::{
    CallerId, Detector, Event, Harm, Kind, Load, Observed, RouteDelta, Row, Tick,
};
use callerid::{Class, Provenance, Timestamp};
use situations::{ONSET, Situation, all};
use worlds::Said;

/// What came of one run.
#[derive(Default)]
struct Outcome {
    /// Seconds until each culprit was named.
    delays: Vec<Option<f64>>,
    wrong: Vec<String>,
}

fn judge(situation: &Situation, said: &Said, live: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let events = &said.events;
    let started = || {
        events
            .iter()
            .filter(|e| e.kind == Kind::RunawayStarted && e.t >= 600.0)
    };
    let whom = |e: &Event| e.caller.as_deref().unwrap_or("?").to_owned();
    for &(name, from, within) in situation.culprits {
        let within = situation.live.filter(|_| live).unwrap_or(within);
        let found = started().find(|e| whom(e) == name && e.t >= from);
        let ends = |id| {
            let end = |e: &&Event| e.id == id && e.kind == Kind::RunawayEnded;
            events.iter().find(end).map_or(f64::INFINITY, |e| e.t)
        };
        // What comes back while its alarm is open is still said.
        let on = |e: &Event| whom(e) == name && e.t < from && ends(e.id) >= from + within;
        let delay = if started().any(on) {
            Some(0.0)
        } else {
            found.map(|e| e.t - from)
        };
        if delay.is_none_or(|d| d > within) {
            outcome.wrong.push(format!("{name} after {delay:?}"));
        }
        outcome.delays.push(delay);
    }
    for e in started() {
        let due = |&&(name, from, _): &&(&str, f64, f64)| whom(e) == name && e.t >= from;
        let may = situation.may.is_some_and(|name| {
            let harm = events.iter().any(|e| e.harm != Harm::None);
            whom(e) == name && started().count() == 1 && !harm
        });
        if !may && !situation.culprits.iter().any(|c| due(&c)) {
            let text = format!("{} {:?} at {:.1}, {:?}", whom(e), e.signal, e.t, e.harm);
            outcome.wrong.push(text);
        }
    }
    for (t, name) in &said.held {
        let due = |&&(culprit, from, _): &&(&str, f64, f64)| culprit == name && *t >= from;
        if !situation.culprits.iter().any(|c| due(&c)) {
            outcome.wrong.push(format!("{name} clamped at {t:.1}"));
            break;
        }
    }
    let common = events.iter().filter(|e| e.caller.is_none());
    if !situation.common {
        outcome
            .wrong
            .extend(common.map(|e| format!("{:?} at {:.1}", e.kind, e.t)));
    }
    outcome
}

fn seeds() -> Option<std::ops::Range<u64>> {
    let text = std::env::var("SEEDS").ok()?;
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

/// Runs the situations on all cores; the outcomes by situation.
fn run(situations: &[Situation]) -> BTreeMap<&'static str, Vec<(String, Outcome)>> {
    let only = std::env::var("SITUATION").unwrap_or_default();
    let mut jobs = Vec::new();
    for (i, situation) in situations.iter().enumerate() {
        if !situation.name.contains(&only) {
            continue;
        }
        for seed in seeds().unwrap_or(0..1) {
            for live in [false, true] {
                if seeds().is_some() || live == (i % 2 == 0) || situation.live.is_some() {
                    jobs.push((situation, seed, live));
                }
            }
        }
    }
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::<_, Vec<_>>::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&(situation, seed, live)) =
                    jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let said = (situation.build)(seed).run(live);
                    let how = format!("seed {seed}, {}", if live { "live" } else { "log" });
                    let outcome = judge(situation, &said, live);
                    let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    all.entry(situation.name).or_default().push((how, outcome));
                }
            });
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

fn quantile(sorted: &[f64], q: f64) -> String {
    let at = (q * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).map_or("-".into(), |d| format!("{d:.1}"))
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn the_culprit_is_named_in_time_and_nobody_else() {
    let outcomes = run(&all());
    let mut wrong = Vec::new();
    println!("{:52} runs  found      p50    p90  wrong", "situation");
    for (name, runs) in &outcomes {
        let delays = || runs.iter().flat_map(|(_, o)| &o.delays);
        let mut found: Vec<f64> = delays().flatten().copied().collect();
        found.sort_by(f64::total_cmp);
        let before = wrong.len();
        for (how, outcome) in runs {
            wrong.extend(outcome.wrong.iter().map(|w| format!("{name}, {how}: {w}")));
        }
        println!(
            "{name:52} {:4}  {:>9}  {:>6} {:>6}  {}",
            runs.len(),
            format!("{}/{}", found.len(), delays().count()),
            quantile(&found, 0.5),
            quantile(&found, 0.9),
            wrong.len() - before,
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn cutting_a_trace_changes_nothing_that_was_said_before_the_cut() {
    let (mut said, cut) = (0, ONSET + 12.0);
    for (i, situation) in all().iter().enumerate().step_by(9) {
        let live = i % 2 == 0;
        let whole = (situation.build)(3).run(live).events;
        let mut world = (situation.build)(3);
        world.length = cut;
        let part = world.run(live).events;
        let before = whole.into_iter().take_while(|event| event.t <= cut);
        assert_eq!(part, before.collect::<Vec<_>>(), "{}", situation.name);
        said += part.len();
    }
    assert!(said > 0);
}

/// In each of a thousand ticks a thousand callers that were never seen before, in the places of others; then one
/// that was seen runs away.
#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn a_million_callers_are_survived_and_who_runs_away_is_named() {
    let answers = [1, 400].map(|n| {
        let mut delta = RouteDelta {
            route: 1,
            service_time: 0.01 * n as f32,
            ..RouteDelta::default()
        };
        delta.by_class[Class::Ok as usize] = n;
        [delta]
    });
    let names: Vec<String> = (0..1020).map(|slot| format!("caller-{slot}")).collect();
    let (mut detector, mut events) = (Detector::new(), Vec::new());
    let mut now = Timestamp::from_secs(1_000_000);
    for tick in 0..4_100_u32 {
        let crowd = if (3_000..4_000).contains(&tick) {
            1_000
        } else {
            0
        };
        let seen = |slot: u32| {
            let answers = &answers[usize::from(slot == 7 && tick >= 4_000)];
            Observed {
                id: CallerId {
                    slot,
                    generation: if slot < 20 { 0 } else { tick },
                },
                name: &names[slot as usize],
                provenance: Provenance::Verified,
                row: Row::Caller,
                started: answers[0].by_class[Class::Ok as usize],
                new_names: 0,
                in_flight: 0,
                busy: answers[0].service_time,
                routes: answers,
            }
        };
        let callers: Vec<_> = (0..20 + crowd).map(seen).collect();
        now = now + Duration::from_millis(250);
        let load = Load::default();
        let callers = &callers;
        detector.tick(&Tick { now, load, callers }, &mut events);
    }
    let started = events.iter().filter(|e| e.kind == Kind::RunawayStarted);
    let named: Vec<_> = started.filter_map(|e| e.caller.as_deref()).collect();
    assert_eq!(named, ["__other__", "caller-7"]);
}
