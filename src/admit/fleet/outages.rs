//! A Redis that goes and comes back, on a clock that stands still between steps: how long after it answers again the
//! quota is shared again. The worker and what it says are the real ones; the server is made up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot, watch};

use super::cell::Cell;
use super::desk::{Answer, Ask};
use super::exchange::{Exchange, Open};
use super::link::Link;
use super::settings::OnFailure;
use super::simulated::Exact;
use super::worker::Worker;
use crate::admit::quota::Quota;
use crate::clock::{Clock, ManualClock, Ticker, Timestamp};
use crate::lock::lock;

/// Within this time the limit must be whole again.
const WHOLE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(1);

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Answers,
    /// It takes what comes, and says nothing for now.
    Frozen,
    /// Nobody listens, and connections are closed.
    Dead,
    /// Nothing that is sent to it arrives, and nobody tries for long enough that it does later.
    Unreachable,
    /// It says of everything that it is not ready.
    Loading,
}

/// Waits until the server does what it does for long enough to be seen.
async fn not(server: &mut watch::Receiver<Server>, states: &[Server]) -> Server {
    let seen = server.wait_for(|now| !states.contains(now)).await;
    seen.map_or(Server::Dead, |now| *now)
}

fn open(server: watch::Receiver<Server>, exact: Arc<Mutex<Exact>>, clock: ManualClock) -> Open {
    Box::new(move |config| {
        let (mut server, exact, clock) = (server.clone(), Arc::clone(&exact), clock.clone());
        Box::pin(async move {
            let now = *server.borrow_and_update();
            match now {
                Server::Dead => return Err(RedisError::from((ErrorKind::Io, "nobody listens"))),
                Server::Unreachable => std::future::pending().await,
                _ => {}
            }
            let (ours, theirs) = duplex(65_536);
            tokio::spawn(serve(theirs, server, exact, clock));
            let info = RedisConnectionInfo::default();
            let made = MultiplexedConnection::new_with_config(&info, ours, config).await?;
            tokio::spawn(made.1);
            Ok(made.0)
        })
    })
}

/// A connection, until it is closed.
async fn serve(
    mut stream: DuplexStream,
    mut server: watch::Receiver<Server>,
    exact: Arc<Mutex<Exact>>,
    clock: ManualClock,
) {
    let mut said = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut said) => if !matches!(read, Ok(1..)) {
                return;
            },
            _ = server.wait_for(|now| *now == Server::Dead) => return,
        }
        let now = not(&mut server, &[Server::Frozen, Server::Unreachable]).await;
        if now == Server::Dead {
            return;
        }
        while let Some(words) = command(&mut said) {
            let answer = match words.len() {
                _ if now == Server::Loading => "-LOADING Redis is loading\r\n".to_owned(),
                // The script of a bucket, that of the replicas, and what a client says of itself.
                8 => {
                    let number = |at: usize| words[at].parse().unwrap();
                    let reply = lock(&exact).take(number(6), number(7), clock.now());
                    format!("*2\r\n:{}\r\n:{}\r\n", reply.granted, reply.next)
                }
                6 => ":1\r\n".to_owned(),
                _ => "+OK\r\n".to_owned(),
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The next whole command of what was said.
fn command(said: &mut Vec<u8>) -> Option<Vec<String>> {
    let text = std::str::from_utf8(said).unwrap();
    let (count, mut rest) = text.strip_prefix('*')?.split_once("\r\n")?;
    let mut words = Vec::new();
    for _ in 0..count.parse::<usize>().unwrap() {
        let (length, after) = rest.strip_prefix('$')?.split_once("\r\n")?;
        let length = length.parse().unwrap();
        words.push(after.get(..length)?.to_owned());
        rest = after.get(length + 2..)?;
    }
    let read = said.len() - rest.len();
    said.drain(..read);
    Some(words)
}

struct World {
    clock: ManualClock,
    server: watch::Sender<Server>,
    link: Arc<Link>,
    cell: Arc<Cell>,
    asks: mpsc::Sender<Ask>,
}

impl World {
    fn new(quota: Quota) -> Self {
        let clock = ManualClock::at(Timestamp::from_secs(1_700_000_000));
        let (server, state) = watch::channel(Server::Answers);
        let exact = Arc::new(Mutex::new(Exact::new(&quota)));
        let exchange = Exchange::new(open(state, exact, clock.clone()), "x", "a".to_owned());
        let link = Arc::new(Link::new(false, 1, Arc::default()));
        let ticker = Ticker::Other(Arc::new(clock.clone()));
        let mut worker = Worker::new(
            Arc::clone(&link),
            ticker,
            exchange,
            true,
            OnFailure::LocalShare,
        );
        let (asks, mut asked) = mpsc::channel(64);
        tokio::spawn(async move { worker.run(&mut asked).await });
        let cell = Cell::new(quota, [0; 16], None, 1, None, clock.now());
        Self {
            clock,
            server,
            link,
            cell: Arc::new(cell),
            asks,
        }
    }

    /// A step of time, and all that is done in it.
    async fn step(&self) {
        self.clock.advance(STEP);
        tokio::time::advance(STEP).await;
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.step().await;
        }
    }

    /// What a request is told, and after how long.
    async fn ask(&self) -> (Answer, Duration) {
        let since = self.clock.now();
        let (answer, mut told) = oneshot::channel();
        let ask = Ask {
            cell: Arc::clone(&self.cell),
            cost: 1,
            since,
            answer,
        };
        self.asks.try_send(ask).unwrap();
        loop {
            self.step().await;
            if let Ok(answer) = told.try_recv() {
                return (answer, self.clock.now().since(since));
            }
        }
    }

    /// How long until a request gets a lease again.
    async fn whole(&self) -> Duration {
        let back = self.clock.now();
        loop {
            self.step().await;
            if self.link.is_up() && self.ask().await.0 == Answer::Granted {
                return self.clock.now().since(back);
            }
            let waited = self.clock.now().since(back);
            assert!(waited < 2 * WHOLE, "it does not come back");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_whole_again_within_two_seconds_whatever_the_redis_did_and_for_how_long() {
    let away = [
        Server::Frozen,
        Server::Dead,
        Server::Unreachable,
        Server::Loading,
    ];
    for server in away {
        let world = World::new(Quota::per_second(100).burst(100));
        world.whole().await;
        let mut worst = Duration::ZERO;
        for millis in (0..1_500).step_by(73) {
            world.server.send_replace(server);
            world.pass(Duration::from_millis(millis)).await;
            // Somebody asks, or nobody does.
            if millis % 2 == 0 && world.link.is_up() {
                let (_, waited) = world.ask().await;
                assert!(waited <= Duration::from_millis(30), "{waited:?}");
            }
            world.server.send_replace(Server::Answers);
            worst = worst.max(world.whole().await);
        }
        eprintln!("{server:?}: whole again after at most {worst:?}");
        assert!(worst <= WHOLE, "{server:?}: {worst:?}");
    }
}
