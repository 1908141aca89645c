//! The thread that talks to the Redis: it answers those who wait, and renews leases before they end.
//!
//! One round at a time, in one pipeline: what is asked while a round is under way goes with the next, so many
//! requests of one caller become one question. A round has [`BUDGET`]; who has waited that long is told that nobody
//! answers.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::desk::{Answer, Ask, Call, Desk, TICK};
use super::exchange::{Exchange, Replies, Want};
use super::link::{Link, Trouble};
use super::settings::OnFailure;
use crate::clock::{Ticker, Timestamp};

/// How long a request waits at the most.
pub(super) const BUDGET: Duration = Duration::from_millis(25);
/// How long the goodbye may take: nobody waits for it but who ends.
const GOODBYE: Duration = Duration::from_millis(250);
/// Ticks between two attempts to reach a Redis that does not answer.
const RETRY: u64 = 2;
/// Ticks between two counts of the replicas.
const COUNT: u64 = 10;
/// After so many rounds without a good answer nobody is made to wait any more.
const FAILURES: u32 = 3;
/// Questions of one round; the rest waits for the next.
const ROUND: usize = 512;

type Connecting = JoinHandle<Result<MultiplexedConnection, Trouble>>;

pub(super) struct Worker {
    pub(super) link: Arc<Link>,
    pub(super) ticker: Ticker,
    pub(super) exchange: Exchange,
    /// Replicas count each other.
    pub(super) counts: bool,
    pub(super) on_failure: OnFailure,
    /// Told when the first attempt to connect has ended.
    pub(super) tried: Option<SyncSender<()>>,
    /// Who else talks over the connection.
    #[cfg(feature = "dashboard")]
    pub(super) board: Option<super::board::Lender>,
    state: State,
}

/// What is not known at the start.
struct State {
    connection: Option<MultiplexedConnection>,
    connecting: Option<Connecting>,
    desk: Desk,
    ticks: u64,
    failures: u32,
    told: bool,
}

impl State {
    fn new(leased: bool) -> Self {
        Self {
            connection: None,
            connecting: None,
            desk: Desk::new(leased),
            ticks: 0,
            failures: 0,
            told: false,
        }
    }
}

impl Worker {
    pub(super) fn new(
        link: Arc<Link>,
        ticker: Ticker,
        exchange: Exchange,
        leased: bool,
        on_failure: OnFailure,
    ) -> Self {
        Self {
            link,
            ticker,
            exchange,
            counts: true,
            on_failure,
            tried: None,
            #[cfg(feature = "dashboard")]
            board: None,
            state: State::new(leased),
        }
    }

    /// Begins anew after a panic.
    pub(super) fn reset(&mut self) {
        self.link.set_up(false);
        let leased = self.state.desk.is_leased();
        self.state = State::new(leased);
        self.lend();
    }

