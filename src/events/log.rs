//! The log of events, bounded, and its listeners.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::subscription::{Queue, Subscription};
use super::{Body, Event, Kind};
use crate::clock::Timestamp;
use crate::lock::lock;

/// Events beyond this many are forgotten, oldest first.
const KEPT: usize = 1_000;

/// Code of the user's that hears every event.
pub(crate) type OnEvent = dyn Fn(&Event) + Send + Sync;

/// The log of events.
pub(crate) struct EventLog {
    pub(crate) service: Arc<str>,
    pub(crate) instance: Arc<str>,
    next: AtomicU64,
    #[cfg(feature = "dashboard")]
    began: Timestamp,
    events: Mutex<VecDeque<Arc<Event>>>,
    untold: Mutex<Untold>,
    queues: Mutex<Vec<Weak<Queue>>>,
    callbacks: Vec<Box<OnEvent>>,
    panicked: AtomicBool,
}

/// What listeners have not heard yet.
#[derive(Default)]
struct Untold {
    events: VecDeque<Arc<Event>>,
    /// Somebody tells them.
    telling: bool,
}

impl EventLog {
    /// Numbers begin with the time, so that an instance that comes back under its old name says nothing twice.
    pub(crate) fn new(
        service: &str,
        instance: &str,
        callbacks: Vec<Box<OnEvent>>,
        now: Timestamp,
    ) -> Self {
        Self {
            service: service.into(),
            instance: instance.into(),
            next: AtomicU64::new(now.as_secs()),
            #[cfg(feature = "dashboard")]
            began: now,
            events: Mutex::default(),
            untold: Mutex::default(),
            queues: Mutex::default(),
            callbacks,
            panicked: AtomicBool::new(false),
        }
    }

    /// An id that no event has yet.
    pub(crate) fn fresh_id(&self) -> Arc<str> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}/{}/{number}", self.service, self.instance).into()
    }

    /// Says something. It is in the log at once, and whoever listens hears of it with the next [`EventLog::tell`]: who
    /// says it may hold locks.
    pub(crate) fn say(&self, id: Arc<str>, t: f64, kind: Kind, body: Body) -> Arc<Event> {
        let event = self.note(id, t, kind, body);
        push(&mut lock(&self.untold).events, &event);
        event
    }

    /// Notes something that was perhaps said before: what is older than this log is no news.
    #[cfg(feature = "dashboard")]
    pub(crate) fn say_again(&self, id: Arc<str>, t: f64, kind: Kind, body: Body) {
        if t > self.began.as_secs_f64() {
            self.say(id, t, kind, body);
        } else {
            self.note(id, t, kind, body);
        }
    }

    fn note(&self, id: Arc<str>, t: f64, kind: Kind, body: Body) -> Arc<Event> {
        let event = Arc::new(Event {
            id,
            t,
            kind,
            service: Arc::clone(&self.service),
            instance: Arc::clone(&self.instance),
            body,
        });
        push(&mut lock(&self.events), &event);
        event
    }

    /// Tells whoever listens, and `tracing`, what was said. No lock may be held: a listener may ask anything of us.
    /// What is said meanwhile, by a listener too, is told by the thread that is at it, in order.
    pub(crate) fn tell(&self) {
        if std::mem::replace(&mut lock(&self.untold).telling, true) {
            return;
        }
        while let Some(event) = self.next_untold() {
            let told = catch_unwind(AssertUnwindSafe(|| self.tell_of(&event)));
            self.heard(told.is_ok());
        }
    }

    fn next_untold(&self) -> Option<Arc<Event>> {
        let mut untold = lock(&self.untold);
        let next = untold.events.pop_front();
        untold.telling = next.is_some();
        next
    }

    fn tell_of(&self, event: &Arc<Event>) {
        for queue in self.queues() {
            queue.push(Arc::clone(event));
        }
        for callback in &self.callbacks {
            self.heard(catch_unwind(AssertUnwindSafe(|| callback(event))).is_ok());
        }
        trace(event);
    }

    fn heard(&self, well: bool) {
        if !well && !self.panicked.swap(true, Ordering::Relaxed) {
            tracing::error!("callerid: a closure that hears events panicked (said once)");
        }
    }

    /// Those who still listen.
    fn queues(&self) -> Vec<Arc<Queue>> {
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.iter().filter_map(Weak::upgrade).collect()
    }

    /// What was said, oldest first.
    pub(crate) fn events(&self) -> Vec<Arc<Event>> {
        lock(&self.events).iter().cloned().collect()
    }

    /// Everything that is said from now on.
    pub(crate) fn subscribe(&self) -> Subscription {
        // What was said before is none of it.
        self.tell();
        let queue = Arc::new(Queue::default());
        lock(&self.queues).push(Arc::downgrade(&queue));
        Subscription::new(queue)
    }
}

