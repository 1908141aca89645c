//! Quotas that all replicas of a service share, through a Redis that they already have.
//!
//! `leased`: a replica takes tokens ahead of time and spends them without asking; those that it does not spend lapse
//! after half a second and are never returned: by then the shared bucket has filled up without them, and to return
//! them would let them be spent twice. In any window `W` all replicas together admit at most `B + r(W + L)`.
//! Only a request that comes when nothing is in hand and nothing is known waits, for at most 25 ms.
//!
//! A Redis that does not answer delays nobody for longer, and fails no request: after three rounds without a good
//! answer nobody asks any more, until a new connection has proved itself.

#[cfg(feature = "dashboard")]
pub(crate) mod board;
mod cell;
mod desk;
mod exchange;
mod link;
#[cfg(test)]
mod outages;
mod part;
#[cfg(feature = "dashboard")]
pub(crate) mod reader;
pub(crate) mod settings;
#[cfg(test)]
mod simulated;
mod sizing;
mod slots;
mod worker;

/// The atomics of [`slots`], which a test replaces by those of a model checker.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::cell::Known;
pub(crate) use self::cell::{Cell, Home, Told};
use self::desk::{Answer, Ask};
use self::exchange::Exchange;
use self::link::Link;
pub(crate) use self::link::Trouble;
#[cfg(feature = "config")]
pub(crate) use self::part::Next;
pub(crate) use self::part::Part;
pub use self::settings::{Fleet, FleetMode, OnFailure};
use self::worker::Worker;
use super::bucket::Bucket;
use super::quota::Quota;
use super::terms::Subject;
use crate::clock::Timestamp;
use crate::lock::lock;

/// How many requests may wait; more are told that nobody answers.
const WAITING: usize = 4_096;
/// How long the start waits for the first attempt to reach the Redis.
const START: Duration = Duration::from_millis(500);

/// This replica's part in the fleet.
pub(crate) struct Pool {
    settings: Fleet,
    mode: FleetMode,
    on_failure: OnFailure,
    home: Option<Home>,
    /// What makes keys unguessable, where all replicas were given it.
    secret: Vec<u8>,
    link: Arc<Link>,
    asks: Mutex<Option<mpsc::Sender<Ask>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a request is told at once.
#[derive(Debug)]
pub(super) enum Asked {
    Known(Result<(), Duration>),
    Later(Waiting),
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Waiting {
    cell: Arc<Cell>,
    cost: u32,
    answer: oneshot::Receiver<Answer>,
}

impl Waiting {
    /// What it is told where there is no fleet any more.
    pub(super) fn on_its_own(&self, now: Timestamp) -> Result<(), Duration> {
        self.cell.take_own(self.cost, now)
    }
}

impl Pool {
    /// Starts a thread where there is a Redis. The settings have no [`Fleet::problems`].
    fn start(fleet: &Fleet, part: &Part) -> std::io::Result<Self> {
        let mode = fleet.mode.unwrap_or_default();
        let on_failure = fleet.on_failure.unwrap_or_default();
        let client = fleet
            .redis
            .as_deref()
            .and_then(|url| redis::Client::open(url).ok());
        // So many were counted last; another count is soon there.
        let known = || part.pool().as_ref().map_or(1, |pool| pool.link.replicas());
        let replicas = fleet.replicas.unwrap_or_else(known);
        let link = Arc::new(Link::new(client.is_none(), replicas, part.troubles()));
        let pool = Self {
            settings: fleet.clone(),
            mode,
            on_failure,
            home: (client.is_some() && mode != FleetMode::Local).then(|| fleet.home()),
            secret: part.secret().to_vec(),
            link: Arc::clone(&link),
            asks: Mutex::default(),
            thread: Mutex::default(),
        };
        let Some(client) = client else {
            return Ok(pool);
        };
        let namespace = fleet.namespace.as_deref().unwrap_or_default();
        let exchange = Exchange::new(exchange::to(client), namespace, part.name().to_owned());
        let leased = mode == FleetMode::Leased;
        let mut worker = Worker::new(link, part.ticker().clone(), exchange, leased, on_failure);
        worker.counts = fleet.replicas.is_none();
        let (tried, first) = std::sync::mpsc::sync_channel(1);
        worker.tried = Some(tried);
        let (asks, asked) = mpsc::channel(WAITING);
        *lock(&pool.asks) = Some(asks);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        #[cfg(feature = "dashboard")]
        {
            let board = part.board();
            worker.board = Some(board.of(namespace, runtime.handle().clone()));
        }
        let thread = std::thread::Builder::new()
            .name("callerid-fleet".into())
            .spawn(move || work(runtime, worker, asked))?;
        *lock(&pool.thread) = Some(thread);
        // So that a Redis that answers is known from the first request on. One that does not is said, and waited for
        // by nobody.
        let _ = first.recv_timeout(START);
        Ok(pool)
    }

