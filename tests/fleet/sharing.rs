//! Several processes, one quota.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use callerid::{Callers, Ceiling, Fleet, FleetMode, Quota, Reason, Scope, identify};
use http::Request;
use tower::{Layer, Service, service_fn};

use crate::programs::{Demo, Running, call, demo, until};
use crate::server::Redis;

/// A `callerid.toml` of a test.
pub(crate) struct File(pub(crate) std::path::PathBuf);

impl File {
    pub(crate) fn new(text: &str) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("callerid-fleet-{}-{count}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A replica: a process of its own.
pub(crate) fn replica(url: &str, policies: &str) -> Demo {
    let file = File::new(policies);
    let mut command = demo();
    command
        .args(["--listen", "127.0.0.1:0", "--no-traffic", "--redis", url])
        .arg("--config")
        .arg(&file.0);
    Demo::ready(Running::start(&mut command))
}

pub(crate) fn degraded(demo: &Demo) -> bool {
    demo.metric("callerid_limiter_degraded", &[]) > 0.0
}

/// How often the Redis was of no help.
pub(crate) fn all_troubles(demo: &Demo) -> f64 {
    demo.metric("callerid_limiter_backend_errors_total", &[])
}

/// Plays it until no answer came too late, of which it says how many did: on a machine that is busy with something else
/// an answer may take longer than 25 ms, and then each replica is on its own.
pub(crate) fn undisturbed<T>(mut play: impl FnMut() -> (f64, T)) -> T {
    until("no answer came too late", || {
        let (late, played) = play();
        (late == 0.0).then_some(played)
    })
}

/// The status of a request, for threads.
pub(crate) fn get(address: SocketAddr, caller: &str) -> u16 {
    call(
        address,
        "GET",
        "/v1/prices/a",
        &[("x-client-id", caller)],
        "",
    )
    .status
}

/// What a flood of all replicas got in.
pub(crate) struct Flooded {
    pub(crate) admitted: u32,
    /// The least and the most that one bucket of this quota lets through in that time.
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// Floods all replicas with requests of one caller.
pub(crate) fn flood(demos: &[Demo], caller: &str, quota: &Quota, time: Duration) -> Flooded {
    let stop = AtomicBool::new(false);
    let first = Mutex::new(None);
    let begun = Instant::now();
    let admitted = thread::scope(|scope| {
        let (stop, first) = (&stop, &first);
        let send = move |address| {
            let mut admitted = 0;
            while !stop.load(Ordering::Relaxed) {
                let status = get(address, caller);
                assert!(status == 200 || status == 429, "{status}");
                admitted += u32::from(status == 200);
                first.lock().unwrap().get_or_insert_with(Instant::now);
            }
            admitted
        };
        let threads: Vec<_> = demos
            .iter()
            .flat_map(|demo| [demo, demo])
            .map(|demo| demo.address)
            .map(|address| scope.spawn(move || send(address)))
            .collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let since_first = first.lock().unwrap().unwrap().elapsed();
        let admitted: u32 = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        (admitted, since_first)
    });
    let (admitted, inner) = admitted;
    let exact = |time: Duration| f64::from(quota.max_burst()) + quota.rate() * time.as_secs_f64();
    Flooded {
        admitted,
        least: exact(inner),
        most: exact(begun.elapsed()),
    }
}

#[test]
fn processes_share_one_quota_under_flood_within_two_percent() {
    let redis = Redis::start();
    let quota = Quota::per_second(60).burst(60);
    let policies = "[default]\nquota = \"60/s\"\n";
    let (demos, flooded) = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        let demos: Vec<_> = (0..3).map(|_| replica(&redis.url(), policies)).collect();
        let flooded = flood(&demos, "runaway", &quota, Duration::from_secs(8));
        (demos.iter().map(all_troubles).sum(), (demos, flooded))
    });
    let admitted = f64::from(flooded.admitted);
    eprintln!(
        "3 processes: {admitted} admitted, one bucket {:.0} to {:.0}",
        flooded.least, flooded.most
    );
    assert!(
        admitted >= 0.98 * flooded.least && admitted <= 1.02 * flooded.most,
        "{admitted} of {} to {}",
        flooded.least,
        flooded.most
    );
    let refused: f64 = demos
        .iter()
        .map(|demo| demo.metric("callerid_refused_total", &[("reason", "fleet")]))
        .sum();
    assert!(refused > 0.0);
    let limit = [("caller", "runaway"), ("scope", "fleet")];
    assert_eq!(demos[0].metric("callerid_quota_limit", &limit), 60.0);
}

#[test]
fn a_refusal_of_the_fleet_says_so() {
    let redis = Redis::start();
    let demo = replica(&redis.url(), "[default]\nquota = \"6/h\"\nburst = 1\n");
    assert_eq!(demo.get("/v1/prices/a", "a").status, 200);
    let refused = demo.get("/v1/prices/a", "a");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["ratelimit-policy"], "\"fleet\";q=1;w=600");
    let after: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((590..=650).contains(&after), "{after}");
    // Nobody else pays.
    assert_eq!(demo.get("/v1/prices/a", "b").status, 200);
    assert_eq!(
        demo.metric("callerid_refused_total", &[("reason", "fleet")]),
        1.0
    );
}