    /// Works until nobody can ask any more.
    pub(super) async fn run(&mut self, asks: &mut mpsc::Receiver<Ask>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let due = tokio::select! {
                taken = asks.recv_many(&mut batch, ROUND) => match taken {
                    0 => break,
                    _ => false,
                },
                _ = tick.tick() => true,
                made = made(&mut self.state.connecting) => {
                    self.state.connecting = None;
                    self.connected(made).await;
                    continue;
                }
            };
            let now = self.ticker.now();
            let asks = self.in_time(std::mem::take(&mut batch), now);
            let mut calls = self.state.desk.group(asks, now);
            if due {
                self.state.ticks += 1;
                self.reconnect();
                calls.extend(self.state.desk.renewals(self.link.replicas(), now));
            }
            let count = due && self.state.ticks.is_multiple_of(COUNT);
            self.round(calls, count).await;
        }
        if let Some(connection) = &mut self.state.connection
            && !self.link.stays()
        {
            let leaving = self.exchange.leave(connection);
            // Where it takes longer, the others notice after a few seconds.
            let _ = tokio::time::timeout(GOODBYE, leaving).await;
        }
    }

    /// Tries again, now and then, to reach a Redis that is away.
    fn reconnect(&mut self) {
        let away = self.state.connection.is_none() && self.state.connecting.is_none();
        if away && self.state.ticks % RETRY == 1 {
            self.state.connecting = Some(tokio::spawn(self.exchange.connect()));
        }
    }

    /// A connection is good when a write has been answered in time.
    async fn connected(&mut self, made: Result<MultiplexedConnection, Trouble>) {
        let tried = match made {
            Ok(mut connection) => {
                let trial = self.exchange.ask(&mut connection, &[], true);
                let answered = tokio::time::timeout(BUDGET, trial).await;
                let replicas = match answered {
                    Ok(replies) => replies.map(|replies| replies.replicas),
                    Err(_) => Err(Trouble::Timeout),
                };
                match replicas {
                    Ok(Some(Ok(replicas))) => Ok((connection, replicas)),
                    Ok(Some(Err(trouble))) | Err(trouble) => Err(trouble),
                    Ok(None) => Err(Trouble::Protocol),
                }
            }
            Err(trouble) => Err(trouble),
        };
        match tried {
            Ok((connection, replicas)) => {
                self.state.connection = Some(connection);
                self.lend();
                self.state.failures = 0;
                self.set_replicas(replicas);
                if self.link.set_up(true) {
                    tracing::info!("callerid: the Redis of the fleet answers; quotas are shared");
                }
                self.state.told = false;
            }
            Err(trouble) => {
                self.link.count(trouble);
                self.down(trouble);
            }
        }
        if let Some(tried) = self.tried.take() {
            // Nobody may wait any more.
            let _ = tried.try_send(());
        }
    }

    fn lend(&self) {
        #[cfg(feature = "dashboard")]
        if let Some(board) = &self.board {
            board.lend(self.state.connection.clone());
        }
    }

    fn set_replicas(&self, replicas: u32) {
        if self.counts {
            self.link.set_replicas(replicas);
        }
    }

    /// Nobody is made to wait until a connection has proved itself.
    fn down(&mut self, trouble: Trouble) {
        self.state.connection = None;
        self.lend();
        self.state.failures = 0;
        self.link.set_up(false);
        if !std::mem::replace(&mut self.state.told, true) {
            tracing::warn!(
                trouble = trouble.as_str(),
                on_failure = self.on_failure.as_str(),
                "callerid: the Redis of the fleet does not answer as it should; fleet quotas are not shared until it does"
            );
        }
    }

    fn failed(&mut self, trouble: Trouble) {
        self.state.failures += 1;
        if trouble == Trouble::Connect || self.state.failures >= FAILURES {
            self.down(trouble);
        }
    }

    /// Those who still can be told in time.
    fn in_time(&self, mut asks: Vec<Ask>, now: Timestamp) -> Vec<Ask> {
        let connected = self.state.connection.is_some();
        for ask in asks.extract_if(.., |ask| !connected || now.since(ask.since) >= BUDGET) {
            if connected {
                self.link.count(Trouble::Timeout);
            }
            ask.tell(Answer::Failed);
        }
        asks
    }

    /// Asks, and tells those who wait.
    async fn round(&mut self, calls: Vec<Call>, count: bool) {
        if calls.is_empty() && !count {
            return;
        }
        let Some(connection) = &mut self.state.connection else {
            calls.into_iter().for_each(Call::undone);
            return;
        };
        let sent = self.ticker.now();
        let waiting = calls.iter().flat_map(|call| &call.waiting);
        let waited = waiting.map(|ask| sent.since(ask.since)).max();
        let budget = BUDGET.saturating_sub(waited.unwrap_or_default());
        let wants: Vec<Want> = calls.iter().map(Call::want).collect();
        let asking = self.exchange.ask(connection, &wants, count);
        let answered = match tokio::time::timeout(budget, asking).await {
            Ok(answered) => answered,
            Err(_) => Err(Trouble::Timeout),
        };
        match answered {
            Ok(replies) => self.read(calls, replies, sent),
            Err(trouble) => {
                self.link.count(trouble);
                calls.into_iter().for_each(Call::fail);
                self.failed(trouble);
            }
        }
    }

    fn read(&mut self, calls: Vec<Call>, replies: Replies, sent: Timestamp) {
        let now = self.ticker.now();
        let mut good = false;
        let mut trouble = None;
        for (call, reply) in calls.into_iter().zip(replies.buckets) {
            match reply {
                Ok(reply) => {
                    good = true;
                    self.state.desk.share_out(call, reply, sent, now);
                }
                Err(kind) => {
                    self.link.count(kind);
                    trouble = Some(kind);
                    call.undone();
                }
            }
        }
        match replies.replicas {
            Some(Ok(replicas)) => {
                good = true;
                self.set_replicas(replicas);
            }
            Some(Err(kind)) => {
                self.link.count(kind);
                trouble = Some(kind);
            }
            None => {}
        }
        match trouble {
            Some(trouble) if !good => self.failed(trouble),
            _ => self.state.failures = 0,
        }
    }
}

/// Waits for a connection that is being made.
async fn made(connecting: &mut Option<Connecting>) -> Result<MultiplexedConnection, Trouble> {
    match connecting {
        Some(task) => task.await.unwrap_or(Err(Trouble::Protocol)),
        None => std::future::pending().await,
    }
}