    /// Ends the thread, which takes this replica out of the count, unless it is still one of the same fleet. Who
    /// waits is told; who asks later is on its own.
    fn end(&self, stays: bool) {
        if stays {
            self.link.stay();
        }
        *lock(&self.asks) = None;
        if let Some(thread) = lock(&self.thread).take() {
            // A panic in it was said.
            let _ = thread.join();
        }
    }

    /// Where quotas are counted, if over all replicas.
    pub(super) fn home(&self) -> Option<Home> {
        self.home
    }

    /// A cell for the quota of a caller, or of one route. What was spent `before` stays spent, and the fleet is told
    /// of what it does not know.
    pub(super) fn cell(
        &self,
        subject: &Subject<'_>,
        route: &str,
        quota: Quota,
        before: Option<(&Arc<Bucket>, Option<Told>)>,
        now: Timestamp,
    ) -> Arc<Cell> {
        let proven = if subject.proven {
            "proven"
        } else {
            subject.provenance.as_str()
        };
        let parts = [proven, subject.name, route].map(str::as_bytes);
        let digest = settings::digest(&self.secret, &parts);
        let replicas = self.link.replicas();
        let own = before.map(|(own, _)| own);
        let cell = Cell::new(quota, digest, self.home, replicas, own, now);
        if let (Some((own, told)), Some(home)) = (before, self.home) {
            let known = told.map_or(0.0, |told| told.to(home, now));
            // Nanoseconds are rounded: a millionth of a token is none.
            let news = (own.lack(now).tokens(now) - known - 1e-6).ceil() as u32;
            cell.tell(news.min(quota.max_burst()));
        }
        Arc::new(cell)
    }

    /// Whether a request of this quota may come in.
    pub(super) fn ask(&self, cell: &Arc<Cell>, cost: u32, now: Timestamp) -> Asked {
        let cost = cost.clamp(1, cell.quota.max_burst());
        let up = self.link.is_up();
        let known = match self.mode {
            FleetMode::Local => return Asked::Known(self.share(cell, cost, now)),
            FleetMode::Leased => cell.take(cost, now),
            FleetMode::Strict if up => cell.denied(now),
            FleetMode::Strict => Known::Unknown,
        };
        match known {
            Known::Granted => Asked::Known(Ok(())),
            Known::Denied(wait) if up => Asked::Known(Err(wait)),
            Known::Unknown if up => self.wait(cell, cost, now),
            Known::Denied(_) | Known::Unknown => Asked::Known(self.alone(cell, cost, now)),
        }
    }

    /// What this replica knows to be refused. It takes nothing, and asks nobody.
    pub(super) fn look(&self, cell: &Cell, cost: u32, now: Timestamp) -> Result<(), Duration> {
        let cost = cost.clamp(1, cell.quota.max_burst());
        let share = || cell.look_at_share(cost, self.link.replicas(), now);
        let asks = self.mode != FleetMode::Local && self.link.is_up();
        let in_hand = || self.mode == FleetMode::Leased && cell.left(now) >= cost;
        match (cell.denied(now), self.on_failure) {
            (Known::Denied(wait), _) if asks && !in_hand() => Err(wait),
            _ if asks || in_hand() => Ok(()),
            (_, OnFailure::LocalShare) => share(),
            _ if self.mode == FleetMode::Local => share(),
            (_, OnFailure::Open) => Ok(()),
            (_, OnFailure::Closed) => Err(Duration::ZERO),
        }
    }