#[test]
fn strict_is_exact_over_processes() {
    let redis = Redis::start();
    let policies = "[default]\nquota = \"1/h\"\nburst = 20\n[fleet]\nnamespace = \"exact\"\nmode = \"strict\"\n";
    let demos: Vec<_> = (0..2).map(|_| replica(&redis.url(), policies)).collect();
    let all =
        |name, of: &[(&str, &str)]| -> f64 { demos.iter().map(|demo| demo.metric(name, of)).sum() };
    let lost = || all("callerid_limiter_backend_errors_total", &[]);
    let mut tries = 0;
    let (caller, admitted) = undisturbed(|| {
        tries += 1;
        let caller = format!("a{tries}");
        let before = lost();
        let sent = |_| {
            demos
                .iter()
                .map(|demo| demo.get("/v1/prices/a", &caller).status)
        };
        let statuses = (0..15).flat_map(sent);
        let admitted = statuses.filter(|status| *status == 200).count();
        (lost() - before, (caller, admitted))
    });
    assert_eq!(admitted, 20);
    // Those that have waited and were refused are over, and began once.
    let of = [("caller", caller.as_str())];
    assert_eq!(all("callerid_requests_started_total", &of), 30.0);
    assert_eq!(all("callerid_in_flight_requests", &of), 0.0);
    assert!(
        redis
            .keys()
            .iter()
            .all(|key| key.starts_with("callerid:exact:"))
    );
}

#[test]
fn a_cost_is_taken_whole_or_not_at_all() {
    let redis = Redis::start();
    let policies = "[default]\nquota = \"1/h\"\nburst = 12\ncost.\"GET /v1/prices/{sku}\" = 5\n";
    let demo = replica(&redis.url(), policies);
    let dear = |_| demo.get("/v1/prices/a", "a").status;
    assert_eq!((0..4).map(dear).collect::<Vec<_>>(), [200, 200, 429, 429]);
}

#[test]
fn local_replicas_have_their_share_by_their_number() {
    let redis = Redis::start();
    let policies =
        "[default]\nquota = \"1/h\"\nburst = 40\n[fleet]\nnamespace = \"x\"\nmode = \"local\"\n";
    let demos: Vec<_> = (0..4).map(|_| replica(&redis.url(), policies)).collect();
    // They count each other once a second.
    let counted = |demo: &Demo, caller: &str| {
        let admitted = (0..40).filter(|_| demo.get("/v1/prices/a", caller).status == 200);
        admitted.count()
    };
    let mut tries = 0;
    until("each has a quarter", || {
        tries += 1;
        let caller = format!("caller-{tries}");
        demos
            .iter()
            .all(|demo| counted(demo, &caller) == 10)
            .then_some(())
    });
    assert!(redis.buckets().is_empty(), "nobody asks");
}

type Response = http::Response<callerid::middleware::ResponseBody<String>>;

