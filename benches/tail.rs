//! What upkeep does to requests: the latencies of one thread while another flushes, rolls, sweeps, renders and takes
//! snapshots; and how long each of these takes.
//!
//! ```text
//! cargo bench --all-features --bench tail
//! cargo bench --all-features --bench tail -- --quick
//! ```
//!
//! A machine with few cores delays requests by itself. What the kernel gave to another program is left out and counted
//! apart: a delay past 50 us in which the thread lost its core without having waited for anything. A wait for a lock
//! is no such loss, and stays. Phases in which nothing ticks are interleaved, and are the floor. Durations are
//! processor time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use callerid::clock::{ManualClock, MonotonicClock};
use callerid::{Callers, Clock, Timestamp};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::support::contenders::{Contender, Kind, on_tower};
use crate::support::figures::{median, quick, verdict};
use crate::support::proc::{calm, now, preemptions, thread_time};
use crate::support::{Requests, builder_with_route, install_recorder, roomy};

mod support;

fn main() {
    calm();
    let exporter = install_recorder();
    let rounds = if quick() { 2 } else { 20 };
    let callers = builder_with_route()
        .manual_tick()
        .build()
        .expect("valid settings");
    let mut service = on_tower(Kind::Callerid, &callers);
    service.serve(&mut Requests::of("client", 110), 50_000);
    service.serve(&mut Requests::of("other", 4_000), 80_000);
    println!("default caps, all rows and nearly all places in the table taken");
    durations(&callers, &mut service, &exporter, 110);
    latencies(&callers, &exporter, rounds);
    let names = if quick() { 20_000 } else { 1_000_000 };
    service.serve(&mut Requests::invented(), names);
    println!("\nthe same after {names} invented names");
    durations(&callers, &mut service, &exporter, 110);
    latencies(&callers, &exporter, rounds);
    drop((service, callers));

    println!("\n1,000 active callers, each with a row, four requests a second of each");
    periodic(1_000);
}

/// What the thread that ticks takes for so many callers, on a clock of its own: seconds of four ticks each, the roll
/// and the exporter's part included; once the detector has its past, calm and with one caller who has stirred.
fn periodic(active: usize) {
    const WARM: usize = 660;
    let clock = ManualClock::at(Timestamp::from_secs(1_700_000_000));
    let callers = roomy(builder_with_route(), active + 1)
        .clock(clock.clone())
        .manual_tick()
        .build()
        .expect("valid settings");
    let mut service = on_tower(Kind::Callerid, &callers);
    let mut requests = Requests::of("client", active).in_turns();
    let mut stirring = Requests::of("stirring", 1);
    let mut second = |stir: bool| {
        let mut took = Duration::ZERO;
        for _ in 0..4 {
            service.serve(&mut requests, active);
            service.serve(&mut stirring, if stir { 50 } else { 1 });
            clock.advance(Duration::from_millis(250));
            let begun = thread_time();
            callers.tick(clock.now());
            took += thread_time() - begun;
        }
        took.as_secs_f64() * 1e3
    };
    (0..WARM).for_each(|_| {
        second(false);
    });
    let seconds = if quick() { 8 } else { 60 };
    let mut calm: Vec<_> = (0..seconds).map(|_| second(false)).collect();
    let mut stirred: Vec<_> = (0..seconds).map(|at| second(at % 2 == 0)).collect();
    let per = 1_000.0 / active as f64;
    println!(
        "  a second in which one stirs: {:.2} ms per 1,000 callers",
        median(&mut stirred) * per
    );
    verdict(
        "periodic work, ms/s per 1,000 callers",
        median(&mut calm) * per,
        1.0,
        5.0,
        "",
        false,
    );
}

/// How long each part of the upkeep takes while `active` callers send; medians, and the longest.
fn durations(
    callers: &Callers,
    service: &mut Box<dyn Contender>,
    exporter: &PrometheusHandle,
    active: usize,
) {
    let mut requests = Requests::of("client", active);
    let clock = MonotonicClock::new();
    let seconds = if quick() { 2 } else { 8 };
    let (mut flushes, mut looks, mut rolls) = (vec![], vec![], vec![]);
    let (mut renders, mut snapshots) = (vec![], vec![]);
    let timed = |list: &mut Vec<f64>, f: &mut dyn FnMut()| {
        let begun = thread_time();
        f();
        list.push((thread_time() - begun).as_secs_f64() * 1e3);
    };
    // The first flush registers every series: it is no habit.
    callers.flush();
    for quarter in 0..4 * seconds {
        service.serve(&mut requests, 5 * active);
        timed(&mut flushes, &mut || callers.flush());
        // What a flush has left to do is little: this is what looks at every caller for a change.
        timed(&mut looks, &mut || callers.tick(clock.now()));
        if quarter % 4 == 3 {
            timed(&mut renders, &mut || drop(exporter.render()));
            std::thread::sleep(Duration::from_millis(1_010));
            // The same with the roll and the sweep.
            timed(&mut rolls, &mut || callers.tick(clock.now()));
            timed(&mut snapshots, &mut || drop(callers.snapshot()));
        }
    }
    let line = |what: &str, list: &mut Vec<f64>| {
        let longest = list.iter().copied().fold(0.0, f64::max);
        let middle = median(list);
        println!("  {what:<34} median {middle:>8.3} ms   longest {longest:>8.3} ms");
        middle
    };
    line("flush", &mut flushes);
    line("tick, nothing left to flush", &mut looks);
    line("the same with a roll and a sweep", &mut rolls);
    let render = line("render of all metrics", &mut renders);
    line("snapshot", &mut snapshots);
    line("a flush: of which the exporter's", &mut recording(active));
    verdict(
        "render at the default caps, ms",
        render,
        10.0,
        50.0,
        "",
        false,
    );
}