impl Drop for EventLog {
    /// Whoever waits for the next event learns that there is none.
    fn drop(&mut self) {
        self.tell();
        for queue in self.queues() {
            queue.close();
        }
    }
}

/// Adds an event, and forgets the oldest beyond [`KEPT`].
fn push(events: &mut VecDeque<Arc<Event>>, event: &Arc<Event>) {
    if events.len() >= KEPT {
        events.pop_front();
    }
    events.push_back(Arc::clone(event));
}

/// A warning where somebody should look, a note else.
fn trace(event: &Event) {
    let kind = event.kind.as_str();
    let Some(finding) = event.finding() else {
        tracing::info!(target: "callerid::events", kind, id = &*event.id, caller = event.caller(), json = event.to_json(), "callerid: {kind}");
        return;
    };
    let caller = finding.caller.as_deref();
    let (signal, harm) = (
        finding.signal.map(super::Signal::as_str),
        finding.harm.as_str(),
    );
    let route = finding.route.as_deref();
    let class = finding.class.map(crate::outcome::Class::as_str);
    let (owner, contact) = (finding.owner.as_deref(), finding.contact.as_deref());
    let deploy = finding.deploy.as_ref().map(|deploy| &*deploy.version);
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                target: "callerid::events",
                kind, id = &*event.id, caller, owner, contact, signal, route, class, harm, deploy,
                factor = finding.factor, share_of_rise = finding.share_of_rise, since = finding.since,
                "callerid: {kind}"
            )
        };
    }
    match event.kind {
        Kind::RunawayStarted | Kind::RunawayUpdated | Kind::ServiceDegraded => say!(warn),
        _ => say!(info),
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("service", &self.service)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Change, Pin};

    fn log(callbacks: Vec<Box<OnEvent>>) -> EventLog {
        EventLog::new("s", "i", callbacks, Timestamp::from_secs(1_000))
    }

    fn say(log: &EventLog) -> Arc<Event> {
        let body = Body::Pin(Pin::new(Change::Other));
        let said = log.say(log.fresh_id(), 1.0, Kind::Ours, body);
        log.tell();
        said
    }

    #[test]
    fn the_log_is_bounded_and_ids_differ() {
        let log = log(Vec::new());
        for _ in 0..2 * KEPT {
            say(&log);
        }
        let events = log.events();
        assert_eq!(events.len(), KEPT);
        assert_eq!(
            &*events[KEPT - 1].id,
            format!("s/i/{}", 1_000 + 2 * KEPT - 1)
        );
    }

    #[test]
    fn a_listener_that_panics_keeps_nothing_from_the_others() {
        let heard = Arc::new(AtomicU64::new(0));
        let other = Arc::clone(&heard);
        let log = log(vec![
            Box::new(|_| std::panic::resume_unwind(Box::new(()))),
            Box::new(move |_| _ = other.fetch_add(1, Ordering::Relaxed)),
        ]);
        say(&log);
        say(&log);
        assert_eq!(heard.load(Ordering::Relaxed), 2);
        assert_eq!(log.events().len(), 2);
    }
}
