//! The handle that users hold.

use std::sync::Arc;
use std::time::Duration;

use crate::admit::{Mode, Quota, QuotaError};
use crate::builder::Builder;
use crate::clock::Timestamp;
use crate::middleware::CallerLayer;
use crate::snapshot::Snapshot;
use crate::upkeep::Upkeep;

/// The callers of a service: one table, shared by every clone of this handle and of its layers.
///
/// A clone is a reference count. A thread named `callerid` keeps the metrics up to date until the last handle and
/// the last layer are gone.
#[derive(Clone, Debug)]
pub struct Callers {
    upkeep: Arc<Upkeep>,
}

impl Callers {
    /// Starts with nothing; say at least who the callers are, with [`Builder::identify`].
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(upkeep: Arc<Upkeep>) -> Self {
        Self { upkeep }
    }

    #[cfg(feature = "config")]
    pub(crate) fn upkeep(&self) -> &Upkeep {
        &self.upkeep
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
        tracing::info!(%mode, "callerid: the switch was moved");
    }

    /// Where the switch is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.upkeep.core.admission.mode()
    }

    /// Holds a caller to a quota for a while, whatever policies say, and also where they are in shadow: for an
    /// incident. It ends by itself, at the next tick after its time; what the caller has spent stays spent. The
    /// switch still caps it. The name is that of the snapshot, a claimed one included.
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
        let core = &self.upkeep.core;
        let now = core.ticker.now();
        core.admission.clamp(caller, quota, now + lasting, now);
        tracing::warn!(caller, %quota, ?lasting, "callerid: a caller was clamped");
        Ok(())
    }

    /// Ends a clamp before its time. Says whether there was one.
    pub fn lift_clamp(&self, caller: &str) -> bool {
        let core = &self.upkeep.core;
        core.admission.lift_clamp(caller, core.ticker.now())
    }

    /// Brings the metrics recorder up to date, as the thread does four times a second. Call it before a render of
    /// the metrics, so that a scrape sees what happened up to now.
    pub fn flush(&self) {
        self.upkeep.flush(self.upkeep.core.ticker.now());
    }

    /// Does what is due at `now`: the flush, and once a second rates, time series and the sweep of idle callers.
    /// The thread calls it; call it yourself only where the builder says [`Builder::manual_tick`].
    pub fn tick(&self, now: Timestamp) {
        self.upkeep.tick(now);
    }
}
