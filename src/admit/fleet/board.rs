//! A text that all replicas share, in one key: read by whoever asks whether it is still the same, and replaced only by
//! who knows what is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Script;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;

use crate::lock::lock;

const SCRIPT: &str = include_str!("board.lua");
/// Bytes of the text, its token included.
pub(super) const LARGEST: usize = 4 * 1024 * 1024;
/// Characters of a token.
pub(super) const TOKEN: usize = 32;
/// How long who writes waits; no request does.
const PATIENCE: Duration = Duration::from_secs(1);

/// The text, and the token of this version of it. Both are empty where there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    pub(crate) token: String,
    pub(crate) text: String,
}

pub(super) fn key(namespace: &str) -> String {
    format!("callerid:{namespace}:shared")
}

/// What became of a text that was to be put.
pub(crate) enum Put {
    /// It is there, under this token.
    Done(String),
    /// Another one was there.
    Other(Note),
    /// Nobody knows.
    Away,
    TooLarge,
}

pub(crate) struct Board {
    script: Script,
    lent: Mutex<Option<Lent>>,
    news: Mutex<Option<Note>>,
    heard: AtomicBool,
    asking: AtomicBool,
}

/// Where it is kept, and how to get there.
#[derive(Clone)]
struct Lent {
    key: String,
    runtime: Handle,
    /// That of the worker, while it is good.
    connection: Option<MultiplexedConnection>,
    turn: u64,
}

/// A worker that lends its connection, until another one does.
pub(super) struct Lender {
    board: Arc<Board>,
    turn: u64,
}

impl Lender {
    pub(super) fn lend(&self, connection: Option<MultiplexedConnection>) {
        let mut lent = lock(&self.board.lent);
        if let Some(lent) = lent.as_mut().filter(|lent| lent.turn == self.turn) {
            self.board.heard.store(false, Ordering::Release);
            lent.connection = connection;
        }
    }
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            script: Script::new(SCRIPT),
            lent: Mutex::default(),
            news: Mutex::default(),
            heard: AtomicBool::new(false),
            asking: AtomicBool::new(false),
        }
    }

    /// The board of this fleet from now on, through who lends the connection.
    pub(super) fn of(self: &Arc<Self>, namespace: &str, runtime: Handle) -> Lender {
        let mut lent = lock(&self.lent);
        let turn = lent.as_ref().map_or(0, |lent| lent.turn + 1);
        *lent = Some(Lent {
            key: key(namespace),
            runtime,
            connection: None,
            turn,
        });
        self.heard.store(false, Ordering::Release);
        // Who asked through the last one may never hear.
        self.asking.store(false, Ordering::Release);
        Lender {
            board: Arc::clone(self),
            turn,
        }
    }

    /// There is no fleet any more, or none with a Redis.
    pub(super) fn of_nobody(&self) {
        *lock(&self.lent) = None;
    }

    /// Whether there is a Redis, which may be away.
    pub(crate) fn is_there(&self) -> bool {
        lock(&self.lent).is_some()
    }

    /// Whether an answer has come over this connection.
    pub(crate) fn is_up(&self) -> bool {
        let lent = lock(&self.lent);
        let connected = lent.as_ref().is_some_and(|lent| lent.connection.is_some());
        connected && self.heard.load(Ordering::Acquire)
    }

    fn lent(&self) -> Option<Lent> {
        lock(&self.lent).clone()
    }

    /// What has taken the place of the text that was known, once.
    pub(crate) fn news(&self) -> Option<Note> {
        lock(&self.news).take()
    }

    /// Asks whether the text is still that of the token; waits for nothing.
    pub(crate) fn look(self: &Arc<Self>, token: String) {
        let Some(lent) = self.lent() else {
            return;
        };
        if self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let board = Arc::clone(self);
        let (runtime, turn) = (lent.runtime.clone(), lent.turn);
        runtime.spawn(async move {
            let saying = board.say(lent, &token, String::new());
            let said = tokio::time::timeout(PATIENCE, saying).await;
            let said = said.ok().flatten();
            // What another fleet says by now is not this one's.
            let still = lock(&board.lent);
            if still.as_ref().is_none_or(|lent| lent.turn != turn) {
                return;
            }
            board.heard.store(said.is_some(), Ordering::Release);
            if let Some((false, note)) = said {
                *lock(&board.news) = Some(note);
            }
            board.asking.store(false, Ordering::Release);
        });
    }

    /// Puts a text in the place of that of the token. Waits for a second at most: not for a request.
    pub(crate) fn put(self: &Arc<Self>, token: String, text: &str) -> Put {
        let fresh = format!("{:032x}", fastrand::u128(..));
        let whole = format!("{fresh}{text}");
        if whole.len() > LARGEST {
            return Put::TooLarge;
        }
        let Some(lent) = self.lent() else {
            return Put::Away;
        };
        let (tell, told) = mpsc::sync_channel(1);
        let board = Arc::clone(self);
        let runtime = lent.runtime.clone();
        runtime.spawn(async move {
            let said = tokio::time::timeout(PATIENCE, board.say(lent, &token, whole)).await;
            // Who waited may be gone.
            let _ = tell.send(said.ok().flatten());
        });
        match told.recv_timeout(PATIENCE) {
            Ok(Some((true, _))) => {
                self.heard.store(true, Ordering::Release);
                Put::Done(fresh)
            }
            Ok(Some((false, note))) => Put::Other(note),
            Ok(None) | Err(_) => Put::Away,
        }
    }

    async fn say(&self, lent: Lent, token: &str, whole: String) -> Option<(bool, Note)> {
        let mut connection = lent.connection?;
        let mut call = self.script.key(&lent.key);
        call.arg(token).arg(whole).arg(LARGEST);
        let said: redis::RedisResult<(i64, String)> = call.invoke_async(&mut connection).await;
        let (same, whole) = said.ok()?;
        // A text without a token is none of ours, and is overwritten.
        let (token, text) = whole.split_at_checked(TOKEN).unwrap_or((&whole, ""));
        let note = Note {
            token: token.to_owned(),
            text: text.to_owned(),
        };
        Some((same == 1, note))
    }
}