/// What the recorder takes for the samples of one flush alone: an exporter keeps every one of them.
fn recording(active: usize) -> Vec<f64> {
    let handles: Vec<_> = (0..2 * active)
        .map(|at| metrics::histogram!("floor_seconds", "at" => at.to_string()))
        .collect();
    let record = |_| {
        let begun = thread_time();
        handles
            .iter()
            .for_each(|handle| handle.record_many(7e-5, 5));
        (thread_time() - begun).as_secs_f64() * 1e3
    };
    (0..16).map(record).collect()
}

/// What the other thread does over and over while latencies are taken.
const DUTIES: [&str; 6] = [
    "nothing",
    "flush",
    "roll + sweep",
    "render",
    "snapshot",
    "all of them",
];

fn latencies(callers: &Callers, exporter: &PrometheusHandle, rounds: usize) {
    let mut losses = [0; DUTIES.len()];
    let mut samples: Vec<Vec<u64>> = DUTIES.map(|_| Vec::new()).into();
    let mut service = on_tower(Kind::Callerid, callers);
    for _ in 0..rounds {
        for (duty, samples) in samples.iter_mut().enumerate() {
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| work(duty, callers, exporter, &done));
                losses[duty] += take(&mut service, samples, Duration::from_millis(100));
                done.store(true, Ordering::Release);
            });
        }
    }
    println!(
        "  latency of a request while another thread is at it without a pause, us (the making of it included)"
    );
    println!(
        "  {:<14} {:>8} {:>8} {:>8} {:>8} {:>9}   {:>7} {:>9} {:>8} {:>9} {:>9}",
        "",
        "p50",
        "p99",
        "p99.9",
        "p99.99",
        "longest",
        "d p9999",
        "> 0.2 ms",
        "> 1 ms",
        "of all",
        "left out"
    );
    let mut quiet = 0.0;
    for ((duty, samples), losses) in DUTIES.iter().zip(&mut samples).zip(losses) {
        samples.sort_unstable();
        let long = |nanos: u64| samples.len() - samples.partition_point(|&took| took <= nanos);
        let (over_goal, over_must) = (long(200_000), long(1_000_000));
        let at = |share: f64| {
            let at = ((samples.len() as f64 * share) as usize).min(samples.len() - 1);
            samples[at] as f64 / 1e3
        };
        let high = at(0.9999);
        print!(
            "  {duty:<14} {:>8.2} {:>8.2} {:>8.2} {high:>8.1} {:>9.0}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
        if *duty == "nothing" {
            quiet = high;
        }
        println!(
            "   {:>+7.1} {over_goal:>9} {over_must:>8} {:>9} {losses:>9}",
            high - quiet,
            samples.len()
        );
    }
    println!(
        "  goal: none longer than 0.2 ms, must: none longer than 1 ms, both against the line `nothing`"
    );
}

fn work(duty: usize, callers: &Callers, exporter: &PrometheusHandle, done: &AtomicBool) {
    let clock = MonotonicClock::new();
    let mut ahead = clock.now();
    while !done.load(Ordering::Acquire) {
        if duty == 0 {
            std::hint::spin_loop();
        }
        if duty == 1 || duty == 5 {
            callers.flush();
        }
        if duty == 2 || duty == 5 {
            // A second on each time, so that every tick has a roll to do.
            ahead = ahead + Duration::from_secs(1);
            callers.tick(ahead);
        }
        if duty == 3 || duty == 5 {
            drop(exporter.render());
        }
        if duty == 4 || duty == 5 {
            drop(callers.snapshot());
        }
    }
}

/// Latencies of requests, one of ten from a name that was never seen before.
fn take(service: &mut Box<dyn Contender>, samples: &mut Vec<u64>, time: Duration) -> u64 {
    let (mut known, mut invented) = (Requests::of("client", 100), Requests::invented());
    let begun = now();
    let (mut known_losses, mut losses) = (preemptions(), 0);
    let mut last = now();
    for count in 0_u64.. {
        service.serve(
            if count % 10 == 0 {
                &mut invented
            } else {
                &mut known
            },
            1,
        );
        let mut at = now();
        let took = at - last;
        let lost = took > Duration::from_micros(50) && {
            let before = std::mem::replace(&mut known_losses, preemptions());
            at = now();
            known_losses > before
        };
        if lost {
            losses += 1;
        } else {
            samples.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
        last = at;
        if at - begun > time {
            break;
        }
    }
    losses
}
