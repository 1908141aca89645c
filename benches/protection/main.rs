//! What becomes of fifty well-behaved callers while another one runs away: with callerid, with what people install
//! today, and with nothing.
//!
//! ```text
//! cargo bench --all-features --bench protection
//! cargo bench --all-features --bench protection -- --quick
//! ```
//!
//! The service takes 200 requests a second: twenty workers, 100 ms each. The calm callers send half of that, each two a
//! second at random times; latency counts from when a request was due, and after a second it is lost. Each row is
//! compared with the same service, behind the same layer, without the flood. Nothing here is short of processor time,
//! so that the figures hold on a busy machine too.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::balancer::{Balancer, Replica};
use crate::load::{Name, Shared, Source, Tally};
use crate::server::{Setting, WORKERS, serve};

#[path = "../../tests/programs/balancer.rs"]
#[allow(clippy::panic, reason = "tests share it")]
mod balancer;
mod load;
mod server;

const CALM: usize = 50;
const CALM_RATE: f64 = 2.0;
const CAPACITY: f64 = 200.0;
/// Before the flood: connections are made, and callers are known.
const WARM_UP: Duration = Duration::from_secs(2);

/// What the calm callers meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    None,
    OneCaller,
    InventedNames,
    SlowBodies,
    OneConnection,
    Herd,
}

impl Flood {
    const ALL: [Self; 5] = [
        Self::OneCaller,
        Self::InventedNames,
        Self::SlowBodies,
        Self::OneConnection,
        Self::Herd,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::None => "no flood",
            Self::OneCaller => "one caller floods at ten times the capacity, from one address",
            Self::InventedNames => {
                "a thousand invented names, together ten times the capacity, from one address"
            }
            Self::SlowBodies => "one caller sends 200 bodies a second that take two seconds each",
            Self::OneConnection => {
                "one caller floods at ten times the capacity over one h2 connection"
            }
            Self::Herd => {
                "a release: 400 instances of one caller, an address each, want 5 answers and ask until they have them"
            }
        }
    }

    /// Starts the flood; it lasts from `from` to `to`.
    fn start(
        self,
        target: &str,
        tally: &Shared,
        from: Instant,
        to: Instant,
        load: &mut tokio::task::JoinSet<()>,
    ) {
        let runaway = || Name::Proven("runaway".to_owned());
        // Another address each time: ports that were used wait a minute before they can be used again.
        static RUN: AtomicU8 = AtomicU8::new(0);
        let at = [127, 1, RUN.fetch_add(1, Ordering::Relaxed), 1];
        let flood = match self {
            Self::None => return,
            Self::OneCaller => Source::new(target, at, runaway(), tally),
            Self::InventedNames => Source::new(target, at, Name::Invented(1_000), tally),
            Self::SlowBodies => Source::new(target, at, runaway(), tally).slow(),
            Self::OneConnection => Source::over_h2(target, at, runaway(), tally),
            Self::Herd => {
                for instance in 0..400_u16 {
                    let [high, low] = instance.to_be_bytes();
                    let source = Source::new(target, [127, 0, 3 + high, low], runaway(), tally);
                    load.spawn(source.herd(5, from, to));
                }
                return;
            }
        };
        let rate = if self == Self::SlowBodies {
            CAPACITY
        } else {
            10.0 * CAPACITY
        };
        load.spawn(flood.steady(rate, from, to, 7));
    }
}

