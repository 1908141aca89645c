//! One trace, split over replicas: what the fleet's alerts say of it, and how late.
//!
//! Each replica is a whole pipeline with a recorder of its own. What they export is handed to `promtool`, which evaluates
//! the shipped rules. The table:
//!
//! ```text
//! cargo test --release --all-features --test replicas -- --nocapture
//! ```
//!
//! `CASE="crowd 4"` runs only the cases whose name contains the words. Traces that others have made, in a folder (see
//! `traces.rs`), over 4 and 20 replicas:
//!
//! ```text
//! TRACES=folder cargo test --release --all-features --test replicas -- --ignored --nocapture
//! ```

#![allow(
    dead_code,
    missing_debug_implementations,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests"
)]

mod fleet;
#[path = "../situations/mod.rs"]
mod situations;
#[path = "../support/mod.rs"]
mod support;
mod traces;
#[path = "../worlds/mod.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use callerid::Class;
use fleet::{ALERTS, Arriving, Split, paged, run};
use situations::{ONSET, Situation, all};
use worlds::Sent;

/// What is fed of a trace, in seconds.
const LENGTH: f64 = ONSET + 300.0;
struct Case {
    situation: &'static str,
    replicas: usize,
    split: Split,
    seed: u64,
    /// Seconds within which somebody is to be told.
    within: f64,
}

fn status(class: Class) -> u16 {
    match class {
        Class::Ok => 200,
        Class::Validation => 422,
        Class::Auth => 401,
        Class::NotFound => 404,
        Class::Conflict => 409,
        Class::Timeout => 504,
        Class::ServerError => 500,
        _ => 400,
    }
}

fn arriving(sent: &Sent) -> Arriving {
    Arriving {
        at: sent.at,
        took: sent.took,
        client: sent.client,
        caller: format!("client-{}", sent.client),
        route: format!("/v1/route-{}", sent.route),
        status: status(sent.class),
    }
}

/// Of the fleet: who is paged for and how late, and how often a replica alone would have paged.
fn judge(case: &Case, situation: &Situation) -> (String, Vec<String>) {
    let said = (situation.build)(case.seed).run(true);
    let requests: Vec<_> = said.requests.iter().map(arriving).collect();
    let course = run(&requests, LENGTH, ONSET, case.replicas, case.split);
    let name = format!(
        "{}-{}-{:?}-seed-{}",
        case.situation.replace([' ', ',', '\''], "-"),
        case.replicas,
        case.split,
        case.seed
    );
    let paged = paged(&course, LENGTH, &name);
    let mut wrong = Vec::new();
    let mut words = String::new();
    for &(culprit, from, _) in situation.culprits {
        let first = |alert: &str| {
            paged
                .get(&(alert.to_owned(), culprit.to_owned()))
                .map(|times| times[0] - from)
        };
        let delays = ALERTS.map(first);
        let alone = course
            .alone
            .iter()
            .filter(|(t, who)| who == culprit && *t >= from);
        let alone = alone.map(|(t, _)| t - from).min_by(f64::total_cmp);
        write!(
            words,
            " {culprit}: one replica with harm {alone:.1?}, paged {:?}, said {:?}, by rate alone {:?}, by what it holds alone {:?};",
            delays[0], delays[1], delays[2], delays[3]
        )
        .unwrap();
        // What nobody suffers from is said; what somebody suffers from wakes somebody.
        let (pages, said) = delays.split_at(1);
        let due = if alone.is_some() { pages } else { said };
        let in_time = |delay: &Option<f64>| delay.is_some_and(|t| (0.0..=case.within).contains(&t));
        let woken = pages.iter().any(Option::is_some);
        if !due.iter().any(in_time) || woken != alone.is_some() {
            wrong.push(format!("{name}: {culprit} is told of after {delays:?}"));
        }
    }
    let culprits: BTreeSet<_> = situation.culprits.iter().map(|of| of.0).collect();
    for ((alert, caller), times) in &paged {
        let t = times[0];
        let from = situation
            .culprits
            .iter()
            .find(|of| of.0 == caller)
            .map(|of| of.1);
        if from.is_none_or(|from| t < from) {
            wrong.push(format!("{name}: {alert} pages for {caller} at {t}"));
        }
    }
    let alone = course
        .alone
        .iter()
        .filter(|(_, who)| !culprits.contains(who.as_str()));
    let alone: BTreeSet<_> = alone.map(|(_, who)| who).collect();
    writeln!(words, " {} falsely by a replica alone", alone.len()).unwrap();
    (format!("{name}:{words}"), wrong)
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "hours of traffic over twenty pipelines: with --release, as tests/run does"
)]
fn a_fleet_is_told_of_who_runs_away_and_of_nobody_else() {
    let case = |situation, replicas, split| Case {
        situation,
        replicas,
        split,
        seed: 1,
        within: 60.0,
    };
    // Each replica needs errors enough of its own, and requests that are slow.
    let rare = |situation, replicas, seed| Case {
        seed,
        within: 200.0,
        ..case(situation, replicas, Split::RoundRobin)
    };
    let (errors, slow) = (
        "key rotation forgotten",
        "one caller's requests hang, known while they do",
    );
    let loud = "sevenfold on one route";
    let cases = [
        case(loud, 1, Split::RoundRobin),
        case(loud, 4, Split::RoundRobin),
        case(loud, 20, Split::RoundRobin),
        case(loud, 20, Split::Sticky),
        case("small caller becomes loud", 4, Split::Restarted),
        case("ordinary life", 4, Split::Restarted),
        case("ordinary life", 20, Split::Rebalanced),
        case("crowd", 4, Split::Sticky),
        rare(errors, 4, 1),
        rare(errors, 20, 2),
        rare(slow, 4, 1),
        rare(slow, 4, 2),
        Case {
            seed: 2,
            ..case(loud, 20, Split::RoundRobin)
        },
    ];
    let all = all();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let worker = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let situation = all.iter().find(|of| of.name == case.situation).unwrap();
            let wanted = std::env::var("CASE").unwrap_or_default();
            if !format!("{} {} {:?}", case.situation, case.replicas, case.split).contains(&wanted) {
                continue;
            }
            let (words, found) = judge(case, situation);
            eprint!("{words}");
            wrong.lock().unwrap().extend(found);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker);
        worker();
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
