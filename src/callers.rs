//! The handle that users hold.

use std::sync::Arc;
use std::time::Duration;

use crate::admit::{Clamp, Mode, Quota, QuotaError};
use crate::builder::Builder;
use crate::clock::Timestamp;
use crate::detect::memory::StateError;
use crate::events::{Change, Event, PROGRAM, Pin, RELEASED, Subscription};
use crate::middleware::CallerLayer;
use crate::snapshot::Snapshot;
use crate::upkeep::Upkeep;
use crate::watch::Expectation;
use crate::watch::blame::{Blame, Window};
use crate::watch::changes;
use crate::watch::report::Report;

/// The callers of a service: one table, shared by every clone of this handle and of its layers.
///
/// A clone is a reference count. A thread named `callerid` keeps the metrics up to date until the last handle and
/// the last layer are gone.
#[derive(Clone, Debug)]
pub struct Callers {
    upkeep: Arc<Upkeep>,
    /// In whose name limits are changed.
    author: Arc<str>,
}

impl Callers {
    /// Starts with nothing; say at least who the callers are, with [`Builder::identify`].
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(upkeep: Arc<Upkeep>) -> Self {
        Self {
            upkeep,
            author: PROGRAM.into(),
        }
    }

    #[cfg(any(feature = "config", feature = "dashboard"))]
    pub(crate) fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    #[cfg(feature = "dashboard")]
    pub(crate) fn now(&self) -> Timestamp {
        self.upkeep.core.ticker.now()
    }

    /// The address of a request's peer, if the listener left it.
    #[cfg(feature = "dashboard")]
    pub(crate) fn peer(&self, extensions: &http::Extensions) -> Option<std::net::IpAddr> {
        self.upkeep.core.peer(extensions)
    }

    /// A layer that attributes requests to callers of this table. Layers may be made as often as needed: they
    /// share the table, and a request that passes two of them is counted once.
    #[must_use]
    pub fn layer(&self) -> CallerLayer {
        CallerLayer::new(Arc::clone(&self.upkeep))
    }

