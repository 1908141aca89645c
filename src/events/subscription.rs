//! A stream of events that needs no runtime.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::Event;
use crate::lock::lock;

/// Events that wait for a listener; of one that does not come, the oldest are dropped.
const WAITING: usize = 256;

/// What waits for one listener.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    missed: u64,
    waker: Option<Waker>,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, event: Arc<Event>) {
        let waker = {
            let mut state = lock(&self.0);
            if state.events.len() >= WAITING {
                state.events.pop_front();
                state.missed += 1;
            }
            state.events.push_back(event);
            state.waker.take()
        };
        // Not under the lock: a waker may poll at once.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn close(&self) {
        let waker = {
            let mut state = lock(&self.0);
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Everything that is said from now on: a [`Stream`], which ends with the last handle of
/// [`Callers`](crate::Callers). It holds at most 256 events; a listener that falls behind further misses the oldest
/// ([`Subscription::missed`]).
#[derive(Debug)]
pub struct Subscription(Arc<Queue>);

impl Subscription {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }

    /// The next event, if one waits.
    #[must_use]
    pub fn try_next(&self) -> Option<Arc<Event>> {
        lock(&self.0.0).events.pop_front()
    }

    /// How many events were dropped because nobody took them.
    #[must_use]
    pub fn missed(&self) -> u64 {
        lock(&self.0.0).missed
    }
}

impl Stream for Subscription {
    type Item = Arc<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.0.0);
        match state.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if state.closed => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::super::{Body, Change, EventLog, Kind, Pin as Mark};
    use super::*;
    use crate::clock::Timestamp;

    fn say(log: &EventLog) {
        let body = Body::Pin(Mark::new(Change::Other));
        log.say(log.fresh_id(), 1.0, Kind::Ours, body);
        log.tell();
    }

    #[tokio::test]
    async fn a_listener_hears_what_is_said_after_it_came_and_the_end() {
        let log = EventLog::new("s", "i", Vec::new(), Timestamp::ZERO);
        say(&log);
        let mut events = log.subscribe();
        assert!(events.try_next().is_none());
        let waiting = tokio::spawn(async move { (events.next().await, events.next().await) });
        tokio::task::yield_now().await;
        say(&log);
        drop(log);
        let (first, end) = waiting.await.unwrap();
        assert_eq!(first.unwrap().kind, Kind::Ours);
        assert!(end.is_none());
    }

    #[test]
    fn a_listener_that_sleeps_misses_the_oldest() {
        let log = EventLog::new("s", "i", Vec::new(), Timestamp::ZERO);
        let events = log.subscribe();
        (0..WAITING + 3).for_each(|_| say(&log));
        assert_eq!(events.missed(), 3);
        assert_eq!(std::iter::from_fn(|| events.try_next()).count(), WAITING);
    }
}