fn quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
        || std::env::var_os("CALLERID_BENCH_QUICK").is_some()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| {
        args.get(args.iter().position(|arg| arg == flag)? + 1)?
            .parse()
            .ok()
    };
    if let Some(setting) = after("--serve").and_then(|at: usize| Setting::ALL.get(at)) {
        return serve(*setting, after("--workers").unwrap_or(WORKERS));
    }
    match measure(after("--flood"), after("--setting")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("protection: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(setting: Setting, workers: usize) -> std::io::Result<Self> {
        let at = Setting::ALL
            .iter()
            .position(|known| *known == setting)
            .unwrap_or(0);
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "--serve",
                &at.to_string(),
                "--workers",
                &workers.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        let address = address.trim().to_owned();
        Ok(Self { child, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays one flood against `target`; returns what became of the calm and of the flood.
async fn play(target: &str, flood: Flood, lasting: Duration) -> (Tally, Tally) {
    let (calm, flooding, warming) = (Shared::default(), Shared::default(), Shared::default());
    let begun = Instant::now();
    let (from, to) = (begun + WARM_UP, begun + WARM_UP + lasting);
    let mut load = tokio::task::JoinSet::new();
    for caller in 0..CALM as u8 {
        let source = |tally| {
            Source::new(
                target,
                [127, 0, 1, 1 + caller],
                Name::Proven(format!("calm-{caller}")),
                tally,
            )
        };
        let seed = u64::from(caller);
        let (before, during) = (source(&warming), source(&calm));
        load.spawn(async move {
            before.steady(CALM_RATE, begun, from, seed).await;
        });
        load.spawn(during.steady(CALM_RATE, from, to, seed + 1_000));
    }
    flood.start(target, &flooding, from, to, &mut load);
    sleep_until(to).await;
    while load.join_next().await.is_some() {}
    let take = |shared: Shared| {
        std::mem::take(
            &mut *Arc::clone(&shared)
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    };
    (take(calm), take(flooding))
}

/// All floods in all settings, or one of each.
fn measure(only: Option<usize>, only_in: Option<usize>) -> std::io::Result<()> {
    let lasting = Duration::from_secs(if quick() { 3 } else { 10 });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!(
        "{CALM} calm callers, {} requests/s of a capacity of {CAPACITY}/s, {} s each",
        CALM as f64 * CALM_RATE,
        lasting.as_secs()
    );
    let run = |setting, flood| -> std::io::Result<(Tally, Tally)> {
        let server = Server::start(setting, WORKERS)?;
        Ok(runtime.block_on(play(&server.address, flood, lasting)))
    };
    let settings: Vec<_> = Setting::ALL
        .into_iter()
        .enumerate()
        .filter(|(at, _)| only_in.is_none_or(|only| only == *at))
        .map(|(_, setting)| setting)
        .collect();
    let mut quiet = Vec::new();
    for setting in settings.iter().copied() {
        let (mut calm, _) = run(setting, Flood::None)?;
        let p99 = Tally::quantile(&mut calm.latencies, 0.99);
        println!(
            "  quiet  {:<30} success {:>7.2} %  p99 {p99:>6.0} ms",
            setting.name(),
            share(&calm)
        );
        quiet.push((share(&calm), p99));
    }
    for (at, flood) in Flood::ALL.into_iter().enumerate() {
        if only.is_some_and(|only| only != at) {
            continue;
        }
        println!("\n{}", flood.title());
        println!(
            "  {:<30} {:>9} {:>8} {:>8}  {:>26}  {:>8}",
            "", "success", "p99, ms", "of quiet", "flood: served refused lost", "late, ms"
        );
        for (setting, (_, before)) in settings.iter().copied().zip(&quiet) {
            let (mut calm, mut flooding) = run(setting, flood)?;
            let p99 = Tally::quantile(&mut calm.latencies, 0.99);
            let seconds = lasting.as_secs_f64();
            let per_second = |count: u64| count as f64 / seconds;
            let late = Tally::quantile(&mut flooding.late, 0.99)
                .max(Tally::quantile(&mut calm.late, 0.99));
            let good = share(&calm) >= 99.9 && p99 <= 1.5 * before;
            println!(
                "  {:<30} {:>7.2} % {p99:>8.0} {:>7.2}x  {:>12.0} {:>7.0} {:>5.0}  {late:>8.1}  {}",
                setting.name(),
                share(&calm),
                p99 / before,
                per_second(flooding.ok),
                per_second(flooding.refused),
                per_second(flooding.failed + flooding.lost),
                if good {
                    "holds"
                } else if setting.ours() {
                    "MISSED"
                } else {
                    ""
                }
            );
            if setting.ours() {
                tell_unserved(&calm);
            }
        }
    }
    if only.is_none_or(|only| only == Flood::ALL.len()) {
        let run = |target: &str, flood| runtime.block_on(play(target, flood, lasting));
        behind_balancers(&settings, &run)?;
    }
    Ok(())
}

/// The first flood again, through load balancers that try a failed request on the other replica and take replicas
/// out. Two replicas share the capacity; all callers come from the balancer's address.
fn behind_balancers(
    settings: &[Setting],
    run: &dyn Fn(&str, Flood) -> (Tally, Tally),
) -> std::io::Result<()> {
    for haproxy in [false, true] {
        let name = if haproxy { "HAProxy" } else { "nginx" };
        println!(
            "\n{}, through {name} in front of two replicas",
            Flood::OneCaller.title()
        );
        println!(
            "  {:<30} {:>9} {:>8} {:>8}  {:>26}  {:>10} {:>8}",
            "",
            "success",
            "p99, ms",
            "of quiet",
            "flood: served refused lost",
            "taken out",
            "retries"
        );
        for setting in settings.iter().copied() {
            let play = |flood| -> std::io::Result<_> {
                let replicas = [
                    Server::start(setting, WORKERS / 2)?,
                    Server::start(setting, WORKERS / 2)?,
                ];
                let addresses = replicas.iter().map(|replica| replica.address.parse());
                let addresses: Vec<SocketAddr> = addresses
                    .collect::<Result<_, _>>()
                    .map_err(std::io::Error::other)?;
                let balancer = if haproxy {
                    Balancer::haproxy(&addresses)
                } else {
                    Balancer::nginx(&addresses)
                };
                let (calm, flooding) = run(&balancer.address.to_string(), flood);
                let (log, marked) = if haproxy {
                    let replicas = balancer.replicas();
                    let sum = |field: fn(&Replica) -> u64| replicas.iter().map(field).sum::<u64>();
                    let down = sum(|replica| replica.times_down);
                    (String::new(), (down, sum(|replica| replica.retries)))
                } else {
                    let log = balancer.log();
                    let count = |text| log.matches(text).count() as u64;
                    let disabled = count("temporarily disabled");
                    let marked = (disabled, count("while reading response header"));
                    (log, marked)
                };
                Ok((calm, flooding, marked, log))
            };
            let (mut quiet, ..) = play(Flood::None)?;
            let before = Tally::quantile(&mut quiet.latencies, 0.99);
            let (mut calm, flooding, (out, retries), log) = play(Flood::OneCaller)?;
            let p99 = Tally::quantile(&mut calm.latencies, 0.99);
            let sent = flooding.sent.max(1) as f64 / (10.0 * CAPACITY);
            println!(
                "  {:<30} {:>7.2} % {p99:>8.0} {:>7.2}x  {:>12.0} {:>7.0} {:>5.0}  {out:>10} {retries:>8}",
                setting.name(),
                share(&calm),
                p99 / before,
                flooding.ok as f64 / sent,
                flooding.refused as f64 / sent,
                (flooding.failed + flooding.lost) as f64 / sent,
            );
            if setting.ours() {
                tell_unserved(&calm);
                for line in log.lines().take(5) {
                    println!("    nginx: {line}");
                }
            }
        }
    }
    Ok(())
}

/// The calm requests that were not served: when, after the flood began, and what they were told.
fn tell_unserved(calm: &Tally) {
    for (since, status) in calm.unserved.iter().take(20) {
        let status = status.map_or("no answer".to_owned(), |status| status.to_string());
        println!("    not served: {status}, due {since:.3} s into the flood");
    }
}

/// Served, of all that were sent, in percent.
fn share(tally: &Tally) -> f64 {
    tally.ok as f64 / tally.sent.max(1) as f64 * 100.0
}
