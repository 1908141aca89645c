//! What callers weigh: bytes by the allocator's own count, and resident memory beside it.
//!
//! ```text
//! cargo bench --all-features --bench memory
//! cargo bench --all-features --bench memory -- --quick
//! ```
//!
//! Everything runs on one thread and on a clock that is moved by hand: an hour takes seconds.

use std::time::Duration;

use allocation_counter::measure;
use callerid::clock::ManualClock;
use callerid::{Builder, Callers, Timestamp};

use crate::support::contenders::{Contender, Kind, on_tower};
use crate::support::figures::{quick, verdict};
use crate::support::proc::{now, resident, since};
use crate::support::{Requests, builder_with_route, install_recorder, recorder};

mod support;

const MIB: f64 = 1024.0 * 1024.0;
/// What is allowed for everything at default sizes, and what must not be passed.
const GOAL: (f64, f64) = (16.0, 32.0);

fn main() {
    let names = if quick() { 100_000 } else { 10_000_000 };
    alone(tracked);
    alone(|| exported(if quick() { 60 } else { 3_600 }));
    alone(move || whole(names, false));
    alone(move || whole(names, true));
}

/// Runs on a thread of its own: what a thread remembers of one table goes with it, and is not taken for another's.
fn alone(f: impl FnOnce() + Send + 'static) {
    std::thread::spawn(f).join().expect("the measurement ends");
}

fn table(builder: Builder) -> (Callers, ManualClock) {
    let clock = ManualClock::at(Timestamp::from_secs(1_750_000_000));
    let callers = builder
        .clock(clock.clone())
        .manual_tick()
        .build()
        .expect("valid settings");
    (callers, clock)
}

/// Bytes that `f` leaves allocated.
fn growth(f: impl FnOnce()) -> f64 {
    measure(f).bytes_current as f64
}

fn second(callers: &Callers, clock: &ManualClock) {
    for _ in 0..4 {
        callers.tick(clock.advance(Duration::from_millis(250)));
    }
}

/// Callers that have an entry and no row: counted between 1,000 and 4,000 of them.
fn tracked() {
    let (callers, clock) = table(builder_with_route());
    let mut service = on_tower(Kind::Callerid, &callers);
    service.serve(&mut Requests::of("early", 1_000), 20_000);
    second(&callers, &clock);
    // Random order reaches all but a few; how many there are is told by the table.
    let mut requests = Requests::invented();
    let before = callers.snapshot().callers.len();
    let bytes = growth(|| service.serve(&mut requests, 3_000));
    let fresh = callers.snapshot().callers.len() - before;
    println!(
        "tracked caller, without a row: {:.0} bytes (of {fresh}; at most 1,024 wanted)",
        bytes / 3_000.0
    );
}

/// Callers with a row: the first 114 of a table; at once, with a recorder, and after an hour with full series.
fn exported(seconds: usize) {
    const ROWS: usize = 100;
    for recorded in [false, true] {
        let (callers, clock) = table(builder_with_route());
        let recorder = recorder();
        let mut service = on_tower(Kind::Callerid, &callers);
        let mut requests = Requests::of("client", ROWS);
        service.serve(&mut Requests::of("first", 1), 1);
        let handle = recorder.handle();
        let mut serve = |service: &mut Box<dyn Contender>, seconds: usize, each: usize| {
            for _ in 0..seconds {
                service.serve(&mut requests, each * ROWS);
                if recorded {
                    metrics::with_local_recorder(&recorder, || second(&callers, &clock));
                    handle.run_upkeep();
                } else {
                    second(&callers, &clock);
                }
            }
        };
        let fresh = growth(|| serve(&mut service, 1, 1));
        let warm = fresh + growth(|| serve(&mut service, 2, 100));
        let hour = warm + growth(|| serve(&mut service, seconds, 10));
        println!(
            "exported caller, {}: {:.1} KiB fresh, {:.1} KiB hot on one thread, {:.1} KiB after {seconds} s",
            if recorded {
                "with the exporter's own memory"
            } else {
                "without a recorder"
            },
            fresh / 1024.0 / ROWS as f64,
            warm / 1024.0 / ROWS as f64,
            hour / 1024.0 / ROWS as f64,
        );
    }
}

/// Everything at the default sizes: rows in use for an hour, then names that are invented.
fn whole(names: usize, recorded: bool) {
    let what = if recorded {
        "with a recorder"
    } else {
        "without a recorder"
    };
    let exporter = recorded.then(install_recorder);
    let rss = resident();
    let begun = now();
    let mut after_hour = 0.0;
    let mut tracked = 0;
    let total = growth(|| {
        let (callers, clock) = table(builder_with_route());
        let mut service = on_tower(Kind::Callerid, &callers);
        let mut regulars = Requests::of("client", 100);
        let upkeep = || exporter.iter().for_each(|exporter| exporter.run_upkeep());
        after_hour = growth(|| {
            for _ in 0..3_600 {
                service.serve(&mut regulars, 200);
                second(&callers, &clock);
                upkeep();
            }
        });
        let mut invented = Requests::invented();
        // A hundred thousand new names a second, for a hundred seconds.
        for _ in 0..names.div_ceil(100_000) {
            service.serve(&mut invented, 100_000.min(names));
            service.serve(&mut regulars, 200);
            second(&callers, &clock);
            upkeep();
        }
        tracked = callers.snapshot().callers.len();
        // What is measured is what is still there.
        std::mem::forget((callers, service));
    });
    println!(
        "\nthe whole at default sizes, {what}: {:.1} MiB after an hour of 100 callers, {:.1} MiB after {names} invented \
         names more (resident {:+.1} MiB; {tracked} callers in the snapshot; {:.0} s)",
        after_hour / MIB,
        total / MIB,
        (resident() as f64 - rss as f64) / MIB,
        since(begun).as_secs_f64()
    );
    verdict(
        &format!("whole, {what}, MiB"),
        total / MIB,
        GOAL.0,
        GOAL.1,
        "",
        false,
    );
}
