//! What a request costs: the service alone, callerid, and what people install today, in one run.
//!
//! ```text
//! cargo bench --all-features --bench overhead
//! cargo bench --all-features --bench overhead -- --quick
//! ```
//!
//! Rounds of a few hundred requests are interleaved over the contenders and medians taken, so that a slower minute of
//! the machine hits all alike. One thread is measured in processor time, two threads on the wall. Making the requests
//! is measured by itself and taken off. Read the ratios; `benches/README.md` says how.

use std::collections::HashMap;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use callerid::{Callers, Fleet, Quota, Scope};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::support::contenders::{Contender, Kind, nothing, on_axum, on_tower, refusing};
use crate::support::figures::{median, quick, spread, verdict};
use crate::support::proc::{Redis, calm, now, since, thread_time};
use crate::support::{Requests, builder, builder_with_route, install_recorder, roomy};

mod support;

/// Requests in one round of one contender.
const ROUND: usize = 500;

fn main() {
    calm();
    let exporter = install_recorder();
    let rounds = if quick() { 9 } else { 301 };
    println!(
        "processor time per request, ns; medians of {rounds} interleaved rounds of {ROUND} requests"
    );
    let mut over = HashMap::new();
    for callers in [1, 100, 10_000] {
        for axum in [false, true] {
            over.insert(
                (callers, axum),
                one_thread(callers, axum, rounds, &exporter),
            );
        }
    }
    let mut scaling = HashMap::new();
    for callers in [1, 100] {
        scaling.insert(callers, two_threads(callers, rounds / 3, &exporter));
    }
    let refused = [false, true].map(|axum| refusals(axum, rounds));
    let spared = spared(rounds);
    if let Err(problem) = shared_quota(rounds) {
        println!("\na quota that a fleet shares is left out: redis-server: {problem}");
    }
    let detecting = detecting(rounds);
    println!(
        "\ngoals: callerid over bare, as a share of what tower_governor + axum-prometheus take over bare"
    );
    let shares = |callers, axum| {
        over.get(&(callers, axum))
            .copied()
            .unwrap_or((f64::NAN, f64::NAN))
    };
    let share = |callers, axum| shares(callers, axum).0;
    verdict(
        "one caller, on tower",
        share(1, false),
        1.0 / 8.0,
        1.0 / 5.0,
        "",
        false,
    );
    verdict(
        "one caller, in an axum router",
        share(1, true),
        1.0 / 7.0,
        1.0 / 5.0,
        "",
        false,
    );
    verdict(
        "10,000 callers, on tower",
        share(10_000, false),
        1.0 / 6.0,
        1.0 / 4.0,
        "",
        false,
    );
    for (axum, what) in [
        (false, "with quota, in-flight and ceiling, on tower"),
        (true, "the same in an axum router"),
    ] {
        verdict(what, shares(1, axum).1, 1.0 / 7.0, 1.0 / 4.0, "", false);
    }
    println!("goal: a refusal over bare, as a share of tower_governor's");
    for (share, what) in refused.into_iter().zip(["on tower", "in an axum router"]) {
        verdict(what, share, 1.0 / 15.0, 1.0 / 10.0, "", false);
    }
    verdict(
        "of the call of a bare axum router that it spares",
        spared,
        0.5,
        0.5,
        "",
        false,
    );
    println!("goal: what detection adds to a request");
    verdict("one caller, on tower", detecting, 25.0, 25.0, " ns", false);
    println!("goal: throughput on two threads over one");
    let (bare, ours, limited) = scaling
        .get(&1)
        .copied()
        .unwrap_or((f64::NAN, f64::NAN, f64::NAN));
    verdict(
        "one hot caller (bare: 1.7 to 1.8)",
        ours,
        1.6,
        1.3,
        "x",
        true,
    );
    verdict(
        "the same with quota, in-flight and ceiling",
        limited,
        1.6,
        1.3,
        "x",
        true,
    );
    println!(
        "  (bare in this run: {bare:.2}x; callerid scales {:.0} % as well)",
        ours / bare * 100.0
    );
}

fn settings(axum: bool) -> callerid::Builder {
    if axum {
        builder()
    } else {
        builder_with_route()
    }
}

fn table(callers: usize, axum: bool) -> Callers {
    let builder = settings(axum);
    let builder = if callers > 100 {
        roomy(builder, callers)
    } else {
        builder
    };
    builder.build().expect("valid settings")
}

fn contender(kind: Kind, axum: bool, callers: &Callers) -> Box<dyn Contender> {
    if axum {
        on_axum(kind, callers)
    } else {
        on_tower(kind, callers)
    }
}

