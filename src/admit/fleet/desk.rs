//! Who waits for what, and what is asked for ahead of time: all of the lease arithmetic, without a Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::cell::{Cell, Known};
use super::exchange::{Reply, Want};
use super::sizing::{Sizing, Tick, pause};
use crate::clock::Timestamp;

/// How long a lease lasts, from before it was asked for.
pub(super) const LEASE: Duration = Duration::from_millis(500);
/// How often leases are renewed.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// A request that waits.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) cell: Arc<Cell>,
    pub(super) cost: u32,
    pub(super) since: Timestamp,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What a request that waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted,
    Denied(Duration),
    /// Nobody knows.
    Failed,
}

impl Ask {
    /// It may be that nobody waits any more.
    pub(super) fn tell(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// A question, and who waits for the answer.
pub(super) struct Call {
    cell: Arc<Cell>,
    want: u32,
    /// With 0 what is granted is gone: it was spent before.
    least: u32,
    pub(super) waiting: Vec<Ask>,
}

/// A quota that is in use.
struct Active {
    cell: Arc<Cell>,
    sizing: Sizing,
}

/// The quotas that are in use.
pub(super) struct Desk {
    /// Leases are taken; otherwise every request asks.
    leased: bool,
    active: HashMap<[u8; 16], Active>,
}

impl Desk {
    pub(super) fn new(leased: bool) -> Self {
        Self {
            leased,
            active: HashMap::new(),
        }
    }

    pub(super) fn is_leased(&self) -> bool {
        self.leased
    }

    /// Sorts those who wait by what they wait for. An answer may have come since they asked.
    pub(super) fn group(&mut self, asks: Vec<Ask>, now: Timestamp) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut places = HashMap::new();
        for ask in asks {
            let known = if self.leased {
                ask.cell.take(ask.cost, now)
            } else {
                ask.cell.denied(now)
            };
            match known {
                Known::Granted => {
                    ask.tell(Answer::Granted);
                }
                Known::Denied(wait) => {
                    ask.tell(Answer::Denied(wait));
                }
                Known::Unknown => {
                    let place = places.get(&ask.cell.digest).copied();
                    match place.and_then(|place: usize| calls.get_mut(place)) {
                        Some(call) if self.leased && Arc::ptr_eq(&call.cell, &ask.cell) => {
                            call.want = call.want.saturating_add(ask.cost);
                            call.least = call.least.min(ask.cost);
                            call.waiting.push(ask);
                        }
                        _ => {
                            let news = ask.cell.news(now);
                            if news > 0 {
                                calls.push(Call {
                                    cell: Arc::clone(&ask.cell),
                                    want: news,
                                    least: 0,
                                    waiting: Vec::new(),
                                });
                            }
                            places.insert(ask.cell.digest, calls.len());
                            calls.push(Call {
                                cell: Arc::clone(&ask.cell),
                                want: ask.cost,
                                least: ask.cost,
                                waiting: vec![ask],
                            });
                        }
                    }
                }
            }
        }
        for call in calls.iter_mut().filter(|call| call.least > 0) {
            let sizing = self.sizing(&call.cell);
            let ahead = sizing.ran_dry();
            if self.leased {
                call.want = call.want.saturating_add(ahead);
            }
        }
        calls
    }

    fn sizing(&mut self, cell: &Arc<Cell>) -> &mut Sizing {
        let new = || Active {
            cell: Arc::clone(cell),
            sizing: Sizing::new(&cell.quota),
        };
        let active = self.active.entry(cell.digest).or_insert_with(new);
        if !Arc::ptr_eq(&active.cell, cell) {
            // The quota was changed.
            *active = new();
        }
        &mut active.sizing
    }

    /// What is asked for before anybody waits for it.
    pub(super) fn renewals(&mut self, replicas: u32, now: Timestamp) -> Vec<Call> {
        let mut calls = Vec::new();
        self.active.retain(|_, active| {
            let cell = &active.cell;
            let want = active.sizing.tick(Tick {
                used: cell.settle(replicas, now),
                left: cell.left(now + TICK + TICK / 4),
                denied: cell.denied(now) != Known::Unknown,
            });
            if let (true, Some(want)) = (self.leased, want) {
                calls.push(Call {
                    cell: Arc::clone(cell),
                    want,
                    least: 1,
                    waiting: Vec::new(),
                });
            }
            !active.sizing.is_idle()
        });
        calls
    }

    /// Those who wait come first; what is left is in hand until it lapses.
    pub(super) fn share_out(&self, call: Call, reply: Reply, sent: Timestamp, now: Timestamp) {
        let Call {
            cell,
            want,
            least,
            waiting,
        } = call;
        if least == 0 {
            return;
        }
        // Until the next token is there, or a moment longer: to ask for each token alone is dear.
        let next = reply.wait(1, &cell.quota);
        let silence = if self.leased {
            next.max(pause(&cell.quota, TICK))
        } else {
            next
        };
        let mut left = reply.granted;
        for ask in waiting {
            let cost = ask.cost;
            // A grant that was under way for longer than a lease lasts has lapsed.
            if cost <= left && now.since(sent) < LEASE {
                // Before it is told: a reload right after the answer has to know of it.
                if !ask.answer.is_closed() {
                    left -= cost;
                    cell.use_up(cost, now);
                    ask.tell(Answer::Granted);
                }
            } else {
                ask.tell(Answer::Denied(silence.max(reply.wait(cost, &cell.quota))));
            }
        }
        if self.leased && left > 0 {
            cell.grant(left, sent + LEASE, now);
        }
        if reply.granted < want && (self.leased || reply.granted == 0) {
            cell.deny_until(sent + silence);
        }
    }
}

impl Call {
    pub(super) fn want(&self) -> Want {
        Want {
            digest: self.cell.digest,
            quota: self.cell.quota,
            want: self.want,
            least: self.least,
        }
    }

    /// The server has not done it.
    pub(super) fn undone(self) {
        if self.least == 0 {
            self.cell.tell(self.want);
        }
        self.fail();
    }

    pub(super) fn fail(self) {
        for ask in self.waiting {
            ask.tell(Answer::Failed);
        }
    }
}