/// A request through the layer.
pub(crate) fn ask(callers: &Callers, name: &str) -> impl Future<Output = Response> + use<> {
    let answer = service_fn(|_: Request<String>| {
        let answer = http::Response::new("x".to_owned());
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let request = Request::builder()
        .header("x-client-id", name)
        .body(String::new());
    let answer = callers.layer().layer(answer).call(request.unwrap());
    async { answer.await.unwrap() }
}

/// The layer without a runtime: nothing of ours needs the user's to be tokio.
fn answer_without_a_runtime(callers: &Callers, name: &str) -> Response {
    block_on(ask(callers, name))
}

pub(crate) fn status_without_a_runtime(callers: &Callers, name: &str) -> u16 {
    answer_without_a_runtime(callers, name).status().as_u16()
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        thread::park_timeout(Duration::from_secs(60));
    }
}

#[test]
fn no_runtime_is_needed_and_the_end_is_clean() {
    let redis = Redis::start();
    let replicas = || redis.say(&["ZCARD", "callerid:plain:replicas"]);
    // On a busy machine the goodbye may take longer than it may.
    until("the end is clean", || {
        redis.say(&["FLUSHALL"]);
        let callers = Callers::builder()
            .identify(identify::header("x-client-id").verified())
            .quota(Quota::per_hour(1).burst(3))
            .scope(Scope::Fleet)
            .fleet(
                Fleet::new("plain")
                    .redis(redis.url())
                    .mode(FleetMode::Strict),
            )
            .build()
            .unwrap();
        let status = |_| status_without_a_runtime(&callers, "a");
        let statuses: Vec<_> = (0..4).map(status).collect();
        let there = replicas();
        drop(callers);
        // The thread has ended, and has said goodbye.
        let clean = statuses == [200, 200, 200, 429] && there == ["1"] && replicas() == ["0"];
        clean.then_some(())
    });
}

#[test]
fn what_the_ceiling_refuses_takes_nothing_of_the_fleets_quota() {
    for mode in [FleetMode::Strict, FleetMode::Leased, FleetMode::Local] {
        let redis = Redis::start();
        let callers = Callers::builder()
            .identify(identify::header("x-client-id").verified())
            .quota(Quota::per_hour(1).burst(20))
            .scope(Scope::Fleet)
            .ceiling(Ceiling::new(1).hard_max(1))
            .fleet(
                Fleet::new("plain")
                    .redis(redis.url())
                    .mode(mode)
                    .replicas(1),
            )
            .build()
            .unwrap();
        let unread = answer_without_a_runtime(&callers, "b");
        assert_eq!(unread.status(), 200);
        let buckets = redis.buckets();
        for _ in 0..30 {
            assert_ne!(status_without_a_runtime(&callers, "a"), 200);
        }
        let snapshot = callers.snapshot();
        let refused = snapshot.caller("a").unwrap().counts.refused;
        assert_eq!(refused[Reason::Ceiling], 30, "{mode:?}");
        assert_eq!(redis.buckets(), buckets, "nobody was asked about it");
        drop(unread);
        let admitted = (0..30).filter(|_| status_without_a_runtime(&callers, "a") == 200);
        if mode != FleetMode::Leased {
            assert_eq!(admitted.count(), 20, "{mode:?}");
        }
    }
}

#[test]
fn who_has_spent_the_fleets_quota_is_told_so_and_leaves_the_ceiling_to_others() {
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .quota(Quota::per_hour(1).burst(1))
        .scope(Scope::Fleet)
        .ceiling(Ceiling::new(1).hard_max(1))
        .fleet(Fleet::new("plain").mode(FleetMode::Local).replicas(1))
        .build()
        .unwrap();
    assert_eq!(status_without_a_runtime(&callers, "a"), 200);
    let unread = answer_without_a_runtime(&callers, "b");
    assert_eq!(unread.status(), 200);
    assert_eq!(status_without_a_runtime(&callers, "a"), 429);
    let snapshot = callers.snapshot();
    let refused = snapshot.caller("a").unwrap().counts.refused;
    assert_eq!((refused[Reason::Fleet], refused.total()), (1, 1));
}