/// What a refusal takes, as a share of the call of a bare axum router that it spares.
fn spared(rounds: usize) -> f64 {
    let callers = table(1, true);
    let contenders = [
        nothing(),
        refusing(Kind::Callerid, false, settings(false)),
        on_axum(Kind::Bare, &callers),
    ];
    let [making, refusal, router] = in_turns(contenders, &mut Requests::of("client", 1), rounds);
    println!(
        "\na refusal takes {:.0} ns, the call of a bare axum router {:.0} ns",
        refusal - making,
        router - making
    );
    (refusal - making) / (router - making)
}

/// Prints what a quota takes that all replicas share through a Redis, and one of this replica's own. Nearly all requests
/// find tokens in hand; those that renew the lease do not wait for it.
fn shared_quota(rounds: usize) -> std::io::Result<()> {
    let redis = Redis::start()?;
    let quota = Quota::per_second(1_000_000).burst(1_000_000);
    let settings = || settings(false).quota(quota);
    let own = settings().build().expect("valid settings");
    let fleet = Fleet::new("bench").redis(redis.url());
    let shared = settings().fleet(fleet).scope(Scope::Fleet);
    let shared = shared.build().expect("valid settings");
    let bare = on_tower(Kind::Bare, &own);
    let limited = [&own, &shared].map(|callers| on_tower(Kind::Callerid, callers));
    let [own, shared] = limited;
    let times = in_turns([bare, own, shared], &mut Requests::of("client", 1), rounds);
    let [bare, own, shared] = times;
    println!(
        "\na quota, on a bare tower stack, over bare: this replica's own {:+.0} ns, the fleet's (leased) {:+.0} ns",
        own - bare,
        shared - bare
    );
    Ok(())
}

/// What detection adds to a request: the thread ticks, versions are looked at. What it reads of a request that is
/// counted anyway, such as when it began, is in both.
fn detecting(rounds: usize) -> f64 {
    let without = settings(false).version_header("x-version").manual_tick();
    let without = without.build().expect("valid settings");
    let with = table(1, false);
    let contenders = [&without, &with].map(|callers| on_tower(Kind::Callerid, callers));
    let [without, with] = in_turns(contenders, &mut Requests::of("client", 1), rounds);
    with - without
}

/// The time of a request with each contender; they take turns.
fn in_turns<const N: usize>(
    mut contenders: [Box<dyn Contender>; N],
    requests: &mut Requests,
    rounds: usize,
) -> [f64; N] {
    for contender in &mut contenders {
        contender.serve(requests, 5_000);
    }
    let mut times = [const { Vec::new() }; N];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let at = (turn + round) % contenders.len();
            let begun = thread_time();
            contenders[at].serve(requests, ROUND);
            times[at].push((thread_time() - begun).as_secs_f64() * 1e9 / ROUND as f64);
        }
    }
    times.map(|mut times| median(&mut times))
}

/// What a refusal takes over the bare service, callerid's as a share of tower_governor's.
fn refusals(axum: bool, rounds: usize) -> f64 {
    let mut requests = Requests::of("client", 1);
    let callers = table(1, axum);
    let [ours, governor] =
        [Kind::Callerid, Kind::Governor].map(|kind| refusing(kind, axum, settings(axum)));
    let contenders = [contender(Kind::Bare, axum, &callers), ours, governor];
    let [bare, ours, governor] = in_turns(contenders, &mut requests, rounds);
    let place = if axum {
        "in an axum router"
    } else {
        "on a bare tower stack"
    };
    println!(
        "\na refusal, {place}, beside a request that bare serves: callerid {:+.0} ns, tower_governor {:+.0} ns",
        ours - bare,
        governor - bare
    );
    (ours - bare) / (governor - bare)
}