    fn wait(&self, cell: &Arc<Cell>, cost: u32, now: Timestamp) -> Asked {
        let (answer, receiver) = oneshot::channel();
        let ask = Ask {
            cell: Arc::clone(cell),
            cost,
            since: now,
            answer,
        };
        let sent = lock(&self.asks).as_ref().map(|asks| asks.try_send(ask));
        match sent {
            Some(Ok(())) => Asked::Later(Waiting {
                cell: Arc::clone(cell),
                cost,
                answer: receiver,
            }),
            _ => Asked::Known(self.alone(cell, cost, now)),
        }
    }

    /// What becomes of a request that nobody can be asked about.
    fn alone(&self, cell: &Cell, cost: u32, now: Timestamp) -> Result<(), Duration> {
        match self.on_failure {
            OnFailure::LocalShare => self.share(cell, cost, now),
            OnFailure::Open => {
                cell.let_in(cost, now);
                Ok(())
            }
            OnFailure::Closed => Err(Duration::ZERO),
        }
    }

    fn share(&self, cell: &Cell, cost: u32, now: Timestamp) -> Result<(), Duration> {
        cell.take_share(cost, self.link.replicas(), now)
    }

    /// What a request that has waited is told.
    pub(super) fn poll(
        &self,
        waiting: &mut Waiting,
        now: impl FnOnce() -> Timestamp,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Duration>> {
        Pin::new(&mut waiting.answer)
            .poll(cx)
            .map(|answer| match answer {
                Ok(Answer::Granted) => Ok(()),
                Ok(Answer::Denied(wait)) => Err(wait),
                // Also where the thread has ended.
                Ok(Answer::Failed) | Err(_) => self.alone(&waiting.cell, waiting.cost, now()),
            })
    }

    /// Whether quotas are not shared as they should be.
    pub(crate) fn is_degraded(&self) -> bool {
        !self.link.is_up()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("mode", &self.mode)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}

/// Tells whoever asks in the next moment that nobody answers.
async fn turn_away(asks: &mut mpsc::Receiver<Ask>) {
    let telling = async {
        while let Some(ask) = asks.recv().await {
            ask.tell(Answer::Failed);
        }
    };
    let _ = tokio::time::timeout(START, telling).await;
}

/// The thread. A panic is said and does not end it.
fn work(runtime: tokio::runtime::Runtime, mut worker: Worker, mut asks: mpsc::Receiver<Ask>) {
    loop {
        let run = || runtime.block_on(worker.run(&mut asks));
        if catch_unwind(AssertUnwindSafe(run)).is_ok() {
            break;
        }
        worker.reset();
        tracing::error!("callerid: the thread of the fleet panicked; it goes on");
        runtime.block_on(turn_away(&mut asks));
    }
    // A look-up of a name may still be under way.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_after_a_panic_does_not_wait_for_what_comes_next() {
        let now = Timestamp::from_secs(1_700_000_000);
        let quota = Quota::per_second(1);
        let cell = Arc::new(Cell::new(quota, [0; 16], None, 1, None, now));
        let (asks, mut asked) = mpsc::channel(WAITING);
        let (answer, mut heard) = oneshot::channel();
        let ask = Ask {
            cell,
            cost: 1,
            since: now,
            answer,
        };
        asks.try_send(ask).unwrap();
        tokio::select! {
            biased;
            () = turn_away(&mut asked) => panic!("it rests first"),
            () = tokio::time::sleep(START / 100) => {}
        }
        assert_eq!(heard.try_recv(), Ok(Answer::Failed));
        // Later ones are asked again.
        turn_away(&mut asked).await;
    }
}
