//! What people who look at the page do to requests: the latencies of one thread with nobody on the page, and with ten
//! viewers who ask as it asks, at 300 callers of whom each has a row.
//!
//! ```text
//! cargo bench --all-features --bench viewers
//! cargo bench --all-features --bench viewers -- --quick
//! ```
//!
//! Phases take turns. A delay past 50 us in which the kernel gave the core away is left out, as in `tail`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use callerid::dashboard::{Access, Dashboard, Grant};
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::time::{interval, sleep};
use tower::ServiceExt;

use crate::support::contenders::{Contender, Kind, on_tower};
use crate::support::figures::quick;
use crate::support::proc::{calm, now, preemptions, process_time, since, thread_time};
use crate::support::{Requests, builder_with_route, roomy};

mod support;

const CALLERS: usize = 300;
const VIEWERS: usize = 10;

/// What came of the phases with nobody, or with viewers.
#[derive(Default)]
struct Phases {
    nanos: Vec<u64>,
    lost: u64,
    /// Processor time of all threads but that of the requests.
    beside: Duration,
    time: Duration,
    answers: u64,
    bytes: u64,
}

fn main() {
    calm();
    let callers = roomy(builder_with_route(), CALLERS)
        .build()
        .expect("valid settings");
    let page = callers
        .dashboard()
        .access(Access::from_fn(|_| Grant::nothing().read()));
    let mut service = on_tower(Kind::Callerid, &callers);
    let (rounds, phase) = if quick() { (1, 1) } else { (10, 3) };
    // Series of two minutes would take two minutes: some seconds of them show the same locks.
    serve(&mut service, &mut Phases::default(), Duration::from_secs(3));
    let mut without = Phases::default();
    let mut with = Phases::default();
    for _ in 0..rounds {
        let time = Duration::from_secs(phase);
        serve(&mut service, &mut without, time);
        let (done, answers, bytes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| look_on(&page, &done, &answers, &bytes));
            serve(&mut service, &mut with, time);
            done.store(true, Ordering::Release);
        });
        with.answers += answers.into_inner();
        with.bytes += bytes.into_inner();
    }
    println!("{CALLERS} callers; latency of a request, us (the making of it included)");
    println!(
        "  {:<12} {:>8} {:>8} {:>8} {:>8}   {:>9} {:>9}   {:>22}",
        "viewers", "p50", "p99", "p99.9", "p99.99", "of all", "left out", "other threads, ms/s"
    );
    for (viewers, phases) in [(0, &mut without), (VIEWERS, &mut with)] {
        phases.nanos.sort_unstable();
        let at = |share: f64| {
            let at = (phases.nanos.len() as f64 * share) as usize;
            phases
                .nanos
                .get(at)
                .map_or(0.0, |nanos| *nanos as f64 / 1e3)
        };
        println!(
            "  {viewers:<12} {:>8.2} {:>8.2} {:>8.2} {:>8.1}   {:>9} {:>9}   {:>22.2}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            phases.nanos.len(),
            phases.lost,
            phases.beside.as_secs_f64() * 1e3 / phases.time.as_secs_f64(),
        );
    }
    let answers = with.answers.max(1);
    println!(
        "  {:.1} answers/s of {} KiB each",
        with.answers as f64 / with.time.as_secs_f64(),
        with.bytes / answers / 1024
    );
}

fn serve(service: &mut Box<dyn Contender>, phases: &mut Phases, time: Duration) {
    let mut requests = Requests::of("client", CALLERS);
    let (process, thread, begun) = (process_time(std::process::id()), thread_time(), now());
    let mut known = preemptions();
    let mut last = now();
    while last - begun < time {
        service.serve(&mut requests, 1);
        let mut at = now();
        let took = at - last;
        let lost = took > Duration::from_micros(50) && {
            let before = std::mem::replace(&mut known, preemptions());
            at = now();
            known > before
        };
        if lost {
            phases.lost += 1;
        } else {
            phases
                .nanos
                .push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
        last = at;
    }
    let own = thread_time() - thread;
    phases.beside += (process_time(std::process::id()) - process).saturating_sub(own);
    phases.time += since(begun);
}

/// Ten pages that are open: the overview once a second, and one of two looks at one caller every two.
fn look_on(page: &Dashboard, done: &AtomicBool, answers: &AtomicU64, bytes: &AtomicU64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let ask = async |path: &str| {
            let request = Request::get(path).body(Empty::<bytes::Bytes>::new());
            let request = request.expect("a request");
            let Ok(answer) = page.clone().oneshot(request).await;
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            let Ok(body) = answer.into_body().collect().await;
            answers.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(body.to_bytes().len() as u64, Ordering::Relaxed);
        };
        let viewer = async |number: usize| {
            sleep(Duration::from_millis(97 * number as u64)).await;
            let mut every = interval(Duration::from_secs(1));
            let span = ["2m", "15m", "1h"][number % 3];
            for second in 0_u64.. {
                every.tick().await;
                ask(&format!("/v1/overview?span={span}")).await;
                if number.is_multiple_of(2) && second.is_multiple_of(2) {
                    ask("/v1/caller?name=client-00007").await;
                }
            }
        };
        let viewers = futures_util::future::join_all((0..VIEWERS).map(viewer));
        let until = async {
            while !done.load(Ordering::Acquire) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = viewers => {}
            () = until => {}
        }
    });
}