/// Prints one table; returns callerid's share of what the stack costs, observing and with limits.
fn one_thread(
    clients: usize,
    axum: bool,
    rounds: usize,
    exporter: &PrometheusHandle,
) -> (f64, f64) {
    let callers = table(clients, axum);
    let mut requests = Requests::of("client", clients);
    let mut contenders: Vec<_> = Kind::ALL.map(|kind| contender(kind, axum, &callers)).into();
    contenders.push(nothing());
    for contender in &mut contenders {
        contender.serve(&mut requests, (20 * clients).clamp(5_000, 100_000));
    }
    callers.flush();
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let at = (turn + round) % contenders.len();
            let begun = thread_time();
            contenders[at].serve(&mut requests, ROUND);
            times[at].push((thread_time() - begun).as_secs_f64() * 1e9 / ROUND as f64);
        }
        if round % 50 == 49 {
            exporter.run_upkeep();
        }
    }
    let making = median(times.last_mut().unwrap_or(&mut Vec::new()));
    let figures: Vec<_> = times.iter_mut().map(|times| spread(times)).collect();
    let over = |kind: Kind| figures[kind as usize].0 - figures[Kind::Bare as usize].0;
    let place = if axum {
        "in an axum router"
    } else {
        "on a bare tower stack"
    };
    println!("\n{clients} caller(s), {place} (making a request, taken off: {making:.0} ns)");
    println!(
        "  {:<24} {:>8} {:>6} {:>10} {:>14}",
        "", "ns", "+-%", "over bare", "of the stack's"
    );
    for kind in Kind::ALL {
        let (time, noise) = figures[kind as usize];
        let share = over(kind) / over(Kind::Stack);
        print!(
            "  {:<24} {:>8.0} {noise:>6.1} {:>10.0}",
            kind.name(),
            time - making,
            over(kind)
        );
        println!(
            "{}",
            if kind == Kind::Bare {
                String::new()
            } else {
                format!(" {share:>8.3} = 1/{:.1}", 1.0 / share)
            }
        );
    }
    (
        over(Kind::Callerid) / over(Kind::Stack),
        over(Kind::Limited) / over(Kind::Stack),
    )
}

/// One of two threads that serve when they are told.
struct Worker {
    orders: mpsc::Sender<(usize, Arc<Barrier>)>,
    answers: mpsc::Receiver<Duration>,
}

impl Worker {
    fn start(
        mut contenders: Vec<Box<dyn Contender>>,
        mut requests: Requests,
        count: usize,
    ) -> Self {
        let (orders, todo) = mpsc::channel::<(usize, Arc<Barrier>)>();
        let (done, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for contender in &mut contenders {
                contender.serve(&mut requests, 2 * count);
            }
            while let Ok((at, start)) = todo.recv() {
                start.wait();
                let begun = now();
                contenders[at].serve(&mut requests, count);
                if done.send(since(begun)).is_err() {
                    break;
                }
            }
        });
        Self { orders, answers }
    }
}

/// Throughput of two threads over that of one; returns bare's and callerid's, observing and with limits.
fn two_threads(clients: usize, rounds: usize, exporter: &PrometheusHandle) -> (f64, f64, f64) {
    const COUNT: usize = 4 * ROUND;
    let callers = table(clients, false);
    let requests = Requests::of("client", clients);
    let contenders: Vec<_> = Kind::ALL
        .map(|kind| contender(kind, false, &callers))
        .into();
    let workers = [(); 2].map(|()| {
        let twins = contenders
            .iter()
            .map(|contender| contender.twin())
            .collect();
        Worker::start(twins, requests.clone(), COUNT)
    });
    let run = |at: usize, on: &[Worker]| -> f64 {
        let start = Arc::new(Barrier::new(on.len()));
        for worker in on {
            worker
                .orders
                .send((at, Arc::clone(&start)))
                .expect("the worker runs");
        }
        let times = on
            .iter()
            .map(|worker| worker.answers.recv().expect("the worker answers"));
        times.map(|time| COUNT as f64 / time.as_secs_f64()).sum()
    };
    let mut ratios = vec![Vec::new(); contenders.len()];
    let mut speeds = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for (at, ratios) in ratios.iter_mut().enumerate() {
            let one = run(at, &workers[round % 2..=round % 2]);
            let two = run(at, &workers);
            ratios.push(two / one);
            speeds[at].push(one / 1e6);
        }
        if round % 20 == 19 {
            exporter.run_upkeep();
        }
    }
    println!(
        "\n{clients} caller(s), two threads over one, on the wall (the making of requests included, on both)"
    );
    println!(
        "  {:<24} {:>12} {:>6} {:>16}",
        "", "two over one", "+-%", "one: 10^6 req/s"
    );
    let mut result = Vec::new();
    for kind in Kind::ALL {
        let (ratio, noise) = spread(&mut ratios[kind as usize]);
        println!(
            "  {:<24} {ratio:>11.2}x {noise:>6.1} {:>16.2}",
            kind.name(),
            median(&mut speeds[kind as usize])
        );
        result.push(ratio);
    }
    (
        result[Kind::Bare as usize],
        result[Kind::Callerid as usize],
        result[Kind::Limited as usize],
    )
}