    /// What is known now. Takes well under a millisecond for a hundred callers; works without a metrics recorder
    /// and never waits for a flush.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.upkeep.core.ticker.now();
        self.upkeep.roll(now);
        let core = &self.upkeep.core;
        Snapshot::take(&core.registry, &core.admission, now)
    }

    /// Moves the switch, for the next request: [`Mode::Off`] is a bare pass-through.
    pub fn set_mode(&self, mode: Mode) {
        self.upkeep.core.admission.set_mode(mode);
        self.changed(None, &format!("mode = \"{mode}\""));
    }

    /// Where the switch is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.upkeep.core.admission.mode()
    }

    /// Holds a caller to a quota for a while, over all its routes, also where policies are in shadow or allow the caller:
    /// for an incident. It never loosens: quotas that are enforced stay in force beside it, and the smaller holds. It ends
    /// by itself, at the next tick after its time; what the caller has spent stays spent. The switch still caps it. The
    /// name is that of the snapshot, a claimed one included.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let callers = callerid::Callers::builder().identify(callerid::identify::header("x")).build()?;
    /// callers.clamp("checkout", "50/s", Duration::from_secs(30 * 60))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The quota is not a rate, or lets nothing through.
    pub fn clamp(&self, caller: &str, quota: &str, lasting: Duration) -> Result<(), QuotaError> {
        let quota: Quota = quota.parse()?;
        if quota.problem().is_some() {
            return Err(QuotaError::of(quota));
        }
        self.hold(caller, Some(quota), lasting);
        let change = format!("clamped to {quota} for {} s", lasting.as_secs());
        self.changed(Some(caller), &change);
        Ok(())
    }

    /// Refuses everything that a caller sends, for a while, whatever policies say; as [`Callers::clamp`] else.
    pub fn block(&self, caller: &str, lasting: Duration) {
        self.hold(caller, None, lasting);
        self.changed(
            Some(caller),
            &format!("blocked for {} s", lasting.as_secs()),
        );
    }

    fn hold(&self, caller: &str, quota: Option<Quota>, lasting: Duration) {
        let core = &self.upkeep.core;
        let now = core.ticker.now();
        let clamp = Clamp {
            name: caller.to_owned(),
            until: now + lasting,
            quota,
            author: Arc::clone(&self.author),
        };
        core.admission.clamp(clamp, now);
    }

    /// Ends a clamp or a block before its time, also a clamp that came by itself, which then leaves that caller alone
    /// for an hour. Says whether there was one.
    pub fn lift_clamp(&self, caller: &str) -> bool {
        let core = &self.upkeep.core;
        let now = core.ticker.now();
        let held = self.upkeep.watch.release(core, caller, now);
        let lifted = core.admission.lift_clamp(caller, now) || held;
        if lifted {
            self.changed(Some(caller), RELEASED);
        }
        lifted
    }

    /// The same handle, in the name of a person or program: every change of a limit is an event with its author.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let callers = callerid::Callers::builder().identify(callerid::identify::header("x")).build()?;
    /// callers.on_behalf_of("anna").clamp("checkout", "50/s", Duration::from_secs(30 * 60))?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn on_behalf_of(&self, author: &str) -> Self {
        Self {
            upkeep: Arc::clone(&self.upkeep),
            author: author.into(),
        }
    }

    /// What was said lately, oldest first: at most 1,000 events.
    #[must_use]
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.upkeep.watch.log.events()
    }

    /// Everything that is said from now on, as a stream that needs no runtime.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.upkeep.watch.log.subscribe()
    }

    /// The last word on every runaway and every state of the service that has not ended, oldest first.
    #[must_use]
    pub fn open_episodes(&self) -> Vec<Arc<Event>> {
        self.upkeep.watch.open()
    }

    /// Says that a caller has deployed a version, now: who knows of deploys tells, and what rises right after one
    /// is blamed on it. A version that a caller's requests carry is noticed without this.
    pub fn deployed(&self, caller: &str, version: &str) {
        self.pin(Pin::new(Change::Deploy).caller(caller).version(version));
    }

    /// Marks a change on the time line: a flag, a cache, a configuration, a deploy; a caller's or ours.
    pub fn pin(&self, mut pin: Pin) {
        pin.author = Some(Arc::clone(&self.author));
        let core = &self.upkeep.core;
        self.upkeep.watch.pin(core, pin, core.ticker.now());
        self.upkeep.watch.log.tell();
    }

    /// Who and what explains a change of requests, errors or requests in flight between two windows. See [`Blame`] for
    /// the arithmetic.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let callers = callerid::Callers::builder().identify(callerid::identify::header("x")).build()?;
    /// let blame = callers.blame(Duration::from_secs(60)); // the last minute against the ten before
    /// for culprit in blame.requests.culprits.iter().take(3) {
    ///     println!("{} {:?} {:?}", culprit.caller, culprit.share, culprit.route);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn blame(&self, window: impl Into<Window>) -> Blame {
        let upkeep = &self.upkeep;
        let now = upkeep.core.ticker.now();
        upkeep.roll(now);
        upkeep.watch.blame(&upkeep.core, window.into(), now)
    }

    /// The report of a runaway, for the post-mortem: Markdown and JSON. Of the last 32 runaways; `None` for any other
    /// id.
    #[must_use]
    pub fn report(&self, event_id: &str) -> Option<Report> {
        self.upkeep.roll(self.upkeep.core.ticker.now());
        self.upkeep.watch.report(&self.upkeep.core, event_id)
    }

    /// What was found, in a sentence: who, where, what, since which change, and what we changed ourselves. `None` for
    /// an event that is no finding.
    #[must_use]
    pub fn in_words(&self, event: &Event) -> Option<String> {
        let finding = event.finding()?;
        let ours = changes::ours(&self.events(), finding.since + changes::LATE);
        let now = self.upkeep.core.ticker.now().as_secs_f64();
        Some(crate::watch::words::in_words(finding, ours.as_ref(), now))
    }

    /// What detection has learned: every caller's past, as bytes to keep in a file over a restart. About 300 bytes per
    /// caller. Without it the first ten minutes only speak of what is harmful.
    #[must_use]
    pub fn export_state(&self) -> Vec<u8> {
        self.upkeep.watch.export(self.upkeep.core.ticker.now())
    }

    /// Takes over what was [exported](Self::export_state), best before the first request: a caller who was seen already
    /// keeps the past that it has.
    ///
    /// # Errors
    ///
    /// The bytes are damaged, of another version, or older than a week; then nothing has changed.
    pub fn restore(&self, state: &[u8]) -> Result<(), StateError> {
        let now = self.upkeep.core.ticker.now();
        self.upkeep.watch.restore(&self.upkeep.core, state, now)
    }

    /// Announces that a caller will send up to `factor` times its usual load for a while: what it does then is said,
    /// with [`Finding::expected`](crate::events::Finding::expected), and wakes nobody. Where it goes on when that is
    /// over, or becomes more, it is said again, and pages. A factor that is not finite announces nothing.
    pub fn expect(&self, caller: &str, factor: f64, lasting: Duration) {
        if !factor.is_finite() {
            return;
        }
        let until = self.upkeep.core.ticker.now() + lasting;
        self.upkeep.watch.expect(Expectation {
            caller: caller.to_owned(),
            factor,
            until,
            author: Arc::clone(&self.author),
        });
        let change = format!(
            "up to {factor} times the load expected for {} s",
            lasting.as_secs()
        );
        self.changed(Some(caller), &change);
    }

    /// Takes a runaway in hand: what is said of it from now on names who has, and wakes nobody else. Says whether
    /// a runaway of this id is open.
    pub fn ack(&self, event_id: &str) -> bool {
        let now = self.upkeep.core.ticker.now();
        let known = self.upkeep.watch.acknowledge(event_id, &self.author, now);
        self.upkeep.watch.log.tell();
        known
    }

    #[cfg(feature = "dashboard")]
    pub(crate) fn author(&self) -> &str {
        &self.author
    }

    /// Says that a limit was changed.
    fn changed(&self, caller: Option<&str>, change: &str) {
        let now = self.upkeep.core.ticker.now();
        self.upkeep.watch.policy(caller, change, &self.author, now);
        self.upkeep.watch.log.tell();
    }

    /// Brings the metrics recorder up to date, as the thread does with counters and gauges four times a second, with
    /// histograms once. Call it before a render of the metrics, so that a scrape sees what happened up to now.
    pub fn flush(&self) {
        self.upkeep.flush(self.upkeep.core.ticker.now());
    }

    /// Does what is due at `now`: the flush, and once a second rates, time series and the sweep of idle callers.
    /// The thread calls it; call it yourself only where the builder says [`Builder::manual_tick`].
    pub fn tick(&self, now: Timestamp) {
        self.upkeep.tick(now);
    }
}
