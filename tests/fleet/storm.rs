//! Reloads one after the other, good ones and bad ones, under a flood over sixty-four connections, while the Redis
//! freezes, the switch is turned and the clock jumps: everything that was sent is accounted for, nothing stays in
//! flight, and no bucket is handed out anew.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use callerid::clock::{Clock, MonotonicClock};
use callerid::{Callers, Mode, Timestamp, identify};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

use crate::programs::until;
use crate::server::Redis;
use crate::sharing::File;

const CONNECTIONS: u64 = 64;
const CALLERS: usize = 8;
const BURST: u64 = 200;

/// A clock that somebody sets.
struct Jumpy {
    clock: MonotonicClock,
    seconds: Arc<AtomicI64>,
}

impl Clock for Jumpy {
    fn now(&self) -> Timestamp {
        let seconds = self.seconds.load(Ordering::Relaxed);
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            self.clock.now() - by
        } else {
            self.clock.now() + by
        }
    }
}

/// Some policies: of the same quota wherever it is counted, or none that can be.
fn policies(redis: &Redis) -> String {
    let quota = |scope: &str| format!("quota = \"1/h\"\nburst = {BURST}\nscope = \"{scope}\"\n");
    let fleet = |more: &str| {
        let url = redis.url();
        format!(
            "[default]\n{}[fleet]\nnamespace = \"x\"\nreplicas = 1\nredis = \"{url}\"\n{more}\n",
            quota("fleet")
        )
    };
    let mut text = match fastrand::u8(..8) {
        0 => "[default]\nquota = \"1/fortnight\"\n".to_owned(),
        1 => "[default\n".to_owned(),
        2 => fleet("mode = \"strict\""),
        3 => fleet("mode = \"leased\""),
        4 => fleet("mode = \"local\""),
        5 => "[default]\nmax_in_flight = 0\n".to_owned(),
        _ => format!("[default]\n{}", quota("instance")),
    };
    for more in [
        "[ceiling]\nmax_in_flight = 40\n",
        "[caller.c1]\nmax_in_flight = 3\n",
        "[caller.c2]\nblock = true\n",
        "[caller.c3]\nowner = \"x\"\nroute.\"GET /\".quota = \"1/h\"\n",
        "[provenance.verified]\nweight = 2\n",
    ] {
        if fastrand::bool() {
            text += more;
        }
    }
    text
}

struct World {
    callers: Callers,
    address: SocketAddr,
    stop: AtomicBool,
    sent: AtomicU64,
    served: Mutex<[u64; CALLERS]>,
}

impl World {
    async fn new(file: &File, clock: Jumpy) -> Arc<Self> {
        let callers = Callers::builder()
            .identify(identify::header("x-client-id").verified())
            .clock(clock)
            .config(&file.0)
            .unwrap()
            .build()
            .unwrap();
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..3))).await;
            "done"
        };
        let app = Router::new().route("/", get(slow)).layer(callers.layer());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, app).await });
        Arc::new(Self {
            callers,
            address,
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            served: Mutex::default(),
        })
    }

    /// Requests of all callers in turn, one after the other.
    async fn flood(self: Arc<Self>) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.sent.fetch_add(1, Ordering::Relaxed) as usize % CALLERS;
            let request = http::Request::get(format!("http://{}/", self.address))
                .header("x-client-id", format!("c{number}"))
                .body(Empty::<bytes::Bytes>::new());
            let answer = client.request(request.unwrap()).await.unwrap();
            let status = answer.status().as_u16();
            answer.into_body().collect().await.unwrap();
            assert!([200, 403, 429, 503].contains(&status), "{status}");
            self.served.lock().unwrap()[number] += u64::from(status == 200);
        }
    }
}

/// Plays so many reloads. Returns how often each caller was served, and how many requests were counted and sent.
fn storm(reloads: usize, turned: bool) -> ([u64; CALLERS], u64, u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let redis = Redis::start();
    let file = File::new(&format!("[default]\nquota = \"1/h\"\nburst = {BURST}\n"));
    let seconds = Arc::new(AtomicI64::new(0));
    let clock = Jumpy {
        clock: MonotonicClock::new(),
        seconds: Arc::clone(&seconds),
    };
    let world = runtime.block_on(World::new(&file, clock));
    let floods: Vec<_> = (0..CONNECTIONS)
        .map(|_| runtime.spawn(Arc::clone(&world).flood()))
        .collect();
    let mut refused = 0;
    for _ in 0..reloads {
        std::fs::write(&file.0, policies(&redis)).unwrap();
        refused += usize::from(world.callers.reload([&file.0]).is_err());
        if fastrand::u8(..8) == 0 {
            redis.signal(if fastrand::bool() { "STOP" } else { "CONT" });
        }
        seconds.store(fastrand::i64(-60..60), Ordering::Relaxed);
        if turned {
            let modes = [Mode::Off, Mode::Observe, Mode::Shadow, Mode::Enforce];
            world.callers.set_mode(modes[fastrand::usize(..4)]);
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(..20)));
    }
    redis.signal("CONT");
    assert!(refused > 0 && refused < reloads, "{refused} of {reloads}");
    world.stop.store(true, Ordering::Relaxed);
    for flood in floods {
        runtime.block_on(flood).unwrap();
    }
    let all = until("nothing is in flight", || {
        let all = world.callers.snapshot();
        (all.callers
            .iter()
            .all(|caller| caller.counts.in_flight == 0))
        .then_some(all)
    });
    assert!(all.ceiling.is_none_or(|ceiling| ceiling.in_flight == 0));
    let (mut counted, mut ended) = (0, 0);
    for caller in &all.callers {
        counted += caller.counts.started;
        ended += caller.counts.by_class.total() + caller.counts.refused.total();
    }
    assert_eq!(counted, ended);
    let served = *world.served.lock().unwrap();
    (served, counted, world.sent.load(Ordering::Relaxed))
}

#[test]
fn a_storm_of_reloads_hands_out_no_bucket_anew_and_loses_no_request() {
    let (served, counted, sent) = storm(150, false);
    assert_eq!(counted, sent);
    // A token comes back in an hour, and the clock never goes that far. Who waits for the fleet while its quota moves may be
    // let in by both.
    for (caller, served) in served.into_iter().enumerate() {
        assert!(served <= BURST + CONNECTIONS, "{served} of c{caller}");
    }
}

#[test]
fn a_storm_of_reloads_with_the_switch_turned_leaves_nothing_in_flight() {
    let (_, counted, sent) = storm(100, true);
    assert!(counted <= sent, "{counted} of {sent}");
}
